"""Requests to hosts that an operator has configured: bounded in time and size, and never led to another host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import PluginInvalid, ToolError
from worker.tools.servers.auth import Auth
from worker.tools.servers.authmanager import AuthManager, Authorization

_REDIRECTS = 5
_SAFE = frozenset({"GET", "HEAD"})
_UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; `what` names it in errors. Within `seconds` everything is over, and an answer has `most_bytes` at most."""

    what: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    query: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    auth: Auth | None = None
    seconds: float = 30.0
    most_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server has answered, whatever its status."""

    status: int
    reason: str
    media_type: str
    charset: str
    content: bytes

    @property
    def text(self) -> str:
        """The content as text."""
        try:
            return self.content.decode(self.charset, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")


class Http:
    """Sends requests; belongs to one event loop. It keeps no cookies: services and agents have nothing of each other."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.auth = AuthManager(env, self._post)
        self._client: Any = None

    async def send(self, ask: Ask) -> Answer:
        """Give the answer; one that a token was refused with is asked for once more with a new one. Raises `ToolError`."""
        async with _within(ask, self.auth):
            authorization = await self.auth.authorization(ask.auth)
            answer = await self._followed(ask, authorization)
            if answer.status == _UNAUTHORIZED and authorization.token is not None:
                authorization = await self.auth.authorization(ask.auth, refused=authorization)
                answer = await self._followed(ask, authorization)
            return answer

    async def aclose(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _followed(self, ask: Ask, authorization: Authorization) -> Answer:
        """Follow redirects of a request that changes nothing, within its own origin."""
        client = self.client()
        url = client.build_request("GET", ask.url).url
        query = [*ask.query, *authorization.query.items()]
        for _ in range(_REDIRECTS + 1):
            target = url.copy_merge_params(query) if query else url
            answer, location = await self._sent(ask, target, authorization)
            if location is None:
                return answer
            onward = url.join(location)
            if ask.method not in _SAFE or _origin(onward) != _origin(url):
                raise ToolError(
                    f"{ask.what}: {url.host} redirects to {onward.host or 'nowhere'}, which is not followed: requests go to "
                    "the host that is configured, and only those that change nothing are sent again"
                )
            url, query = onward, list(authorization.query.items())
        raise ToolError(f"{ask.what}: more than {_REDIRECTS} redirects")

    async def _sent(self, ask: Ask, url: Any, authorization: Authorization) -> tuple[Answer, str | None]:
        headers = {**ask.headers, **authorization.headers}
        client = self.client()
        request = client.build_request(ask.method, url, headers=headers, content=ask.content)
        response = await client.send(request, stream=True)
        try:
            if response.is_redirect:
                return Answer(response.status_code, "", "", "utf-8", b""), response.headers["Location"]
            return await _read(ask, response), None
        finally:
            await response.aclose()

    async def _post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Ask a token endpoint; it is followed nowhere."""
        import httpx2

        content = str(httpx2.QueryParams(dict(form))).encode()
        given = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", **headers}
        ask = Ask("the request for a token", "POST", url, given, content=content)
        answer = await self._followed(ask, Authorization())
        return answer.status, answer.content

    def client(self) -> Any:
        """Give the client of this process."""
        if self._client is None:
            self._client = new_client()
        return self._client


def new_client(**options: Any) -> Any:
    """Make a client that keeps no cookies and follows nobody."""
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    try:
        import httpx2
    except ImportError:
        raise PluginInvalid(
            "tools of servers need httpx2, which the extra `worker` brings: pip install 'nightfleet[worker]'"
        ) from None
    nothing = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    as_it_is = {"Accept-Encoding": "identity"}
    return httpx2.AsyncClient(
        headers=as_it_is, cookies=nothing, follow_redirects=False, timeout=httpx2.Timeout(None), **options
    )


@asynccontextmanager
async def _within(ask: Ask, auth: AuthManager) -> AsyncGenerator[None]:
    """Bound the time of what is done inside, and tell what goes wrong with it without secrets."""
    import httpx2

    limit = asyncio.timeout(ask.seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        known = "" if ask.method in _SAFE else "; whether it has done its work is not known"
        raise ToolError(f"{ask.what}: no answer within {ask.seconds:g} s{known}", retryable=True) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        told = auth.masked(f"{type(error).__name__}: {error}")
        raise ToolError(f"{ask.what}: the server cannot be asked: {told}", retryable=True) from None


async def _read(ask: Ask, response: Any) -> Answer:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # A few bytes of it may be gigabytes: it was asked for as it is.
        raise ToolError(f"{ask.what}: the answer is compressed ({encoding[:20]}), though it was asked for as it is")
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > ask.most_bytes:
            raise ToolError(f"{ask.what}: the answer has more than {ask.most_bytes:,} bytes: ask for less")
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return Answer(
        response.status_code, response.reason_phrase, media_type, response.charset_encoding or "utf-8", bytes(content)
    )


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
