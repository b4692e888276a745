"""Rows of a data set, read as a stream, each with the number of its line; what cannot be read is a row too.

The same file gives the same rows under the same numbers each time: a batch that goes on relies on it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.batch import jsonlines, spreadsheet
from orchestrator.batch.lineset import LineSet
from orchestrator.batch.record import Line, Record, RowMalformed
from orchestrator.contracts.batch import DataFormat
from orchestrator.contracts.run import ErrorInfo
from orchestrator.errors import UsageError

_SUFFIXES: dict[str, DataFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_FORMATS = {"jsonl": jsonlines, "csv": spreadsheet}
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
#: A character that takes one byte when it is stored may take six in a JSON text (`\u0041`).
_ESCAPED = 6


@dataclass(frozen=True, slots=True)
class Row:
    """An input for a run; `size` is its length in the data."""

    line: int
    value: Any
    size: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that no run can be made of."""

    line: int
    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first look at the data tells: how many rows there are, and a hash of all that they follow from."""

    rows: int
    digest: str


class DataFile:
    """A JSONL or CSV file, or one of them in gzip: read twice, so a pipe will not do.

    Raises `UsageError` for a file that cannot be read at all. Lines longer than any input may be are rows that cannot be
    read; no more of them than that is ever in memory.
    """

    def __init__(self, path: Path, format: DataFormat | None = None, *, limit_bytes: int) -> None:
        self.path = path
        self._format = format or _format_of(path)
        self._reader = _FORMATS[self._format]
        self._longest = limit_bytes * _ESCAPED
        # Before it is opened: a named pipe would wait for somebody who writes.
        if path.exists() and not path.is_file():
            raise UsageError(f"data {path}: it is no regular file, and data is read twice: save it to a file first")
        try:
            self._file = path.open("rb")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"data {path}: {reason}, in {Path.cwd()}") from None
        self._stamp = self._stamped()

    def survey(self) -> Survey:
        """Read everything once."""
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha256").hexdigest()[:32]
        return Survey(sum(1 for _ in self._records()), f"{self._format}:{digest}")

    def rows(self, done: LineSet) -> Iterator[Row | Refused]:
        """Give the rows whose lines are not done, in their order.

        Raises `UsageError` at the end if the file has changed meanwhile: its lines are not what they were counted as.
        """
        for record in self._records():
            if record.line in done:
                continue
            try:
                value = self._reader.parse(record)
            except RowMalformed as error:
                yield Refused(record.line, ErrorInfo(code="row_malformed", message=f"line {record.line}: {error}"))
            else:
                yield Row(record.line, value, record.size)
        if self._stamped() != self._stamp:
            raise UsageError(
                f"data {self.path}: it was changed while it was read. What was done is kept, but this data is another "
                "batch: give it another --out"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _records(self) -> Iterator[Record]:
        self._file.seek(0)
        zipped = self.path.suffix == ".gz"
        with self._readable():
            file: IO[bytes] = io.BufferedReader(gzip.GzipFile(fileobj=self._file)) if zipped else self._file
            yield from self._reader.records(self._lines(file), self._longest)

    def _lines(self, file: IO[bytes]) -> Iterator[Line]:
        number = 0
        while content := file.readline(self._longest + 1):
            number += 1
            if number == 1:
                self._check_encoding(content)
                content = content.removeprefix(_BOM)
            whole = len(content) <= self._longest or content.endswith(b"\n")
            yield Line(number, content if whole else None)
            while not whole and (rest := file.readline(1 << 20)):
                whole = rest.endswith(b"\n")

    def _check_encoding(self, content: bytes) -> None:
        if content.startswith(_UTF16):
            raise UsageError(f"data {self.path}: it is in UTF-16: save it as UTF-8")

    @contextmanager
    def _readable(self) -> Generator[None]:
        try:
            yield
        except (EOFError, zlib.error, OSError) as error:
            raise UsageError(f"data {self.path}: it cannot be read to its end: {error}") from None
        except spreadsheet.HeaderInvalid as error:
            raise UsageError(f"data {self.path}: {error}") from None

    def _stamped(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


def _format_of(path: Path) -> DataFormat:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    found = _SUFFIXES.get(suffix.lower())
    if found is None:
        raise UsageError(
            f"data {path}: its name does not tell whether it is JSONL or CSV: name it .jsonl or .csv, or give --format"
        )
    return found
