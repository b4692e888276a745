"""What a worker does about its size: above a threshold it lets go of what can be read again, and says so."""

from __future__ import annotations

import ctypes
import gc
import linecache
import os
from collections.abc import Callable
from pathlib import Path

from orchestrator.clock import Clock, system_clock
from orchestrator.observability.logging import get_logger

log = get_logger("nightfleet.worker")

#: In glibc: how many heaps threads share. By itself each core has eight, and each keeps what its threads have let go.
_M_ARENA_MAX, _ARENAS = -8, 2

_STATM = Path("/proc/self/statm")
_MB = 1_000_000
#: What is in use cannot be shed: it is tried again when the process has grown by this much, or after a while.
_GROWTH = 1.1
_PAUSE_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 600.0
#: How many new objects Python lets come before it looks for cycles among them; its own figure is 700.
_NEW_OBJECTS = 10_000


class Footprint:
    """Keeps caches from being what makes a process large; `look` costs next to nothing while it is small."""

    def __init__(
        self,
        soft_mb: int,
        shed: Callable[[], None],
        *,
        resident: Callable[[], int | None] | None = None,
        clock: Clock = system_clock,
    ) -> None:
        """Shed above `soft_mb` megabytes (never with 0); `shed` empties the caches."""
        self._soft = soft_mb * _MB
        self._shed = shed
        self._resident = resident or resident_bytes
        self._clock = clock
        self._shed_at: float | None = None
        self._left = 0

    def look(self) -> bool:
        """Shed if the process is above the threshold and that may help; tells whether it did."""
        before = self._resident() if self._soft else None
        if before is None or before <= self._soft or not self._worth_it(before):
            return False
        self._shed()
        linecache.clearcache()
        give_back()
        self._shed_at, self._left = self._clock.monotonic(), self._resident() or before
        log.info(
            "above its memory threshold: caches are shed",
            threshold_mb=self._soft // _MB,
            before_mb=before // _MB,
            after_mb=self._left // _MB,
        )
        return True

    def _worth_it(self, resident: int) -> bool:
        if self._shed_at is None:
            return True
        passed = self._clock.monotonic() - self._shed_at
        return passed >= (_PAUSE_SECONDS if resident > _GROWTH * self._left else _LONGEST_PAUSE_SECONDS)


def resident_bytes() -> int | None:
    """Give the memory that this process has in use, None where the system does not tell."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Give what nobody uses any more back to the system: glibc keeps it otherwise, as holes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def share_heaps() -> None:
    """Let the threads of this process share two heaps, where the system's memory is glibc's: they take turns in Python anyway."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def collect_seldom() -> None:
    """Let Python look for cycles that nobody uses less often, in this whole process.

    A thousand model calls in flight are more objects than it expects to be in use: it looked at all of them again and again,
    which was a seventh of a worker's time.
    """
    gc.set_threshold(_NEW_OBJECTS)
