"""The result file: lines are only ever appended, and what a crash left of the last one is cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from orchestrator.batch.result import RowResult
from orchestrator.contracts.run import RunState
from orchestrator.errors import ResultsUnwritable, UsageError


class ResultFile:
    """Results in the order in which runs ended.

    Each `append` reaches the operating system before it returns, so a killed process loses nothing; `close` waits for
    the disk. What a power cut takes off the end is written again from the database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = _opened(path)

    def load(self, note: Callable[[RowResult], None]) -> None:
        """Hand over every result that is there, and cut off an unfinished end.

        Raises `UsageError` for a line before the end that is no result: somebody has edited the file.
        """
        whole, broken = 0, None
        with self.path.open("rb") as file:
            for number, content in enumerate(file, 1):
                found = RowResult.decode(content)
                if found is None:
                    broken = broken or number
                elif broken is not None:
                    raise UsageError(
                        f"{self.path}, line {broken}: it is no result of this batch: remove that line, and its row is "
                        "written again"
                    )
                else:
                    whole += len(content)
                    note(found)
        if broken is not None:
            os.ftruncate(self._handle, whole)

    def forget_failed(self) -> None:
        """Take the results of failed rows out, all at once or not at all."""
        self.load(lambda _result: None)
        path = self.path.resolve()  # a link stays one
        new = path.with_name(f"{path.name}.new")
        with _explained(path), path.open("rb") as file, new.open("wb") as kept:
            os.fchmod(kept.fileno(), os.fstat(file.fileno()).st_mode & 0o777)
            kept.writelines(
                content
                for content in file
                if (found := RowResult.decode(content)) and found.state is RunState.SUCCEEDED
            )
            kept.flush()
            os.fsync(kept.fileno())
            new.replace(path)
        before, self._handle = self._handle, _opened(self.path)
        os.close(before)

    def append(self, results: Iterable[RowResult]) -> None:
        """Write results; raises `ResultsUnwritable`, after which this process must write no more."""
        content = memoryview(b"".join(result.encode() for result in results))
        with _explained(self.path):
            while content:
                content = content[os.write(self._handle, content) :]

    def close(self) -> None:
        """Wait until everything is on the disk, and close the file."""
        try:
            with _explained(self.path):
                os.fsync(self._handle)
        finally:
            os.close(self._handle)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"--out {path}: {(error.strerror or str(error)).lower()}") from None


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Raise what the operating system refuses as what it means for a batch."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ResultsUnwritable(
            f"cannot write results to {path}: {reason}. Nothing is lost: the same command goes on once that is mended"
        ) from None
