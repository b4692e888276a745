"""Asking a database that may be away for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from orchestrator.clock import system_clock
from orchestrator.errors import DatabaseUnavailable

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


def patiently(work: Callable[[], T], seconds: float, pause: Callable[[float], bool]) -> T:
    """Ask the database, again and again for so long while it is away; then raises the last `DatabaseUnavailable`.

    `pause` waits for some seconds, and tells whether there is no point in asking again.
    """
    give_up_at = system_clock.monotonic() + seconds
    delay = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except DatabaseUnavailable:
            if system_clock.monotonic() + delay > give_up_at or pause(delay):
                raise
            delay = min(_LONGEST_PAUSE_SECONDS, delay * 2)
