"""What the headers of providers say of limits and waits: pure functions, the same for every provider."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, get_args

from worker.llm.base import Announced

_Dimension = Literal["requests", "tokens", "input_tokens", "output_tokens"]
_DIMENSIONS: tuple[_Dimension, ...] = get_args(_Dimension)

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Spending limits reset monthly; whatever asks for more than that is no time to wait but a mistake.
_LONGEST_WAIT_SECONDS = 31 * 86400.0


def announced(headers: Mapping[str, str], *, now: datetime) -> tuple[Announced, ...]:
    """Give the limits that a reply's headers name, whatever became of the request."""
    known = _known(headers)
    return tuple(found for dimension in _DIMENSIONS if (found := _announced(known, dimension, now)) is not None)


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Give the seconds that a provider asks us to wait, or None if it does not say.

    `retry-after-ms` and `retry-after` (seconds or an HTTP date) come first. Else the limits decide: those with nothing
    remaining have to be reset all, and if none is empty, the first reset may be enough.
    """
    known = _known(headers)
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


def _announced(known: Mapping[str, str], dimension: _Dimension, now: datetime) -> Announced | None:
    limit, remaining, reset = (_first(known, dimension, field) for field in ("limit", "remaining", "reset"))
    if limit is None and remaining is None:
        return None
    return Announced(
        dimension=dimension,
        limit=_count(limit),
        remaining=_count(remaining),
        reset_seconds=_sane(_until_reset(reset, now)) if reset else None,
    )


def _first(known: Mapping[str, str], dimension: str, field: str) -> str | None:
    return next((known[name] for name in _names(dimension, field) if name in known), None)


def _names(dimension: str, field: str) -> Iterator[str]:
    """Give the headers for a limit: OpenAI's and those of servers that follow it, and Anthropic's."""
    yield f"x-ratelimit-{field}-{dimension}"
    yield f"anthropic-ratelimit-{dimension.replace('_', '-')}-{field}"


def _known(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, value in headers.items()}


def _count(text: str | None) -> int | None:
    value = _number(text or "")
    return int(value) if value is not None and value >= 0 else None


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
