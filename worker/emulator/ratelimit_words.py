"""How each provider tells of its limits: the headers of every reply, and the error of a call that is refused."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from worker.emulator.asked import Asked
from worker.emulator.faults import Failure
from worker.emulator.ratelimits import Dimension, Pool, Refusal

_OPENAI: tuple[Dimension, ...] = ("requests", "tokens")
_ANTHROPIC: tuple[Dimension, ...] = ("requests", "tokens", "input_tokens", "output_tokens")
_NAMES = {
    "requests": "requests per min (RPM)",
    "requests_per_day": "requests per day (RPD)",
    "tokens": "tokens per min (TPM)",
    "input_tokens": "input tokens per min",
    "output_tokens": "output tokens per min",
    "concurrency": "concurrent requests",
}


def limit_headers(asked: Asked, pool: Pool, *, monotonic: float, now: datetime) -> dict[str, str]:
    """Give the headers that tell what is left."""
    if not pool.limit.headers:
        return {}
    headers: dict[str, str] = {}
    is_openai = asked.provider == "openai"
    for dimension in _OPENAI if is_openai else _ANTHROPIC:
        if dimension not in pool.gauges:
            continue
        bucket = pool.gauges[dimension].shown
        left, full_in = max(0, math.floor(bucket.level(monotonic))), max(0.0, bucket.full_in(monotonic))
        if is_openai:
            for name, value in (("limit", str(bucket.limit)), ("remaining", str(left)), ("reset", span(full_in))):
                headers[f"x-ratelimit-{name}-{dimension}"] = value
        else:
            name = f"anthropic-ratelimit-{dimension.replace('_', '-')}"
            headers[f"{name}-limit"] = str(bucket.limit)
            # To the nearest thousand, as they are given there.
            headers[f"{name}-remaining"] = str(left if dimension == "requests" else round(left, -3))
            reset = (now + timedelta(seconds=full_in)).replace(microsecond=0) + timedelta(seconds=full_in > 0)
            headers[f"{name}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
    return headers


def refused(asked: Asked, refusal: Refusal) -> tuple[Failure, dict[str, str]]:
    """Give error and headers for a call that is not admitted."""
    what = f"{asked.model} on {_NAMES[refusal.dimension]}: limit {refusal.limit}, requested {refusal.weight}"
    wait = refusal.wait_seconds
    headers: dict[str, str] = {}
    if wait is None:
        message = f"Request too large for {what}. Its input or its max_tokens must be smaller."
    else:
        message = f"Rate limit reached for {what}. Try again in {span(wait)}."
        headers["retry-after"] = str(max(1, math.ceil(wait)))
        if asked.provider == "openai":
            headers["retry-after-ms"] = str(math.ceil(wait * 1000))
    failure = Failure(
        status=429,
        code="rate_limit_exceeded",
        openai_type="tokens" if "tokens" in refusal.dimension else "requests",
        anthropic_type="rate_limit_error",
        message=message,
    )
    return failure, headers


def span(seconds: float) -> str:
    """Write a time as OpenAI does: `20ms`, `1.5s`, `6m0s`, `2h3m0s`."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest / 1000:g}s"
    return f"{hours}h{minutes}m{tail}" if hours else f"{minutes}m{tail}" if minutes else tail
