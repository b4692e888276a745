"""Waiting for a run, and the lengths of time that callers give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.clock import system_clock
from orchestrator.errors import NightfleetError, RunCancelled, RunFailed, UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.run import RunResult

#: Between two looks at a run that is waited for; each pause is a little longer than the one before.
FIRST_POLL_SECONDS = 0.002
_LAST_POLL_SECONDS = 0.25
_LONGEST_DEADLINE_SECONDS = 36_500 * 86_400.0


def output_of(done: RunResult) -> Any:
    """Give the output of a run that has ended; raises `RunFailed` with the reason, or `RunCancelled`."""
    if done.state == "failed":
        if done.error is None:
            raise RunFailed(f"run {done.id} failed: no reason was recorded")
        data = done.error.model_dump()
        where = f"task {done.error.task!r}: " if done.error.task else ""
        raise RunFailed(
            f"run {done.id} failed: {where}{done.error.message}", details=data
        ) from NightfleetError.from_data(data)
    if done.state == "cancelled":
        raise RunCancelled(f"run {done.id} was cancelled")
    return done.output


def seconds_of(timeout: float | timedelta | None) -> float | None:
    """Give a timeout in seconds."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def deadline_of(given: float | timedelta | None) -> timedelta | None:
    """Give a deadline as a length of time; raises `UsageError` for one that no run can have."""
    seconds = seconds_of(given)
    if seconds is not None and not 0 < seconds <= _LONGEST_DEADLINE_SECONDS:
        raise UsageError(f"a deadline of {seconds:g} s is none: give seconds from now on, at most a hundred years")
    return None if seconds is None else timedelta(seconds=seconds)


def longer(pause: float) -> float:
    """Give the pause after this one, between two looks at what is waited for."""
    return min(_LAST_POLL_SECONDS, pause * 1.3)


def too_late(run_id: str, seconds: float) -> TimeoutError:
    """Make the error for a run that has not ended in time."""
    return TimeoutError(f"run {run_id} has not ended within {seconds:g} s; it goes on, and can be waited for again")


def polls(run_id: str, timeout: float | timedelta | None) -> Iterator[None]:
    """Yield now and then, ever more rarely, until the time is up; raises `TimeoutError` then."""
    seconds = seconds_of(timeout)
    deadline = None if seconds is None else system_clock.monotonic() + seconds
    pause = FIRST_POLL_SECONDS
    waiting = threading.Event()
    while True:
        yield
        left = None if deadline is None else deadline - system_clock.monotonic()
        if seconds is not None and left is not None and left <= 0:
            raise too_late(run_id, seconds)
        waiting.wait(pause if left is None else min(pause, left))
        pause = longer(pause)
