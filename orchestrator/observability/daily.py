"""Log lines in a file for each day, written by any number of processes at once, and removed after some days."""

from __future__ import annotations

import contextlib
import os
import re
from datetime import date, timedelta
from pathlib import Path

from orchestrator.clock import Clock, system_clock
from orchestrator.errors import SettingsInvalid


class DailyFile:
    """A sink for `nightfleet.log` that writes to `nightfleet-2026-11-21.log`; `nightfleet.log` leads to the newest one.

    The day is that of UTC, as in the lines. Nothing is ever renamed, and each text is appended by one write: processes
    of one machine that share the file neither tear each other's lines nor lose one when the day changes. `retention_days`
    files stay, that of today among them. Raises `SettingsInvalid` where nothing can be written.
    """

    def __init__(self, path: Path, retention_days: int, clock: Clock = system_clock) -> None:
        self._path = path.absolute()
        self._retention = retention_days
        self._clock = clock
        self._day: date | None = None
        self._handle = -1
        try:
            if self._path.exists() and not self._path.is_symlink():
                raise SettingsInvalid(
                    f"log file {path}: a file of this name is in the way of the link to the newest one; move it away, "
                    "or set NIGHTFLEET_LOG_FILE to another name"
                )
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open(self._today())
        except OSError as error:
            raise SettingsInvalid(
                f"log file {path} cannot be written: {(error.strerror or str(error)).lower()} ({error.filename})"
            ) from None

    def write(self, text: str, /) -> None:
        """Append text as a whole."""
        if (today := self._today()) != self._day:
            self._open(today)
        rest = memoryview(text.encode("utf-8", "replace"))
        while rest:
            rest = rest[os.write(self._handle, rest) :]

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Nobody looks at it."""
        return False

    def close(self) -> None:
        """Close today's file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle, self._day = -1, None

    def _today(self) -> date:
        return self._clock.now().date()

    def _file_of(self, day: date) -> Path:
        return self._path.with_name(f"{self._path.stem}-{day.isoformat()}{self._path.suffix}")

    def _open(self, day: date) -> None:
        file = self._file_of(day)
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.close()
        self._handle, self._day = handle, day
        # Two processes do the same at midnight; the second finds it done.
        with contextlib.suppress(OSError):
            self._point_at(file)
            self._remove_before(day - timedelta(days=self._retention - 1))

    def _point_at(self, file: Path) -> None:
        link = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        link.unlink(missing_ok=True)
        link.symlink_to(file.name)
        link.replace(self._path)

    def _remove_before(self, first: date) -> None:
        dated = re.compile(rf"{re.escape(self._path.stem)}-(\d{{4}}-\d\d-\d\d){re.escape(self._path.suffix)}")
        for file in self._path.parent.iterdir():
            found = dated.fullmatch(file.name)
            if found and _is_before(found[1], first):
                file.unlink(missing_ok=True)


def _is_before(text: str, first: date) -> bool:
    try:
        return date.fromisoformat(text) < first
    except ValueError:  # 2026-13-41 is nobody's log
        return False
