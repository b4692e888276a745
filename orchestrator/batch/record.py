"""What a data set is cut into: lines of bytes, and records that become rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its end; `content` is None when it is longer than any row may be."""

    number: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Record:
    """What belongs to one row, not parsed yet; `line` is its first line, `fault` says why it cannot be one."""

    line: int
    content: Any = None
    size: int = 0
    fault: str | None = None


class RowMalformed(Exception):
    """A record is no row; the message says why, and the caller knows where."""


TOO_LONG = "it is longer than an input may be: pass a reference to large things, or raise NIGHTFLEET_MAX_VALUE_BYTES"
