"""When a delivery is tried again: over three days, ever more seldom, and never before the receiver wants it."""

from __future__ import annotations

from orchestrator.clock import jitter

#: Seconds behind each request that fails; nothing follows the last one.
DELAYS = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
_SPREAD = 0.2
#: What a receiver may ask for at most.
LONGEST_SECONDS = 86_400.0
#: An endpoint that has failed so often in a row is sent one request at a time.
ILL_AFTER = 5
#: Answers that ask for fewer requests, and for how long if they do not say.
THROTTLING = {429: 30.0, 502: 5.0, 503: 5.0, 504: 5.0}


def delay_seconds(attempts: int, retry_after: float | None = None) -> float | None:
    """Give the wait behind the failure of request number `attempts`, None if that was the last one."""
    if attempts > len(DELAYS):
        return None
    delay = jitter(DELAYS[max(attempts, 1) - 1], _SPREAD)
    return min(LONGEST_SECONDS, max(delay, retry_after or 0.0))


def pause_seconds(status: int | None, retry_after: float | None = None) -> float:
    """Give for how long the whole endpoint is left alone after an answer; 0 for not at all."""
    if status not in THROTTLING:
        return 0.0
    return min(LONGEST_SECONDS, retry_after if retry_after is not None else jitter(THROTTLING[status], _SPREAD))


def in_flight(concurrency: int, failures: int) -> int:
    """Give how many requests an endpoint may be sent at a time: one that is ill is only probed."""
    return 1 if failures >= ILL_AFTER else concurrency
