"""How far a batch is: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import shutil
from collections import deque
from typing import TYPE_CHECKING

from orchestrator.clock import Clock, system_clock
from orchestrator.commands import render
from orchestrator.commands.attend import Screen

if TYPE_CHECKING:
    from orchestrator.contracts.batch import BatchProgress

_BAR = 24
#: The rate is that of the last half minute: of a long batch nobody wants to know how fast it was yesterday.
_RATE_SECONDS = 30.0
_DRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0


class Meter:
    """Shows progress at the pace of people, however often it is told of it."""

    def __init__(self, screen: Screen, clock: Clock = system_clock) -> None:
        self._screen = screen
        self._clock = clock
        self._drawing = screen.isatty()
        self._began = self._shown_at = clock.monotonic()
        self._seen: deque[tuple[float, int]] = deque()
        self._last: BatchProgress | None = None

    def show(self, progress: BatchProgress) -> None:
        """Take in how far the batch is, and show it if it is time to."""
        now = self._clock.monotonic()
        self._last = progress
        if not self._seen or now - self._seen[-1][0] >= _DRAW_SECONDS:
            self._seen.append((now, progress.done))
            while len(self._seen) > 2 and now - self._seen[1][0] > _RATE_SECONDS:
                self._seen.popleft()
        if now - self._shown_at < (_DRAW_SECONDS if self._drawing else _LINE_SECONDS):
            return
        self._shown_at = now
        self._put(progress, now)

    def end(self) -> None:
        """Show no more; a bar stays as it is in the end."""
        if self._drawing and self._last is not None:
            self._put(self._last, self._clock.monotonic())
            self._screen.keep()

    @property
    def standing(self) -> str:
        """How far it is, in words."""
        return "the beginning" if self._last is None else f"{self._last.done:,} of {self._last.rows:,} rows"

    def _put(self, progress: BatchProgress, now: float) -> None:
        facts = self._facts(progress, now)
        if self._drawing:
            share = progress.done / progress.rows if progress.rows else 1.0
            filled = int(share * _BAR)
            bar = "#" * filled + "-" * (_BAR - filled)
            columns = shutil.get_terminal_size().columns - 1
            self._screen.draw([f"  [{bar}] {share:4.0%}  {facts}"[:columns]])
        else:
            self._screen.write(f"{render.duration(now - self._began):>8}  {facts}\n")

    def _facts(self, progress: BatchProgress, now: float) -> str:
        parts = [f"{progress.done:,}/{progress.rows:,} rows"]
        began, before = self._seen[0]
        rate = (progress.done - before) / (now - began) if now > began else 0.0
        if rate > 0:
            parts.append(f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.1f} rows/s")
        parts.append(f"{progress.failed:,} failed")
        if rate > 0 and progress.done < progress.rows:
            parts.append(f"{render.duration((progress.rows - progress.done) / rate)} left")
        return "  ".join(parts)
