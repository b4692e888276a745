"""Time by hand, for what asks a timer to be called again and again."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class Timer:
    """A timer by hand: `fire` is one interval of everything that has not been cancelled."""

    def __init__(self) -> None:
        self.entries: list[SimpleNamespace] = []

    def call_repeatedly(self, seconds: float, callback: Callable[[], None]) -> Any:
        entry = SimpleNamespace(seconds=seconds, callback=callback)
        entry.cancel = lambda: self.entries.remove(entry)
        self.entries.append(entry)
        return entry

    def fire(self) -> None:
        for entry in list(self.entries):
            entry.callback()
