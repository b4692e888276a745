"""Rows of several workflows side by side, as one batch: which workflow a row is for follows from its line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.batch.engine import RunsOfRows
from orchestrator.batch.result import RowResult
from orchestrator.batch.source import Row
from orchestrator.contracts.run import ErrorInfo
from orchestrator.errors import BudgetExceeded, BudgetUnpriced


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The runs of rows of several workflows; `part_of` gives the index of a line's.

    They take turns, so that what slows one of them down for a while slows all.
    """

    parts: Sequence[RunsOfRows]
    part_of: Callable[[int], int]

    def create(self, rows: Sequence[Row]) -> tuple[list[tuple[str, int]], list[RowResult]]:
        """Give the run of each row with its line, and the results of rows that no run can be made of."""
        created: list[tuple[str, int]] = []
        refused: list[RowResult] = []
        for index, part in enumerate(self.parts):
            mine = [row for row in rows if self.part_of(row.line) == index]
            if mine:
                opened, faults = part.create(mine)
                created += opened
                refused += faults
        return created, refused

    def results(self, lines: dict[str, int]) -> Iterator[dict[str, RowResult]]:
        """Give the results of those runs that have ended, in parts."""
        for index, part in enumerate(self.parts):
            mine = {run_id: line for run_id, line in lines.items() if self.part_of(line) == index}
            if mine:
                yield from part.results(mine)

    def warnings(self, run_ids: Sequence[str]) -> tuple[str, ...]:
        """Say what may keep the first of these runs from ending."""
        return self.parts[0].warnings(run_ids)


#: Ends that are nobody's answer: nothing was asked, or nobody could be. They are tried again when the evaluation goes on.
_UNDECIDED = frozenset({BudgetExceeded.code, BudgetUnpriced.code})


def is_undecided(error: ErrorInfo | None) -> bool:
    """Tell whether a run has ended for want of money or of an account, which says nothing of the variant."""
    return error is not None and (error.code in _UNDECIDED or error.pauses_job)


def decided(results: Iterable[RowResult], stop: Callable[[str], None]) -> list[RowResult]:
    """Give the results that say something; of the others the reason is given to `stop`."""
    found: list[RowResult] = []
    for result in results:
        if result.error is not None and is_undecided(result.error):
            stop(result.error.message)
        else:
            found.append(result)
    return found
