"""The loop of a batch: rows in, a window of open runs, results out.

What has happened is in two places and nowhere else: the result file says which rows are done, and every other row that
ever became a run is found again in the database by its key. So the loop may be killed at any line.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.batch.result import RowResult
from orchestrator.batch.source import Refused, Row
from orchestrator.batch.tally import Tally
from orchestrator.batch.window import FIRST_PAUSE_SECONDS, Window, next_pause
from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.batch import BatchProgress
from orchestrator.errors import ServiceUnavailable
from orchestrator.failpoints import failpoint

log = logging.getLogger("nightfleet.batch")

Watch = Callable[[BatchProgress], None]

#: Inputs that are submitted together, apart from one that is larger by itself.
_CHUNK_BYTES = 16_000_000
#: Nothing has ended for so long: is there anybody who works?
_STALLED_SECONDS = 5.0
_LAST_RETRY_SECONDS = 5.0


class RunsOfRows(Protocol):
    """The runs of rows, at most one for each line; see `BatchRuns`."""

    def create(self, rows: Sequence[Row]) -> tuple[list[tuple[str, int]], list[RowResult]]: ...

    def results(self, lines: dict[str, int]) -> Iterator[dict[str, RowResult]]: ...

    def warnings(self, run_ids: Sequence[str]) -> tuple[str, ...]: ...


class Results(Protocol):
    """Where results are written; what was appended is there after a kill."""

    def append(self, results: Sequence[RowResult], /) -> None: ...


@dataclass(slots=True)
class Engine:
    """Moves one batch until every row has a result, more have failed than `failures_allowed`, or none can succeed."""

    rows: Iterator[Row | Refused]
    total: int
    runs: RunsOfRows
    results: Results
    tally: Tally
    window: Window
    failures_allowed: int | None
    watch: Watch
    clock: Clock = system_clock
    #: Pauses are waits for this event, which only tests set.
    waiting: threading.Event = field(default_factory=threading.Event)

    #: What a provider has said that no other row can help: its account is empty, say.
    hopeless: str | None = None
    _pending: list[Row] = field(default_factory=list[Row])
    _exhausted: bool = False
    _pause: float = FIRST_PAUSE_SECONDS
    _moved_at: float = 0.0
    _warned: set[str] = field(default_factory=set[str])

    def run(self) -> None:
        """Work until nothing is left to do; raises `ServiceUnavailable` only before the first success.

        `RunNotFound` says that somebody has deleted a run that has no result yet: nobody would ever see its end.
        """
        self._moved_at = self.clock.monotonic()
        outage = Outage(self.clock)
        self._show()
        while not self._over():
            try:
                self._collect()
                self._fill()
            except ServiceUnavailable as error:
                pause = outage.wait_for(error)
                self._show()
                self.waiting.wait(pause)
                continue
            outage.end()
            self._show()
            if self.window:
                self.waiting.wait(self._pause)

    @property
    def stopped(self) -> bool:
        """Whether more rows have failed than may, or all others would."""
        return self.hopeless is not None or (
            self.failures_allowed is not None and self.tally.failed > self.failures_allowed
        )

    def _over(self) -> bool:
        return not self.window and (self.stopped or (self._exhausted and not self._pending))

    def _collect(self) -> None:
        """Write what has ended."""
        watched, ended = len(self.window), 0
        if not watched:
            return
        for part in self.runs.results(self.window.lines):
            failpoint("before_batch_write")
            self._write(part.values())
            failpoint("after_batch_write")
            self.window.close(part)
            ended += len(part)
        self._pause = next_pause(self._pause, ended, watched)
        if ended:
            self._moved_at = self.clock.monotonic()
        elif self.clock.monotonic() - self._moved_at > _STALLED_SECONDS:
            self._moved_at = self.clock.monotonic()
            self._warn()

    def _fill(self) -> None:
        """Create runs while there is room for them and a reason to."""
        while not self.stopped:
            if not self._pending and (room := self.window.room()):
                self._pending = self._read(room)
            if not self._pending and (self._exhausted or not self.window.room()):
                return
            if self._pending:
                # They stay pending until this succeeds: a submit that failed may have created some, and gives those then.
                opened, refused = self.runs.create(self._pending)
                self._pending = []
                self.window.open(opened)
                self._write(refused)
            self._show()

    def _read(self, most: int) -> list[Row]:
        """Read so many rows, of bounded size; what is malformed is written at once."""
        found: list[Row] = []
        refused: list[RowResult] = []
        size = 0
        for row in self.rows:
            if isinstance(row, Row):
                found.append(row)
                size += row.size
            else:
                refused.append(RowResult.refused(row.line, row.error))
            if len(found) + len(refused) >= most or size >= _CHUNK_BYTES:
                break
        else:
            self._exhausted = True
        self._write(refused)
        return found

    def _write(self, results: Iterable[RowResult]) -> None:
        results = list(results)
        if results:
            self.results.append(results)
            for result in results:
                self.tally.add(result)
                if result.error is not None and result.error.pauses_job:
                    self.hopeless = self.hopeless or result.error.message

    def _show(self) -> None:
        tally = self.tally
        self.watch(
            BatchProgress(
                rows=self.total,
                succeeded=tally.succeeded,
                failed=tally.failed,
                malformed=tally.malformed,
                open=len(self.window),
            )
        )

    def _warn(self) -> None:
        """Say what may keep the oldest run from ending, once; raises `RunNotFound` when a run was deleted."""
        news = set(self.runs.warnings(list(self.window.lines))) - self._warned
        self._warned |= news
        for warning in sorted(news):
            log.warning("%s", warning)


class Outage:
    """Services that are away: what is said of it, and when to try again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._met = False
        self._since: float | None = None
        self._pause = 0.0

    def wait_for(self, error: ServiceUnavailable) -> float:
        """Give the seconds until the next try; raises the error when there has been no service to begin with."""
        if not self._met:
            raise error
        if self._since is None:
            self._since = self._clock.monotonic()
            self._pause = 0.25
            log.warning("%s. The batch goes on when it is back; Ctrl-C stops here", error.message)
        self._pause = min(_LAST_RETRY_SECONDS, self._pause * 2)
        return self._pause

    def end(self) -> None:
        """Note that all services answer."""
        self._met = True
        if self._since is not None:
            log.warning("back after %.0f s: the batch goes on", self._clock.monotonic() - self._since)
            self._since = None
