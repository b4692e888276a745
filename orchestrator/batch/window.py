"""How many runs are open at once, and how often they are looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterable

#: How many runs are created in one transaction.
CHUNK = 250

FIRST_PAUSE_SECONDS = 0.02
_LAST_PAUSE_SECONDS = 1.0


class Window:
    """The open runs of a batch: `lines` has the line of each, the one that has been open longest first."""

    def __init__(self, size: int) -> None:
        self.lines: dict[str, int] = {}
        self._size = size
        self._step = min(CHUNK, max(1, size // 4))

    def __len__(self) -> int:
        return len(self.lines)

    def room(self) -> int:
        """Give how many runs to create now: none until a step's worth is free, since small transactions cost the most."""
        free = self._size - len(self.lines)
        return min(free, CHUNK) if free >= self._step else 0

    def open(self, runs: Iterable[tuple[str, int]]) -> None:
        """Take runs in with their lines; one that is in already stays."""
        self.lines.update(runs)

    def close(self, runs: Iterable[str]) -> None:
        """Take runs out."""
        for run_id in runs:
            del self.lines[run_id]


def next_pause(pause: float, ended: int, watched: int) -> float:
    """Give the pause after a look that found `ended` of `watched` runs ended.

    It settles where a look finds a tenth to a quarter of them: seldom enough to cost nothing, and three quarters of the
    window are left to work on meanwhile.
    """
    share = ended / watched if watched else 1.0
    if share > 0.25:
        return max(FIRST_PAUSE_SECONDS, pause / 2)
    return min(_LAST_PAUSE_SECONDS, pause * 1.5) if share < 0.1 else pause
