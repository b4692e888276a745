"""What commands print with `--json` that is nothing else's value."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.contracts.policy import Value
from orchestrator.contracts.run import ErrorInfo, RunState


class RunReference(Value):
    """A run that was submitted or opened again; with `error`, one that could not be."""

    id: str
    error: ErrorInfo | None = None

    @property
    def changed(self) -> bool:
        """Whether the command has done anything to it."""
        return self.error is None


class Cancellation(Value):
    """What a cancellation came to: `cancelled` is false for a run that had ended before, in this `state`.

    With `error` there is no such run, and no state.
    """

    id: str
    cancelled: bool
    state: RunState | None = None
    error: ErrorInfo | None = None

    @property
    def changed(self) -> bool:
        """Whether the command has done anything to it."""
        return self.cancelled


class Purge(Value):
    """How many runs were meant, and how many are deleted: fewer where others have opened some again, none of a dry run."""

    runs: int
    deleted: int


class ScheduleSummary(Value):
    """A schedule and the next time that it is due, None if it never is again."""

    name: str
    when: str
    next: datetime | None
    project: str
    workflow: str
    catch_up_seconds: float | None
    input: Any


class SchemaReference(Value):
    """A published schema, and the commands whose `--json` it describes."""

    name: str
    printed_by: str
