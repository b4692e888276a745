"""How findings are made and worded."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from orchestrator.contracts.diagnosis import Finding, Level

#: What the revision of the database is called where it could not be read.
SCHEMA_VERSION = "the schema's version"


class Make(Protocol):
    """Makes a finding of one level."""

    def __call__(self, code: str, message: str, advice: str = "", /) -> Finding: ...


def _finding(level: Level, code: str, message: str, advice: str = "", /) -> Finding:
    return Finding(level=level, code=code, message=message, advice=advice)


ok: Make = partial(_finding, Level.OK)
warning: Make = partial(_finding, Level.WARNING)
error: Make = partial(_finding, Level.ERROR)


def number(count: int, one: str, many: str | None = None) -> str:
    """Give a number of things: `1 run`, `1,200 runs`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def seconds(value: float) -> str:
    """Give a length of time as an operator says it: `40 s`, `12 min`, `3 h`, `2 days`."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"


def listed(names: list[str], most: int = 3) -> str:
    """Give names as a list that stays short: `a, b, c and 7 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
