"""Server-sent events, from bytes as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Gives the data of each event as soon as its last byte is here; comments and names of events are left out.

    A return at the end of the bytes may be half of a line's end, so its line waits for the next bytes.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take the next bytes; give the data of the events that they complete."""
        # A line that is not whole yet is searched again only from where it may end.
        searched = max(len(self._rest) - 1, 0)
        buffer, start = self._rest + chunk, 0
        for end in _LINE_END.finditer(buffer, searched):
            if end.end() == len(buffer) and end[0] == b"\r":
                break
            data = self._line(buffer[start : end.start()])
            start = end.end()
            if data is not None:
                yield data
        self._rest = buffer[start:]

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
