"""What can go wrong with a model call, as data, and as each provider says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field

from orchestrator.contracts.policy import Value

API = Literal["responses", "chat", "messages"]
Kind = Literal[
    "ok",
    "auth",
    "bad_request",
    "conflict",
    "context",
    "disconnect",
    "failed",
    "malformed",
    "not_found",
    "overloaded",
    "quota",
    "rate_limit",
    "refusal",
    "server_error",
    "stall",
    "timeout",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: A model of this name and a kind (`fault-quota`) always fails so.
MODEL_PREFIX = "fault-"
#: A request with this header and a kind fails so.
HEADER = "x-emulator-fault"


class Fault(Value):
    """How one reply goes wrong; `ok` is a reply that does not.

    `retry_after` and `headers` go out as headers with an error. `seconds` is how long `stall` stays silent before it
    answers after all.
    """

    kind: Kind
    retry_after: str | float | None = None
    seconds: float = Field(default=30.0, ge=0)
    headers: Mapping[str, str] = {}

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers that go with the error."""
        return {**self.headers, **({} if self.retry_after is None else {"retry-after": str(self.retry_after)})}


OK = Fault(kind="ok")

#: Status, and what OpenAI (`code`) and Anthropic (`type`, `error_code`) call it.
_ERRORS: dict[Kind, tuple[int, str, str, str | None]] = {
    "auth": (401, "invalid_api_key", "authentication_error", None),
    "bad_request": (400, "invalid_value", "invalid_request_error", None),
    "conflict": (409, "conflict", "conflict_error", None),
    "context": (400, "context_length_exceeded", "invalid_request_error", None),
    "not_found": (404, "model_not_found", "not_found_error", None),
    "overloaded": (529, "server_is_overloaded", "overloaded_error", None),
    "quota": (429, "insufficient_quota", "rate_limit_error", "enforced_spend_limit_reached"),
    "rate_limit": (429, "rate_limit_exceeded", "rate_limit_error", None),
    "server_error": (500, "server_error", "api_error", None),
    "timeout": (408, "timeout", "timeout_error", None),
}
_MESSAGES: dict[Kind, str] = {
    # A provider that repeats the key is what a client must be able to take.
    "auth": "Incorrect API key provided: {key}.",
    "context": "prompt is too long: this model's maximum context length is 100 tokens.",
    "quota": "You exceeded your current quota, please check your plan and billing details.",
    "rate_limit": "Rate limit reached for {model}.",
    "overloaded": "Overloaded",
}


def to_fault(value: str | dict[str, Any] | Fault) -> Fault:
    """Read a fault from a kind, or from an object with the fields of `Fault`."""
    return Fault.model_validate({"kind": value} if isinstance(value, str) else value)


def choose(scripted: Fault | None, headers: dict[str, str], model: str) -> Fault:
    """Choose the fault of a request: the script's, else the header's, else the model's, else none."""
    if scripted is not None:
        return scripted
    if HEADER in headers:
        return to_fault(headers[HEADER])
    return to_fault(model.removeprefix(MODEL_PREFIX)) if model.startswith(MODEL_PREFIX) else OK


def error_of(fault: Fault, api: API, *, model: str, key: str, request_id: str) -> tuple[int, dict[str, Any]] | None:
    """Give status and body of an error reply, or None for a fault that is none (`refusal`, `stall`, ...)."""
    if fault.kind not in _ERRORS:
        return None
    status, openai_code, anthropic_type, anthropic_code = _ERRORS[fault.kind]
    message = _MESSAGES.get(fault.kind, f"The emulator was told to reply with {fault.kind}.")
    message = message.format(key=key, model=model)
    if api == "messages":
        details = {"details": {"error_code": anthropic_code}} if anthropic_code else {}
        error = {"type": anthropic_type, "message": message, **details}
        return status, {"type": "error", "error": error, "request_id": request_id}
    return status, {"error": {"message": message, "type": "emulated", "param": None, "code": openai_code}}


def to_script(values: Sequence[str | dict[str, Any] | Fault]) -> tuple[Fault, ...]:
    """Read the faults of the next replies, first come first."""
    return tuple(to_fault(value) for value in values)
