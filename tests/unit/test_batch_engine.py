"""The loop of a batch as logic: how many runs are open, when it stops, what it waits for, and that no line is doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from orchestrator.batch.engine import Engine
from orchestrator.batch.result import RowResult
from orchestrator.batch.resultfile import ResultFile
from orchestrator.batch.runs import BatchRuns
from orchestrator.batch.source import Refused, Row
from orchestrator.batch.tally import Tally
from orchestrator.batch.window import CHUNK, FIRST_PAUSE_SECONDS, Window, next_pause
from orchestrator.contracts.batch import BatchFailure, BatchOptions, BatchProgress
from orchestrator.contracts.run import ErrorInfo, RunState
from orchestrator.errors import BrokerUnavailable, DatabaseUnavailable, RunNotFound, ServiceUnavailable

FAILED = ErrorInfo(code="agent_failed", message="no", task="reader")


@dataclass
class Runs:
    """Runs that end when they are looked at, a few at a time; `troubles` are raised by calls of their number."""

    ends_at_once: int = 1_000_000
    failing: Callable[[int], bool] = lambda _line: False
    error: ErrorInfo = FAILED
    troubles: dict[tuple[str, int], ServiceUnavailable] = field(
        default_factory=dict[tuple[str, int], ServiceUnavailable]
    )
    created: list[int] = field(default_factory=list[int])
    widest: int = 0
    calls: dict[str, int] = field(default_factory=lambda: {"create": 0, "results": 0})

    def create(self, rows: Sequence[Row]) -> tuple[list[tuple[str, int]], list[RowResult]]:
        lines = [row.line for row in rows]
        self.created += [line for line in lines if line not in self.created]
        self._trouble("create")
        return [(f"run-{line}", line) for line in lines], []

    def results(self, lines: dict[str, int]) -> Iterator[dict[str, RowResult]]:
        self.widest = max(self.widest, len(lines))
        for run_id, line in list(lines.items())[: self.ends_at_once]:
            self._trouble("results")
            state, error = (RunState.FAILED, self.error) if self.failing(line) else (RunState.SUCCEEDED, None)
            yield {run_id: RowResult(line, run_id, state, None, error)}

    def warnings(self, run_ids: Sequence[str]) -> tuple[str, ...]:
        return (f"nobody serves {run_ids[0]}",)

    def _trouble(self, call: str) -> None:
        self.calls[call] += 1
        if (call, self.calls[call]) in self.troubles:
            raise self.troubles[call, self.calls[call]]


class Pauses(threading.Event):
    """Waits for nothing, and notes how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return False


def rows(count: int, malformed: Sequence[int] = (), size: int = 10) -> Iterator[Row | Refused]:
    for line in range(1, count + 1):
        yield Refused(line, ErrorInfo(code="row_malformed", message="no")) if line in malformed else Row(line, {}, size)


@pytest.fixture
def results(tmp_path: Path) -> Iterator[ResultFile]:
    made = ResultFile(tmp_path / "r.jsonl")
    yield made
    made.close()


def nobody(_progress: BatchProgress) -> None:
    """Look away."""


def engine(results: ResultFile, runs: Runs, source: Iterator[Row | Refused], total: int, **options: Any) -> Engine:
    fields: dict[str, Any] = {"window": Window(1000), "failures_allowed": None, "watch": nobody, **options}
    tally = Tally()
    return Engine(
        rows=source, total=total, runs=cast("BatchRuns", runs), results=results, tally=tally, waiting=Pauses(), **fields
    )


def written(results: ResultFile) -> list[int]:
    found: list[int] = []
    results.load(lambda result: found.append(result.line))
    return found


def test_every_row_gets_one_line(results: ResultFile) -> None:
    runs = Runs(ends_at_once=70)
    made = engine(results, runs, rows(999, malformed=[1, 500, 999]), 999)
    made.run()
    assert sorted(written(results)) == list(range(1, 1000))
    assert (made.tally.succeeded, made.tally.failed, made.tally.malformed) == (996, 3, 3)


