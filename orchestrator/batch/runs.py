"""The runs of a batch: creating them from rows, and reading what came of them, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from orchestrator.batch.result import RowResult
from orchestrator.batch.source import Row
from orchestrator.contracts.batch import BatchOptions
from orchestrator.contracts.budget import Charge
from orchestrator.contracts.run import ErrorInfo, RunState
from orchestrator.errors import InputInvalid, RunNotFound, RunStateConflict, ValueTooLarge
from orchestrator.failpoints import failpoint
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import run_output
from orchestrator.service import Service
from orchestrator.store.batches import EndedRun

#: Outputs are read and written in parts: together they may be large.
_OUTPUTS_AT_ONCE = 100

_CANCELLED = ErrorInfo(code="run_cancelled", message="the run was cancelled")


@dataclass(frozen=True, slots=True)
class Marks:
    """How the runs of rows are known: each by `prefix` and its line, as runs of one batch, and of one variant perhaps."""

    prefix: str
    batch_id: str
    variant: str | None = None
    #: Which of the runs that exist and did not succeed are opened again.
    reopens: Callable[[EndedRun], bool] | None = None

    @classmethod
    def of_batch(cls, batch_id: str, *, retry_failed: bool) -> Self:
        """Give the marks of a batch's own rows."""
        return cls(f"batch/{batch_id}", batch_id, reopens=(lambda _: True) if retry_failed else None)


class BatchRuns:
    """Creates at most one run for each line, however often it is asked: the idempotency key is the prefix and the line."""

    def __init__(self, service: Service, plan: Plan, *, project: str, marks: Marks, options: BatchOptions) -> None:
        self._service = service
        self._plan = plan
        self._project = project
        self._marks = marks
        self._deadline = options.deadline
        self._charge = Charge(options.user, batch_id=marks.batch_id, variant=marks.variant)
        self._own_runs = service.kernel.own_runs
        self._store = service.kernel.store.batches

    def create(self, rows: Sequence[Row]) -> tuple[list[tuple[str, int]], list[RowResult]]:
        """Give the run of each row with its line, and the results of rows whose values no run can have.

        Raises `ServiceUnavailable`; some of the runs may exist then, and the next call gives them.
        """
        created, refused = self._submit(rows)
        failpoint("after_batch_submit")
        ids = [run_id for run_id, _ in created]
        if self._marks.reopens is not None:
            self._reopen(ids, self._marks.reopens)
        return created, refused

    def results(self, lines: dict[str, int]) -> Iterator[dict[str, RowResult]]:
        """Give the results of those runs of `lines` that have ended, in parts, in the order in which they ended."""
        ended = self._store.ended(list(lines))
        for start in range(0, len(ended), _OUTPUTS_AT_ONCE):
            part = ended[start : start + _OUTPUTS_AT_ONCE]
            ends = self._store.ends(self._plan, [run.id for run in part if run.state is RunState.SUCCEEDED])
            workflow = self._plan.workflow
            outputs = {run_id: run_output(workflow, upstream) for run_id, upstream in ends.items()}
            yield {run.id: _result(lines[run.id], run, outputs.get(run.id)) for run in part}
            if self._own_runs is not None:
                self._own_runs.let_go(run.id for run in part)

    def warnings(self, run_ids: Sequence[str]) -> tuple[str, ...]:
        """Say what may keep the first of these runs from ending; raises `RunNotFound` if one of them is not there any more."""
        gone = set(run_ids).difference(self._service.states(run_ids))
        if gone:
            raise RunNotFound(
                f"runs of this batch were deleted before their results were read ({len(gone):,} of {len(run_ids):,} that it "
                f"waits for, one is {min(gone)}); the same batch goes on, and computes those rows again"
            )
        return self._service.snapshot(run_ids[0]).warnings

    def _submit(self, rows: Sequence[Row]) -> tuple[list[tuple[str, int]], list[RowResult]]:
        """Submit rows together; where a value is refused, halves of them, until it is alone."""
        keys = [f"{self._marks.prefix}/{row.line}" for row in rows]
        try:
            ids = self._service.submit(
                self._plan.workflow,
                [row.value for row in rows],
                project=self._project,
                keys=keys,
                deadline=self._deadline,
                charge=self._charge,
            )
        except (InputInvalid, ValueTooLarge) as error:
            if len(rows) == 1:
                info = ErrorInfo(code=error.code, message=f"line {rows[0].line}: {error.message}")
                return [], [RowResult.refused(rows[0].line, info)]
            middle = len(rows) // 2
            first, last = self._submit(rows[:middle]), self._submit(rows[middle:])
            return first[0] + last[0], first[1] + last[1]
        return [(run_id, row.line) for run_id, row in zip(ids, rows, strict=True)], []

    def _reopen(self, run_ids: Sequence[str], meant: Callable[[EndedRun], bool]) -> None:
        for run in self._store.ended(run_ids):
            if run.state is not RunState.SUCCEEDED and meant(run):
                with suppress(RunStateConflict):  # somebody else was first
                    self._service.retry(run.id)


def _result(line: int, run: EndedRun, output: object) -> RowResult:
    error = run.error or (_CANCELLED if run.state is RunState.CANCELLED else None)
    return RowResult(line, run.id, run.state, output, error)
