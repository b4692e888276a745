"""What was spent, as reports and billing records have it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, Field

from orchestrator.contracts.policy import Value

#: By what costs are added up, in the order in which a record names them.
Dimension = Literal["day", "tenant", "project", "batch", "user", "run", "agent", "model", "variant"]
DIMENSIONS: tuple[Dimension, ...] = ("day", "tenant", "project", "batch", "user", "run", "agent", "model", "variant")

_named: Any = Field(default=None, exclude_if=lambda value: value is None)


class CostFilter(Value):
    """Which calls are meant: those that meet every condition that is given; times are of the call's beginning."""

    project: str | None = None
    user: str | None = None
    run: str | None = None
    batch: str | None = None
    agent: str | None = None
    model: str | None = None
    variant: str | None = None
    since: AwareDatetime | None = None
    before: AwareDatetime | None = None


class CostLine(Value):
    """What the calls of one group have used and cost: a line of a report, or a billing record.

    It names by what it is added up; `-` stands for what has none, such as runs without a user. `usd` is settled, in decimal
    dollars. `unknown_calls` may have been billed, for at most `unknown_usd`; `reserved_usd` is held for calls in flight;
    `unpriced_calls` are those of models without a price. `saved_calls` were answered from a cache or by another call in
    flight, and cost nothing. A `variant` is known of runs that are still there.
    """

    schema_version: Literal[1] = 1
    day: str | None = _named
    tenant: str | None = _named
    project: str | None = _named
    batch: str | None = _named
    user: str | None = _named
    run: str | None = _named
    agent: str | None = _named
    model: str | None = _named
    variant: str | None = _named
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    usd: str
    reserved_usd: str
    unknown_calls: int
    unknown_usd: str
    unpriced_calls: int
    saved_calls: int
