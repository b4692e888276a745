"""A provider's failure as one of our errors: pure functions of status, code and headers, the same for every provider.

Which of them a retry can help, what has to pause, and whether the call may be billed is said in one table, `_RULES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from orchestrator.contracts.policy import Value
from orchestrator.errors import Billed, ModelError, ModelRateLimited, ModelRefused, ModelUnavailable, Pause
from worker.llm.announced import retry_after_seconds

#: What went wrong, the same words for every provider.
Reason = Literal[
    "connection", "timeout", "cut_off", "unreadable", "conflict", "overloaded", "server",
    "rate", "slow_down", "money", "key", "forbidden", "model", "context", "filtered", "request",
]  # fmt: skip


class _Rule(NamedTuple):
    kind: type[ModelError]
    pause: Pause = "none"
    billed: Billed = "no"
    advice: str = ""


_SHORTEN = "shorten the input, or choose a model with a larger context"
_RULES: dict[Reason, _Rule] = {
    # A connection that never came about is billed by nobody: see `unreachable`.
    "connection": _Rule(ModelUnavailable, billed="unknown"),
    "timeout": _Rule(ModelUnavailable, billed="unknown"),
    "cut_off": _Rule(ModelUnavailable, billed="unknown"),
    "unreadable": _Rule(ModelUnavailable, billed="unknown"),
    "conflict": _Rule(ModelUnavailable),
    "overloaded": _Rule(ModelUnavailable, pause="bucket"),
    # Also what stands between us and the provider may say so, after the provider has answered.
    "server": _Rule(ModelUnavailable, billed="unknown"),
    "rate": _Rule(ModelRateLimited, pause="bucket"),
    "slow_down": _Rule(ModelRateLimited, pause="bucket"),
    "money": _Rule(
        ModelRefused, pause="job", advice="the account's credit or spending limit is used up: raise it at the provider"
    ),
    "key": _Rule(ModelRefused, pause="credential", advice="check {key}"),
    "forbidden": _Rule(ModelRefused, pause="credential", advice="this key may not use it"),
    "model": _Rule(ModelRefused, advice="check the model's name, and whether this key may use it"),
    "context": _Rule(ModelRefused, advice=_SHORTEN),
    "filtered": _Rule(ModelRefused, advice="a filter of the provider declines this input"),
    "request": _Rule(ModelRefused),
}

#: What a code says, whatever the status is. The account being empty, or at a limit that somebody set, comes mostly as a 429.
_REASONS: Mapping[str, Reason] = {
    "billing_error": "money",
    "billing_hard_limit_reached": "money",
    "billing_not_active": "money",
    "contract_spend_limit_reached": "money",
    "credit_balance_exhausted": "money",
    "enforced_spend_limit_reached": "money",
    "insufficient_quota": "money",
    "linked_organization_spend_limit_reached": "money",
    "organization_spend_limit_exceeded": "money",
    "organization_usage_limit_exceeded": "money",
    "project_spend_limit_exceeded": "money",
    "context_length_exceeded": "context",
    "request_too_large": "context",
    "string_above_max_length": "context",
    "content_filter": "filtered",
    "content_policy_violation": "filtered",
    "model_not_found": "model",
    "slow_down": "slow_down",
}
#: ... and those that say something only where the status does not.
_REASONS_INSIDE: Mapping[str, Reason] = {
    "api_error": "server",
    "authentication_error": "key",
    "invalid_api_key": "key",
    "not_found_error": "model",
    "overloaded_error": "overloaded",
    "permission_error": "forbidden",
    "rate_limit_error": "rate",
    "rate_limit_exceeded": "rate",
    "server_error": "server",
    "server_is_overloaded": "overloaded",
    "timeout_error": "timeout",
    "vector_store_timeout": "server",
}
#: What only the words of a bad request tell.
_PHRASES: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile(r"credit balance is too low|reached your specified (?:\w+ )*usage limits?", re.IGNORECASE), "money"),
    (re.compile(r"prompt is too long|context (?:length|window|limit)", re.IGNORECASE), "context"),
)
_BY_STATUS: Mapping[int, Reason] = {
    401: "key", 402: "money", 403: "forbidden", 404: "model", 408: "timeout", 409: "conflict", 413: "context",
    429: "rate", 529: "overloaded",
}  # fmt: skip
#: Said by the provider itself before it has answered; any other from 500 on may come from what is in between.
_NOT_BILLED = frozenset({500, 503, 529})

_KEY_SHAPE = re.compile(r"\bsk-[\w*.-]{4,}")
_LONGEST_MESSAGE = 1000


class Failure(Value):
    """What a provider said instead of an answer; `codes` are its words for it, the most exact first.

    `begun` says that part of an answer had come before. `key_variable` is where the key comes from.
    """

    provider: str
    model: str
    status: int
    codes: tuple[str, ...] = ()
    message: str = ""
    request_id: str | None = None
    headers: Mapping[str, str] = {}
    begun: bool = False
    key_variable: str = "the key"


def model_error(failure: Failure, *, now: datetime, key: str, hint: str = "") -> ModelError:
    """Classify a failure; `key` is kept out of the message, even where the provider repeats it."""
    reason = reason_of(failure)
    rule = _RULES[reason]
    said = scrub(failure.message, key).strip()[:_LONGEST_MESSAGE] or f"HTTP status {failure.status}"
    advice = hint or rule.advice.format(key=failure.key_variable)
    details: dict[str, Any] = {"provider": failure.provider, "model": failure.model, "status": failure.status}
    if failure.codes:
        details["provider_code"] = failure.codes[0]
    if failure.request_id:
        details["request_id"] = failure.request_id
    slow = reason == "slow_down" and failure.status >= 500
    kind = ModelUnavailable if slow else rule.kind
    return kind(
        f"{failure.provider}:{failure.model}: {said}" + (f" ({advice})" if advice else ""),
        retry_after=retry_after_seconds(failure.headers, now=now) if kind.retryable else None,
        details={**details, "reason": reason, "pause": rule.pause, "billed": _billed(failure, rule)},
    )


def reason_of(failure: Failure) -> Reason:
    """Give what went wrong: a code says it best, then the status, then a code of an error inside a reply."""
    said = _said(failure, _REASONS)
    if said is None and failure.status < 300:
        said = _said(failure, _REASONS_INSIDE) or "request"
    return said or _by_status(failure)


def unreachable(
    provider: str, address: str, cause: BaseException | None, *, key: str, sent: bool = True
) -> ModelUnavailable:
    """Make the error for a provider that did not answer: no connection, or none that held once the request was `sent`."""
    reason = scrub(str(cause), key) if cause is not None and str(cause) else "the connection failed"
    return ModelUnavailable(
        f"{provider} cannot be reached at {address}: {reason} (check the network and the address)",
        details=_details("connection", provider, billed="unknown" if sent else "no"),
    )


def timed_out(provider: str, model: str, timeout_seconds: float) -> ModelUnavailable:
    """Make the error for a provider that was silent for too long; whether it has billed the call is not known."""
    return ModelUnavailable(
        f"{provider}:{model}: no answer within {timeout_seconds:g} s", details=_details("timeout", provider, model)
    )


def stalled(provider: str, model: str, timeout_seconds: float, *, request_id: str | None) -> ModelUnavailable:
    """Make the error for a stream that goes on, but not with the answer."""
    return ModelUnavailable(
        f"{provider}:{model}: nothing more of the answer within {timeout_seconds:g} s",
        details=_details("timeout", provider, model, request_id=request_id),
    )


def unreadable(provider: str, model: str, *, request_id: str | None) -> ModelUnavailable:
    """Make the error for an answer that is not what the provider's API promises."""
    return ModelUnavailable(
        f"{provider}:{model}: the answer is not what this API promises; a proxy in between, or a server that is not "
        "compatible (check the address)?",
        details=_details("unreadable", provider, model, request_id=request_id),
    )


