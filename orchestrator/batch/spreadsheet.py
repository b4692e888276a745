"""CSV: a header, and records whose quoted cells may span lines; every value is text.

A record that cannot be read costs its first line alone: reading goes on with the next one.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator

from orchestrator.batch.record import TOO_LONG, Line, Record, RowMalformed


class HeaderInvalid(Exception):
    """The first record does not name the columns."""


def records(lines: Iterable[Line], longest: int) -> Iterator[Record]:
    """Give the records under the header, with their cells by the header's names; raises `HeaderInvalid`."""
    feed = _Feed(iter(lines), longest)
    # The module's limit is the process's, and 128 KB is less than a document: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    reader = csv.reader(feed, strict=True)
    header: list[str] | None = None
    while (record := _next(reader, feed)) is not None:
        if header is None:
            header = _header(record)
        elif record.fault is None and len(record.content) != len(header):
            fault = f"it has {_cells(len(record.content))}, and the header {_cells(len(header))}"
            yield Record(record.line, size=record.size, fault=fault)
        elif record.fault is None:
            yield Record(record.line, dict(zip(header, record.content, strict=True)), record.size)
        else:
            yield record


def parse(record: Record) -> dict[str, str]:
    """Give the cells of a record by the names of their columns; raises `RowMalformed`."""
    if record.fault is not None:
        raise RowMalformed(record.fault)
    cells: dict[str, str] = record.content
    return cells


class _Feed:
    """Gives the reader its lines, and knows which of them the record that it reads consists of."""

    def __init__(self, lines: Iterator[Line], longest: int) -> None:
        self._lines = lines
        self._longest = longest
        self._again: deque[Line] = deque()
        self.record: list[Line] = []
        self.size = 0

    def begin(self) -> None:
        """Begin a record."""
        self.record = []
        self.size = 0

    def give_up(self) -> None:
        """Keep the first line of the record that cannot be read, and read the others once more."""
        self._again.extendleft(reversed(self.record[1:]))

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._next_line()
        self.record.append(line)
        if line.content is None:
            raise RowMalformed(TOO_LONG)
        self.size += len(line.content)
        if self.size > self._longest:
            raise RowMalformed(f"a quote is not closed, or {TOO_LONG}")
        try:
            return line.content.decode()
        except UnicodeDecodeError as error:
            raise RowMalformed(f"it is not UTF-8 (byte {error.start:,})") from None

    def _next_line(self) -> Line:
        while True:
            line = self._again.popleft() if self._again else next(self._lines)
            # Between records a blank line is nothing; inside of one it is part of a cell.
            if self.record or line.content is None or line.content.strip():
                return line


def _next(reader: Iterator[list[str]], feed: _Feed) -> Record | None:
    """Read one record; None at the end."""
    feed.begin()
    try:
        cells = next(reader)
    except StopIteration:
        return None
    except (RowMalformed, csv.Error) as error:
        feed.give_up()
        fault = str(error).replace("unexpected end of data", "a quote is not closed")
        return Record(feed.record[0].number, size=feed.size, fault=fault)
    return Record(feed.record[0].number, cells, feed.size)


def _header(record: Record) -> list[str]:
    if record.fault is not None:
        raise HeaderInvalid(f"line {record.line}, the header: {record.fault}")
    names: list[str] = record.content
    for index, name in enumerate(names):
        if not name.strip():
            raise HeaderInvalid(f"line {record.line}: column {index + 1} has no name in the header")
        if name in names[:index]:
            raise HeaderInvalid(f"line {record.line}: two columns have the name {name!r}: rename one")
    return names


def _cells(count: int) -> str:
    return f"{count} cell{'s' if count != 1 else ''}"
