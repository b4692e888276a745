"""What can go wrong with a model call, as data, and as each provider says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field

from orchestrator.contracts.policy import Value
from worker.emulator.asked import Asked, Body

Kind = Literal[
    "ok",
    "auth",
    "bad_request",
    "conflict",
    "context",
    "disconnect",
    "failed",
    "filtered",
    "malformed",
    "not_found",
    "overloaded",
    "payment",
    "permission",
    "quota",
    "rate_limit",
    "refusal",
    "server_error",
    "slow_down",
    "stall",
    "timeout",
    "too_large",
    "truncated",
    "unavailable",
    "unprocessable",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: A model of this name and a kind (`fault-quota`) always fails so.
MODEL_PREFIX = "fault-"
#: A request with this header and a kind fails so.
HEADER = "x-emulator-fault"


class Fault(Value):
    """How one reply goes wrong; `ok` is a reply that does not.

    `after` is for streams: so many pieces of the answer come before it goes wrong. `retry_after` and `headers` go out
    as headers with an error. `status`, `code` (OpenAI's `code`, Anthropic's `error_code`) and `message` replace those of
    the kind. `seconds` is how long `stall` stays silent before it answers after all.
    """

    kind: Kind
    after: int = Field(default=0, ge=0)
    retry_after: str | float | None = None
    seconds: float = Field(default=30.0, ge=0)
    headers: Mapping[str, str] = {}
    status: int | None = Field(default=None, ge=400, le=599)
    code: str | None = None
    message: str | None = None

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers that go with the error."""
        return {**self.headers, **({} if self.retry_after is None else {"retry-after": str(self.retry_after)})}

    @property
    def is_error(self) -> bool:
        """Whether the provider says that something is wrong; the other kinds leave it to the client to notice."""
        return self.kind in _ERRORS


OK = Fault(kind="ok")

#: Status, and what OpenAI (`code`) and Anthropic (`type`, `error_code`) call it.
_ERRORS: dict[Kind, tuple[int, str | None, str, str | None]] = {
    "auth": (401, "invalid_api_key", "authentication_error", None),
    "bad_request": (400, "invalid_value", "invalid_request_error", None),
    "conflict": (409, "conflict", "conflict_error", None),
    "context": (400, "context_length_exceeded", "invalid_request_error", None),
    "not_found": (404, "model_not_found", "not_found_error", None),
    "overloaded": (529, "server_is_overloaded", "overloaded_error", None),
    "payment": (402, "billing_not_active", "billing_error", None),
    "permission": (403, "unsupported_country_region_territory", "permission_error", None),
    "quota": (429, "insufficient_quota", "rate_limit_error", "enforced_spend_limit_reached"),
    "rate_limit": (429, "rate_limit_exceeded", "rate_limit_error", None),
    "server_error": (500, "server_error", "api_error", None),
    "slow_down": (429, "slow_down", "rate_limit_error", None),
    "timeout": (408, "timeout", "timeout_error", None),
    "too_large": (413, "string_above_max_length", "request_too_large", None),
    "unavailable": (503, "server_is_overloaded", "api_error", None),
    "unprocessable": (422, "invalid_value", "invalid_request_error", None),
}
_MESSAGES: dict[Kind, str] = {
    # A provider that repeats the key is what a client must be able to take.
    "auth": "Incorrect API key provided: {key}.",
    "context": "prompt is too long: this model's maximum context length is 100 tokens.",
    "quota": "You exceeded your current quota, please check your plan and billing details.",
    "rate_limit": "Rate limit reached for {model}.",
    "overloaded": "Overloaded",
}


class Failure(Value):
    """What a provider says of an error: its status, OpenAI's code and type, Anthropic's type and code, and the words."""

    status: int
    code: str | None
    openai_type: str
    anthropic_type: str
    error_code: str | None = None
    message: str

    def body(self, asked: Asked, request_id: str) -> Body:
        """Give the body of the error, which in a stream is the data of its last event."""
        if asked.provider == "anthropic":
            details = {"details": {"error_code": self.error_code}} if self.error_code else {}
            error = {"type": self.anthropic_type, "message": self.message, **details}
            return {"type": "error", "error": error, "request_id": request_id}
        return {"error": {"message": self.message, "type": self.openai_type, "param": None, "code": self.code}}


def to_fault(value: str | dict[str, Any] | Fault) -> Fault:
    """Read a fault from a kind (`stall`, or `stall@3` for one after three pieces), or from the fields of `Fault`."""
    if isinstance(value, str):
        kind, at, after = value.partition("@")
        return Fault.model_validate({"kind": kind, "after": after if at else 0})
    return Fault.model_validate(value)


def choose(scripted: Fault | None, headers: Mapping[str, str], model: str) -> Fault:
    """Choose the fault of a request: the script's, else the header's, else the model's, else none."""
    if scripted is not None:
        return scripted
    if HEADER in headers:
        return to_fault(headers[HEADER])
    return to_fault(model.removeprefix(MODEL_PREFIX)) if model.startswith(MODEL_PREFIX) else OK


def failure_of(fault: Fault, asked: Asked) -> Failure:
    """Give what the provider says of a fault that is an error."""
    status, code, kind, error_code = _ERRORS[fault.kind]
    message = fault.message or _MESSAGES.get(fault.kind, f"The emulator was told to reply with {fault.kind}.")
    return Failure(
        status=fault.status or status,
        code=fault.code or code,
        openai_type=_openai_type(fault, status),
        anthropic_type=kind,
        error_code=fault.code or error_code,
        message=message.replace("{key}", asked.key).replace("{model}", asked.model),
    )


def _openai_type(fault: Fault, status: int) -> str:
    if fault.kind == "quota":
        return "insufficient_quota"
    if status == 429:
        return "requests"
    return "server_error" if status >= 500 else "invalid_request_error"
