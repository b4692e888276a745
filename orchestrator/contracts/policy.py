"""Policies: how often to try, how long to wait, how much to spend. Frozen values, validated once."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from orchestrator.cached_property import cached_property
from orchestrator.clock import jitter


class Value(BaseModel):
    """A frozen value that rejects unknown fields, so that a typo is an error and not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


def _to_timedelta(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{value} is no duration: give seconds")  # noqa: TRY004 - pydantic collects ValueErrors
    if isinstance(value, str):
        try:
            value = float(value)  # from the environment every number is text
        except ValueError:
            return value
    return timedelta(seconds=value) if isinstance(value, int | float) else value


#: A `timedelta`; numbers are seconds, on the way in and on the way out.
Seconds = Annotated[
    timedelta,
    BeforeValidator(_to_timedelta, json_schema_input_type=float | timedelta),
    PlainSerializer(timedelta.total_seconds, return_type=float),
]
NonNegative = Annotated[Seconds, Field(ge=timedelta(0))]
Positive = Annotated[Seconds, Field(gt=timedelta(0))]
#: How long a run may take: short enough for a time of any database.
Deadline = Annotated[Seconds, Field(gt=timedelta(0), le=timedelta(days=36_500))]


class RetryPolicy(Value):
    """When a failed agent run is tried again: `retries` times, after `first_delay`, twice that, ... up to `max_delay`.

    Only errors that are `retryable` are retried. `retry_after` of the error is a lower bound of the delay. `jitter` is
    the share of the delay by which it is moved at random.
    """

    retries: int = Field(default=3, ge=0, le=1000)
    first_delay: NonNegative = timedelta(seconds=2)
    factor: float = Field(default=2.0, ge=1.0, le=10.0)
    max_delay: NonNegative = timedelta(minutes=10)
    jitter: float = Field(default=0.1, ge=0.0, le=1.0)

    def delay_seconds(self, failures: int, retry_after: float | None = None) -> float:
        """Give the wait in seconds before the try that follows failure number `failures` (1 for the first)."""
        first, most = self.first_delay.total_seconds(), self.max_delay.total_seconds()
        # The exponent is bounded so that a thousandth retry does not overflow a float.
        delay = min(most, first * self.factor ** min(failures - 1, 64))
        return max(jitter(delay, self.jitter), retry_after or 0.0)


class Timeouts(Value):
    """How long an agent run may take from its claim on: `soft` interrupts it, `hard` ends it. None means no limit."""

    soft: Positive | None = None
    hard: Positive | None = None

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Timeouts:
        if self.soft is not None and self.hard is not None and self.soft >= self.hard:
            raise ValueError(f"soft ({self.soft}) must be shorter than hard ({self.hard})")
        return self


class Retention(Value):
    """How long the runs of a project are kept after their end; 0 is no limit, and what is not given is as the settings say.

    `days` is about a run with all that is its own, `journal_days` about the recorded effects and conversations in it,
    where these are to go earlier. `runs` is the number of ended runs that are kept, the newest.
    """

    days: int | None = Field(default=None, ge=0, le=36_500)
    journal_days: int | None = Field(default=None, ge=0, le=36_500)
    runs: int | None = Field(default=None, ge=0, le=10_000_000)


class Limits(Value):
    """What one agent run may use at most. `usd` is a budget of its own, and nothing is reserved beyond it: see docs/budgets.md.

    `memory_mb` needs `isolation = "process"`. It counts everything that the process allocates, Python itself with about
    40 MB, and is kept on Linux.
    """

    model_calls: int | None = Field(default=None, ge=0)
    memory_mb: int | None = Field(default=None, ge=64)
    usd: Decimal | None = Field(default=None, ge=0)
