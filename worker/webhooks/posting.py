"""One request of a webhook: to an address that is fit, ended in time, and never followed elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from orchestrator.errors import AgentError, PermissionDenied, ToolError
from worker.tools.addresses import Resolve
from worker.tools.dialing import Deadline, Dialer, resolve
from worker.tools.environment import filled, variables_of, without

#: What is kept of an answer, for people.
_MOST_SHOWN = 300
_CURE = "an endpoint of your own network is added with --private"


class NotSent(Exception):
    """No answer has come; the message says why, and nothing secret."""


@dataclass(frozen=True, slots=True)
class Post:
    """What is sent where. `url` may hold `${NAME}` of the environment."""

    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    seconds: float
    private: bool
    #: Gives the addresses of a host and port; by default the system does.
    resolve: Resolve | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the beginning of the body for people, and how long the receiver wants to be left alone, in seconds."""

    status: int
    shown: str = ""
    retry_after: float | None = None


def post(given: Post) -> Reply:
    """Send a request and give its answer, whatever its status; raises `NotSent`."""
    import httpcore2
    import httpx2

    from worker.tools.exchange import ssl_context

    secrets = _values_of(given.url)
    try:
        url = httpx2.URL(filled(given.url, what="the address of the endpoint"))
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    except AgentError as error:
        raise NotSent(error.message) from None
    except (httpx2.InvalidURL, ValueError):
        raise NotSent("the address is none, with the values of its variables") from None
    deadline = Deadline.after(given.seconds)
    dialer: Any = Dialer(given.resolve or resolve, deadline, private=given.private, cure=_CURE)
    headers = [*given.headers.items(), ("host", url.netloc.decode()), ("content-length", str(len(given.body)))]
    raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
    try:
        with (
            httpcore2.ConnectionPool(ssl_context(), network_backend=dialer) as pool,
            pool.stream("POST", target, headers=raw, content=given.body) as response,
        ):
            return _reply(response, secrets)
    except httpcore2.TimeoutException:
        raise NotSent(f"no answer within {given.seconds:g} s") from None
    except httpcore2.ProtocolError:
        raise NotSent("it does not speak HTTP as it should") from None
    except httpcore2.NetworkError as error:
        raise NotSent(without(f"it cannot be reached: {error}", secrets)) from None
    except (PermissionDenied, ToolError) as error:
        raise NotSent(without(error.message, secrets)) from None


def _reply(response: Any, secrets: Mapping[str, str]) -> Reply:
    told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    status = int(response.status)
    retry_after = seconds_of(told.get("retry-after"), told.get("date"))
    if 200 <= status < 300:
        return Reply(status, retry_after=retry_after)
    if 300 <= status < 400:
        return Reply(status, "redirects are not followed: give the endpoint the new address", retry_after)
    packed = told.get("content-encoding", "identity").lower() != "identity"
    return Reply(status, "" if packed else without(_beginning(response), secrets), retry_after)


def _beginning(response: Any) -> str:
    """Give the beginning of a body as one line; one that breaks off, or takes too long, is as long as it is."""
    import httpcore2

    body = b""
    try:
        for chunk in response.iter_stream():
            body += chunk[: _MOST_SHOWN * 4]
            if len(body) >= _MOST_SHOWN * 4:
                break
    except (httpcore2.TimeoutException, httpcore2.ProtocolError, httpcore2.NetworkError):
        pass
    text = "".join(each if each.isprintable() else " " for each in body.decode("utf-8", "replace"))
    return " ".join(text.split())[:_MOST_SHOWN]


def seconds_of(retry_after: str | None, date: str | None) -> float | None:
    """Give what `Retry-After` asks for: seconds, or a time by the receiver's own clock, which `date` tells."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    until, now = _moment(text), _moment(date or "")
    return None if until is None or now is None else max(0.0, (until - now).total_seconds())


def _moment(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _values_of(text: str) -> dict[str, str]:
    return {name: os.environ.get(name, "").strip() for name in variables_of((text,))}
