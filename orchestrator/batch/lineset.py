"""Which lines are done, at a bit each."""

from __future__ import annotations


class LineSet:
    """A set of line numbers from 1 on: a million of them are 125 KB."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, line: int) -> None:
        """Put a line in."""
        place = line >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits) + len(self._bits) // 2))
        self._bits[place] |= 1 << (line & 7)

    def __contains__(self, line: int) -> bool:
        place = line >> 3
        return place < len(self._bits) and bool(self._bits[place] & (1 << (line & 7)))