def cut_off(provider: str, model: str, *, request_id: str | None) -> ModelUnavailable:
    """Make the error for a stream that has ended before the answer has."""
    return ModelUnavailable(
        f"{provider}:{model}: the stream has ended before the answer has",
        details=_details("cut_off", provider, model, request_id=request_id),
    )


def scrub(text: str, key: str) -> str:
    """Give `text` without the key, and without what looks like a part of one."""
    return _KEY_SHAPE.sub("[key]", text.replace(key, "[key]") if key else text)


def _said(failure: Failure, reasons: Mapping[str, Reason]) -> Reason | None:
    return next((reasons[code] for code in failure.codes if code in reasons), None)


def _by_status(failure: Failure) -> Reason:
    if failure.status == 429 and "acceleration" in failure.message.lower():
        return "slow_down"
    if failure.status in _BY_STATUS:
        return _BY_STATUS[failure.status]
    if failure.status >= 500:
        return "overloaded" if "server_is_overloaded" in failure.codes else "server"
    for phrase, reason in _PHRASES:
        if phrase.search(failure.message):
            return reason
    return "request"


def _billed(failure: Failure, rule: _Rule) -> Billed:
    if failure.begun:
        return "unknown"
    return "no" if failure.status in _NOT_BILLED else rule.billed


def _details(
    reason: Reason,
    provider: str,
    model: str | None = None,
    *,
    request_id: str | None = None,
    billed: Billed | None = None,
) -> dict[str, Any]:
    rule = _RULES[reason]
    known = {"provider": provider, "model": model, "request_id": request_id}
    given = {name: value for name, value in known.items() if value is not None}
    return {**given, "reason": reason, "pause": rule.pause, "billed": billed or rule.billed}