@pytest.mark.parametrize("size", [1, 3, 10, 400, 1000, 5000])
def test_no_more_runs_are_open_than_the_window_has(size: int, results: ResultFile) -> None:
    runs = Runs(ends_at_once=max(1, size // 7))
    engine(results, runs, rows(size * 3 + 1), size * 3 + 1, window=Window(size)).run()
    assert runs.widest == size
    assert len(written(results)) == size * 3 + 1


def test_nothing_but_malformed_rows_needs_no_run_and_no_pause(results: ResultFile) -> None:
    runs = Runs()
    made = engine(results, runs, rows(3000, malformed=range(1, 3001)), 3000)
    made.run()
    assert written(results) == list(range(1, 3001))
    assert (runs.created, cast("Pauses", made.waiting).seconds) == ([], [])


def test_large_rows_are_submitted_a_few_at_a_time(results: ResultFile) -> None:
    sizes: list[int] = []

    class Noting(Runs):
        def create(self, rows: Sequence[Row]) -> tuple[list[tuple[str, int]], list[RowResult]]:
            sizes.append(len(rows))
            return super().create(rows)

    engine(results, Noting(), rows(10, size=6_000_000), 10).run()
    assert sizes == [3, 3, 3, 1]


class TestThreshold:
    def test_beyond_it_no_run_is_created_and_what_is_open_is_written(self, results: ResultFile) -> None:
        runs = Runs(ends_at_once=10, failing=lambda line: line % 2 == 0)
        made = engine(results, runs, rows(1000), 1000, window=Window(40), failures_allowed=15)
        made.run()
        assert made.stopped
        assert sorted(runs.created) == sorted(written(results))
        assert len(runs.created) <= 2 * 16 + 40

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_a_provider_that_refuses_the_account_stops_it_whatever_may_fail(
        self, results: ResultFile, *, wrapped: bool
    ) -> None:
        said: dict[str, Any] = {
            "code": "model_refused",
            "message": "the credit is used up",
            "details": {"pause": "job"},
        }
        if wrapped:
            said = {"code": "agent_failed", "message": "the credit is used up", "cause": said}
        runs = Runs(ends_at_once=10, failing=lambda line: line == 50, error=ErrorInfo.model_validate(said))
        made = engine(results, runs, rows(1000), 1000, window=Window(40), failures_allowed=None)
        made.run()
        assert (made.stopped, made.hopeless) == (True, "the credit is used up")
        assert sorted(runs.created) == sorted(written(results))
        assert len(runs.created) <= 50 + 2 * 40

    def test_as_many_as_are_allowed_do_not_stop_it(self, results: ResultFile) -> None:
        made = engine(results, Runs(failing=lambda line: line <= 5), rows(2000), 2000, failures_allowed=5)
        made.run()
        assert (made.stopped, made.tally.done) == (False, 2000)

    def test_malformed_rows_count(self, results: ResultFile) -> None:
        runs = Runs()
        made = engine(results, runs, rows(5000, malformed=range(1, 4000)), 5000, failures_allowed=0)
        made.run()
        assert made.stopped
        assert (runs.created, len(written(results))) == ([], CHUNK)

    def test_one_that_is_passed_already_creates_nothing(self, results: ResultFile) -> None:
        runs = Runs()
        made = engine(results, runs, rows(10), 10, failures_allowed=0)
        made.tally.add(RowResult.refused(11, FAILED))
        made.run()
        assert (runs.created, written(results)) == ([], [])

    @pytest.mark.parametrize(
        ("given", "rows", "allowed"),
        [(None, 10, None), (0, 10, 0), ("7", 10, 7), ("10%", 55, 5), ("0.5%", 1000, 5), ("0%", 99, 0), ("100%", 9, 9)],
    )
    def test_it_is_a_number_or_a_share_of_all_rows(self, given: Any, rows: int, allowed: int | None) -> None:
        assert BatchOptions(max_failures=given).failures_allowed(rows) == allowed

    @pytest.mark.parametrize("given", [-1, "-1", "5 %", "101%", "x", "", True, 1.5])
    def test_anything_else_is_refused(self, given: Any) -> None:
        with pytest.raises(ValidationError, match="is neither a number of rows such as 25 nor a share"):
            BatchOptions(max_failures=given)


class TestOutages:
    @pytest.mark.parametrize("call", ["create", "results"])
    def test_a_service_that_is_lost_is_waited_for_and_said_so_once(
        self, call: str, results: ResultFile, caplog: pytest.LogCaptureFixture
    ) -> None:
        lost: dict[tuple[str, int], ServiceUnavailable] = {
            (call, number): BrokerUnavailable("the broker is away") for number in range(5, 12)
        }
        runs = Runs(ends_at_once=100, troubles=lost)
        made = engine(results, runs, rows(3000), 3000, window=Window(400))
        made.run()
        assert sorted(written(results)) == list(range(1, 3001))
        messages = [record.message for record in caplog.records]
        assert messages[0].startswith("the broker is away. The batch goes on when it is back")
        assert [message.partition(" ")[0] for message in messages] == ["the", "back"]
        assert max(cast("Pauses", made.waiting).seconds) == 5.0

    def test_a_service_that_was_never_there_is_an_error(self, results: ResultFile) -> None:
        made = engine(results, Runs(troubles={("create", 1): DatabaseUnavailable("no database")}), rows(10), 10)
        with pytest.raises(DatabaseUnavailable, match="no database"):
            made.run()

    def test_rows_that_were_created_before_the_connection_broke_are_not_doubled(self, results: ResultFile) -> None:
        """The answer to a submit is lost, and what it created ends before it is asked for again."""
        runs = Runs(troubles={("create", 3): DatabaseUnavailable("gone")})
        engine(results, runs, rows(1000), 1000, window=Window(500)).run()
        assert sorted(written(results)) == list(range(1, 1001))

    def test_results_that_were_written_before_the_connection_broke_are_not_doubled(self, results: ResultFile) -> None:
        runs = Runs(troubles={("results", number): DatabaseUnavailable("gone") for number in (7, 60, 61)})
        engine(results, runs, rows(200), 200, window=Window(40)).run()
        assert sorted(written(results)) == list(range(1, 201))


class Clock:
    """A clock that moves on by half a second with each look."""

    seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 0.5
        return self.seconds


def test_what_may_keep_runs_from_ending_is_said_once(results: ResultFile, caplog: pytest.LogCaptureFixture) -> None:
    class Idle(Runs):
        looks = 0

        def results(self, lines: dict[str, int]) -> Iterator[dict[str, RowResult]]:
            self.looks += 1
            return super().results(lines) if self.looks > 100 else iter(())

    engine(results, Idle(), rows(3), 3, clock=Clock()).run()
    assert [record.message for record in caplog.records] == ["nobody serves run-1"]


def test_a_batch_does_not_wait_for_ever_for_a_run_that_somebody_has_deleted(results: ResultFile) -> None:
    class Deleted(Runs):
        def results(self, lines: dict[str, int]) -> Iterator[dict[str, RowResult]]:
            return super().results({run_id: line for run_id, line in lines.items() if line != 2})

        def warnings(self, run_ids: Sequence[str]) -> tuple[str, ...]:
            assert run_ids == ["run-2"]
            raise RunNotFound("deleted")

    with pytest.raises(RunNotFound):
        engine(results, Deleted(), rows(3), 3, clock=Clock()).run()
    assert sorted(written(results)) == [1, 3]


def test_progress_is_told_from_the_beginning_to_the_end(results: ResultFile) -> None:
    seen: list[BatchProgress] = []
    engine(results, Runs(ends_at_once=3), rows(10, malformed=[4]), 10, window=Window(5), watch=seen.append).run()
    assert [(each.done, each.open) for each in seen[:2]] == [(0, 0), (1, 4)]
    assert seen[-1] == BatchProgress(rows=10, succeeded=9, failed=1, malformed=1, open=0)
    assert [each.done for each in seen] == sorted(each.done for each in seen)


class TestWindow:
    def test_there_is_room_for_a_chunk_at_most_and_for_none_until_a_step_is_free(self) -> None:
        window = Window(1000)
        assert window.room() == CHUNK
        window.open((f"r{number}", number) for number in range(1000))
        assert window.room() == 0
        window.close(f"r{number}" for number in range(CHUNK - 1))
        assert window.room() == 0
        window.close([f"r{CHUNK}"])
        assert (window.room(), len(window)) == (CHUNK, 750)

    def test_a_run_that_is_open_already_is_open_once(self) -> None:
        window = Window(10)
        window.open([("a", 1)])
        window.open([("a", 1), ("b", 2)])
        assert window.lines == {"a": 1, "b": 2}


class TestPauses:
    def test_they_grow_to_a_second_while_nothing_ends(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        for _ in range(20):
            pause = next_pause(pause, 0, 1000)
        assert pause == 1.0

    def test_they_shrink_when_much_of_the_window_has_ended(self) -> None:
        assert next_pause(1.0, 500, 1000) == 0.5
        assert next_pause(FIRST_PAUSE_SECONDS, 1000, 1000) == FIRST_PAUSE_SECONDS

    @pytest.mark.parametrize("rate", [20, 500, 3000])
    def test_at_a_steady_rate_they_settle_and_leave_most_of_the_window_to_the_workers(self, rate: int) -> None:
        pause = FIRST_PAUSE_SECONDS
        for _ in range(50):
            pause = next_pause(pause, min(1000, int(rate * pause)), 1000)
        assert pause == 1.0 or 100 <= rate * pause <= 250


class TestTally:
    def test_failures_are_grouped_by_code_with_the_first_of_each(self) -> None:
        tally = Tally()
        for line in (5, 6):
            tally.add(RowResult(line, f"run-{line}", RunState.FAILED, None, FAILED))
        tally.add(RowResult.refused(7, ErrorInfo(code="row_malformed", message="no JSON")))
        tally.add(RowResult(8, "run-8", RunState.SUCCEEDED, {}, None))
        assert tally.failures == (
            BatchFailure(code="agent_failed", count=2, line=5, run_id="run-5", message="reader: no"),
            BatchFailure(code="row_malformed", count=1, line=7, run_id=None, message="no JSON"),
        )
        assert (tally.done, tally.succeeded, tally.failed, tally.malformed) == (4, 1, 3, 1)

    def test_codes_that_agents_make_up_do_not_fill_the_memory(self) -> None:
        tally = Tally()
        for line in range(1, 1001):
            tally.add(RowResult.refused(line, ErrorInfo(code=f"code-{line}", message="no")))
        assert len(tally.failures) == 21
        assert (tally.failures[0].code, tally.failures[0].count) == ("other", 980)
