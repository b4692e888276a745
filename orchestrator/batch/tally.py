"""What has come of a batch so far, counted."""

from __future__ import annotations

from orchestrator.batch.lineset import LineSet
from orchestrator.batch.result import RowResult
from orchestrator.contracts.batch import BatchFailure
from orchestrator.contracts.run import RunState

#: A code comes from a short list, but nothing keeps a foreign agent from making them up.
_MOST_CODES = 20


class Tally:
    """Counts of results, the lines that have one, and the first failure of each code."""

    def __init__(self) -> None:
        self.lines = LineSet()
        self.succeeded = 0
        self.failed = 0
        self.malformed = 0
        self._failures: dict[str, BatchFailure] = {}

    @property
    def done(self) -> int:
        """Rows that have a result."""
        return self.succeeded + self.failed

    def add(self, result: RowResult) -> None:
        """Count a result."""
        self.lines.add(result.line)
        if result.state is RunState.SUCCEEDED:
            self.succeeded += 1
            return
        self.failed += 1
        self.malformed += result.run_id is None
        self._note(result)

    @property
    def failures(self) -> tuple[BatchFailure, ...]:
        """The failures by code, the most frequent first."""
        return tuple(sorted(self._failures.values(), key=lambda each: -each.count))

    def _note(self, result: RowResult) -> None:
        error = result.error
        code, message = (error.code, error.message) if error else (result.state.value, "")
        if error and error.task:
            message = f"{error.task}: {message}"
        if code not in self._failures and len(self._failures) >= _MOST_CODES:
            code, message = "other", "more kinds of errors"
        first = self._failures.get(code)
        if first is None:
            first = BatchFailure(code=code, count=0, line=result.line, run_id=result.run_id, message=message)
        self._failures[code] = first.model_copy(update={"count": first.count + 1})
