"""A provider's failure as one of our errors: pure functions of status, code and headers, the same for every provider.

Which of them a retry can help, and when, is decided here and nowhere else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from orchestrator.contracts.policy import Value
from orchestrator.errors import ModelError, ModelRateLimited, ModelRefused, ModelUnavailable

#: The account is empty or at a limit that somebody set: waiting does not help, although most come as a 429.
_MONEY_CODES = frozenset({
    "billing_error",
    "billing_hard_limit_reached",
    "billing_not_active",
    "contract_spend_limit_reached",
    "credit_balance_exhausted",
    "enforced_spend_limit_reached",
    "insufficient_quota",
    "linked_organization_spend_limit_reached",
    "organization_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "project_spend_limit_exceeded",
})  # fmt: skip
_RATE_CODES = frozenset({"rate_limit_error", "rate_limit_exceeded", "slow_down"})
_BUSY_CODES = frozenset({"api_error", "overloaded_error", "server_error", "timeout_error", "vector_store_timeout"})
_CONTEXT_CODES = frozenset({"context_length_exceeded", "string_above_max_length", "request_too_large"})
#: Request timeout and conflict (a lock that was not free in time): both say "again".
_TRANSIENT_STATUS = frozenset({408, 409})

_KEY_SHAPE = re.compile(r"\bsk-[\w*.-]{4,}")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Spending limits reset monthly; whatever asks for more than that is no time to wait but a mistake.
_LONGEST_WAIT_SECONDS = 31 * 86400.0
_LONGEST_MESSAGE = 1000


class Failure(Value):
    """What a provider said instead of an answer; `codes` are its words for it, the most exact first."""

    provider: str
    model: str
    status: int
    codes: tuple[str, ...] = ()
    message: str = ""
    request_id: str | None = None
    headers: Mapping[str, str] = {}


def model_error(failure: Failure, *, now: datetime, key: str) -> ModelError:
    """Classify a failure; `key` is kept out of the message, even where the provider repeats it."""
    kind = _kind(failure)
    said = scrub(failure.message, key).strip()[:_LONGEST_MESSAGE] or f"HTTP status {failure.status}"
    advice = _advice(failure)
    details = {"provider": failure.provider, "model": failure.model, "status": failure.status}
    if failure.codes:
        details["provider_code"] = failure.codes[0]
    if failure.request_id:
        details["request_id"] = failure.request_id
    return kind(
        f"{failure.provider}:{failure.model}: {said}" + (f" ({advice})" if advice else ""),
        retry_after=retry_after_seconds(failure.headers, now=now) if kind.retryable else None,
        details=details,
    )


def unreachable(provider: str, address: str, cause: BaseException | None, *, key: str) -> ModelUnavailable:
    """Make the error for a provider that did not answer: no connection, or none that held."""
    reason = scrub(str(cause), key) if cause is not None and str(cause) else "the connection failed"
    variable = f"{provider.upper()}_BASE_URL"
    return ModelUnavailable(f"{provider} cannot be reached at {address}: {reason} (check the network and {variable})")


def timed_out(provider: str, model: str, timeout_seconds: float) -> ModelUnavailable:
    """Make the error for a provider that was silent for too long; whether it has billed the call is not known."""
    return ModelUnavailable(f"{provider}:{model}: no answer within {timeout_seconds:g} s")


def unreadable(provider: str, model: str, *, request_id: str | None) -> ModelUnavailable:
    """Make the error for an answer that is cut off or not what the provider's API promises."""
    return ModelUnavailable(
        f"{provider}:{model}: the answer is not what this API promises; a proxy in between, or a server that is not "
        f"compatible ({provider.upper()}_BASE_URL)?",
        details={"request_id": request_id} if request_id else None,
    )


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Give the seconds that a provider asks us to wait, or None if it does not say.

    `retry-after-ms` and `retry-after` (seconds or an HTTP date) come first. Else the limits decide: those with nothing
    remaining have to be reset all, and if none is empty, the first reset may be enough.
    """
    known = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(known.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _sane(milliseconds / 1000)
    if "retry-after" in known:
        seconds = _number(known["retry-after"])
        return _sane(seconds if seconds is not None else _until_http_date(known["retry-after"], now))
    resets = {
        name: seconds
        for name, value in known.items()
        if "ratelimit" in name and "-reset" in name and (seconds := _sane(_until_reset(value, now))) is not None
    }
    empty = [seconds for name, seconds in resets.items() if known.get(name.replace("-reset", "-remaining")) == "0"]
    return max(empty) if empty else min(resets.values(), default=None)


def scrub(text: str, key: str) -> str:
    """Give `text` without the key, and without what looks like a part of one."""
    return _KEY_SHAPE.sub("[key]", text.replace(key, "[key]") if key else text)


def _kind(failure: Failure) -> type[ModelError]:
    codes = set(failure.codes)
    if codes & _MONEY_CODES or failure.status == 402:
        return ModelRefused
    if failure.status == 429 or (failure.status < 300 and codes & _RATE_CODES):
        return ModelRateLimited
    if failure.status >= 500 or failure.status in _TRANSIENT_STATUS or (failure.status < 300 and codes & _BUSY_CODES):
        return ModelUnavailable
    return ModelRefused


def _advice(failure: Failure) -> str:
    codes = set(failure.codes)
    if codes & _MONEY_CODES or failure.status == 402:
        return "the account's credit or spending limit is used up: raise it at the provider"
    if codes & _CONTEXT_CODES or failure.status == 413:
        return "shorten the input, or choose a model with a larger context"
    match failure.status:
        case 401:
            return f"check {failure.provider.upper()}_API_KEY"
        case 403:
            return "this key may not use it"
        case 404:
            return "check the model's name, and whether this key may use it"
        case _:
            return ""


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _until_http_date(text: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()


def _until_reset(text: str, now: datetime) -> float | None:
    """Read both forms of a reset: a span such as `6m0s` or `20ms`, and a moment in RFC 3339."""
    if _DURATION.fullmatch(text):
        return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _DURATION_PART.findall(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _number(text)
    return (moment - now).total_seconds() if moment.tzinfo else None


def _sane(seconds: float | None) -> float | None:
    return None if seconds is None or seconds > _LONGEST_WAIT_SECONDS else max(0.0, seconds)
