"""Webhooks: which events there are, who is told of them, and what came of telling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from orchestrator.contracts.policy import Positive, Value


class EventType(StrEnum):
    """What endpoints are told of."""

    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    QUESTION_ASKED = "question.asked"
    BATCH_FINISHED = "batch.finished"
    BATCH_STOPPED = "batch.stopped"
    TEST = "webhook.test"


class DeliveryState(StrEnum):
    """Where a delivery is: `open` ones are sent until they arrive, `dead` ones are sent no more."""

    OPEN = "open"
    DELIVERED = "delivered"
    DEAD = "dead"


#: The events that one can ask for; a test is sent to whom it is meant for.
EVENTS: tuple[EventType, ...] = tuple(each for each in EventType if each is not EventType.TEST)

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
#: Settings are checked against those that there are, so no secret can have a name of theirs.
_OURS = "NIGHTFLEET_"

SecretName = Annotated[str, Field(description="The name of an environment variable, not what is in it.")]


class WebhookEndpoint(Value):
    """Who is told of what. `events` may hold patterns such as `run.*`; `project` None means all projects.

    `url` may hold `${NAME}` of the environment, and so may be secret itself. `secrets` are the names of environment variables
    with the keys that requests are signed with: several while one replaces another. Private addresses, and http://, are for
    endpoints that say that they are `private`. With `content` events carry what runs give and what errors say as well.
    """

    name: str
    url: str = Field(min_length=1, max_length=2000)
    events: tuple[str, ...] = Field(default=("run.*",), validate_default=True)
    project: str | None = Field(default=None, min_length=1)
    secrets: tuple[SecretName, ...] = Field(min_length=1, max_length=4)
    content: bool = False
    private: bool = False
    timeout: Positive = Field(default=timedelta(seconds=15), le=timedelta(seconds=60))
    #: Requests in flight at a time, from the whole fleet.
    concurrency: int = Field(default=4, ge=1, le=100)

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        return checked_name(value)

    @field_validator("events")
    @classmethod
    def _expanded(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return expanded(value)

    @field_validator("secrets")
    @classmethod
    def _variables(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_secrets(value)

    @model_validator(mode="after")
    def _fit(self) -> WebhookEndpoint:
        check_url(self.url, private=self.private)
        return self


def checked_name(value: str) -> str:
    """Give a name as it is; raises `ValueError` for what is none."""
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: small letters, digits, - and _, a letter first, at most 63")
    return value


def checked_secrets(names: tuple[str, ...]) -> tuple[str, ...]:
    """Give the names of variables as they are; raises `ValueError` for a key itself, which is not repeated, and other misuse."""
    for name in names:
        # Somebody may have given the key in place of the variable that holds it.
        if not _VARIABLE.fullmatch(name) or name.startswith("whsec_"):
            raise ValueError(
                "secrets are named by the environment variables that hold them, and never given themselves"
            )
        if name.upper().startswith(_OURS):
            raise ValueError(
                f"{name}: names that begin with {_OURS} are settings; call the variable of a secret otherwise"
            )
    return tuple(dict.fromkeys(names))


def check_url(url: str, *, private: bool) -> None:
    """Raise `ValueError` for an address that cannot be told anything."""
    try:
        parts = urlsplit(url)
        named = parts.hostname
    except ValueError:
        parts, named = None, None
    if parts is None or parts.scheme not in {"http", "https"} or not named or any(map(str.isspace, url)):
        raise ValueError("the address begins with https:// and names a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "an address with a user or a password is not kept: put ${NAME} of the environment into its path, or check the "
            "signature"
        )
    if parts.scheme == "http" and not private:
        raise ValueError("http:// can be read on its way: use https://, or say that the endpoint is private")


def expanded(patterns: Iterable[str]) -> tuple[str, ...]:
    """Give the types of events that some patterns mean, in one order; raises `ValueError` for one that means none."""
    found: set[EventType] = set()
    for pattern in patterns:
        prefix = pattern.removesuffix("*")
        meant = {each for each in EVENTS if each == pattern or (prefix != pattern and each.startswith(prefix))}
        if not meant or (prefix != pattern and prefix and not prefix.endswith(".")):
            raise ValueError(f"{pattern!r} is no event: there are {', '.join(EVENTS)}, run.*, batch.* and *")
        found |= meant
    if not found:
        raise ValueError(f"say which events are wanted: {', '.join(EVENTS)}")
    return tuple(str(each) for each in EVENTS if each in found)


class WebhookSummary(Value):
    """An endpoint and how it does: `open` and `dead` count deliveries, up to 10,000 of each.

    `failures` counts requests that failed since the last one that arrived. `note` says why it is switched off.
    """

    schema_version: Literal[1] = 1
    name: str
    project: str | None
    url: str
    events: tuple[str, ...]
    secrets: tuple[str, ...]
    content: bool
    private: bool
    timeout_seconds: float
    concurrency: int
    active: bool
    note: str | None
    failures: int
    paused_until: datetime | None
    open: int
    dead: int
    created_at: datetime


class WebhookTry(Value):
    """One request: `status` None if there was no answer, whose reason is the `error` then."""

    at: datetime
    status: int | None
    milliseconds: int
    error: str | None
    worker: str | None = None


class WebhookDelivery(Value):
    """An event for an endpoint, and what came of telling it. `id` is the `webhook-id` of each of its requests.

    `sequence` orders events: of two of one run, the later one has the greater number. `attempts` counts requests since it was
    made or redelivered; `tries` are the last of them. `next_at` is when it is sent again at the earliest; None once it is not.
    """

    schema_version: Literal[1] = 1
    id: str
    sequence: int
    endpoint: str
    type: str
    run_id: str | None
    state: DeliveryState
    attempts: int
    next_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    tries: tuple[WebhookTry, ...]
    #: What is sent; None before the first request.
    body: Any = None


class Redelivered(Value):
    """How many deliveries are sent again."""

    count: int


class WebhookRemoved(Value):
    """An endpoint that is no more, and how many deliveries went with it."""

    name: str
    deliveries: int
