"""A batch as its caller sees it: what may be asked for, how far it is, what came of it."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from orchestrator.contracts.budget import Budget, Label
from orchestrator.contracts.policy import Deadline, Value

DataFormat = Literal["jsonl", "csv"]

#: `25`, `2%`, `0.5%`.
_THRESHOLD = re.compile(r"(\d{1,12})|(\d{1,3}(?:\.\d{1,6})?)%")


class BatchOptions(Value):
    """How a batch is run. None of it is part of what the batch is: the same batch may go on with other options.

    `format` is that of the data where its name does not tell. `window` is how many runs are open at most. With
    `max_failures`, a number or a share of all rows such as `"5%"`, no more runs are created once more rows than that have
    failed. `retry_failed` opens the runs of rows that failed again, and reads malformed rows again. A run that has not
    ended `deadline` (in seconds) after it was created fails. Costs are charged to `user`, a label of your own. All runs of the
    batch together may cost what `budget` says.
    """

    format: DataFormat | None = None
    window: int = Field(default=1000, ge=1, le=100_000)
    max_failures: int | str | None = None
    retry_failed: bool = False
    deadline: Deadline | None = None
    user: Label | None = None
    budget: Budget | None = None

    @field_validator("max_failures", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        found = _THRESHOLD.fullmatch(value) if isinstance(value, str) else None
        if found is None or (found[2] is not None and float(found[2]) > 100):
            raise ValueError(f"{value!r} is neither a number of rows such as 25 nor a share of them such as 5%")
        return int(found[1]) if found[1] is not None else value

    def failures_allowed(self, rows: int) -> int | None:
        """Give how many of so many rows may fail, None if all may; a share is rounded down."""
        if isinstance(self.max_failures, str):
            return int(rows * float(self.max_failures.removesuffix("%")) / 100)
        return self.max_failures


class BatchProgress(Value):
    """How far a batch is. `failed` counts malformed rows too, `open` the runs that have not ended."""

    rows: int
    succeeded: int
    failed: int
    malformed: int
    open: int

    @property
    def done(self) -> int:
        """Rows that have a result."""
        return self.succeeded + self.failed


class BatchFailure(Value):
    """Rows that failed with one code: how many, and the first of them."""

    code: str
    count: int
    line: int
    run_id: str | None
    message: str


class BatchResult(Value):
    """What came of a batch, with what earlier processes did of it.

    `state` is `finished` when every row has a result, `stopped` when the threshold left `remaining` rows without one, or
    when a provider has refused for a reason that holds for all of them, which `stopped_by` says.
    `failed` counts malformed rows (those without a run) too. `earlier` rows had a result before this process began;
    `seconds` and `rows_per_second` are about the others.
    """

    schema_version: Literal[1] = 1
    id: str
    state: Literal["finished", "stopped"]
    rows: int
    succeeded: int
    failed: int
    malformed: int
    remaining: int
    earlier: int
    seconds: float
    rows_per_second: float
    failures: tuple[BatchFailure, ...]
    stopped_by: str | None = None
