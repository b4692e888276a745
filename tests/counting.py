"""How much work something is, told by counting: a slow machine counts the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

Line = tuple[str, int]


def traced(work: Callable[[], object], at: Callable[[Line], object], under: str = "") -> None:
    """Call something, and `at` for each line of Python that it executes in this thread, of files under a folder."""

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(under):
            return None
        if event == "line":
            at((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


def lines_run(work: Callable[[], object]) -> int:
    """Count the lines that a call executes."""
    count = 0

    def one_more(_line: Line) -> None:
        nonlocal count
        count += 1

    traced(work, one_more)
    return count
