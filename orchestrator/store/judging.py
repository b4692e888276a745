"""Whether a call fits into its budgets: what each of them says, and what that comes to.

On Postgres the statement `reserve` decides the same in SQL, so that a call costs one round trip; one contract suite holds
for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from orchestrator.contracts.budget import Call, Capped, Mode, OnCap, Period, Reserved
from orchestrator.errors import BudgetUnpriced

Verdict = Literal["fits", "full", "capped", "unpriced"]

#: What `expected` adds to what such calls have cost, in tenths, and for how many calls at their worst it begins.
_TENTHS, _PRIOR = 11, 2
#: One call of so many is what the learned cost forgets with each new one.
_MEMORY = 64


@dataclass(frozen=True, slots=True)
class Judged:
    """One budget, and what it says of a call: `take` is what it would hold for it, `spent` what is settled or unknown."""

    id: str
    scope: str
    period: Period
    on_cap: OnCap
    limit: int
    spent: int
    take: int
    verdict: Verdict
    #: It only warns, and this call is the first of the period to pass it.
    warns: bool


@dataclass(slots=True)
class Held:
    """A budget as its row has it, held by a transaction; `amounts` are brought to the period that it is now."""

    id: str
    scope: str
    period: Period
    mode: Mode
    on_cap: OnCap
    limit: int
    settled: int
    reserved: int
    unknown: int
    unknown_calls: int
    learned_cost: int
    learned_worst: int
    period_from: str
    warned_at: str | None

    def begin(self, period_began: str) -> None:
        """Begin at nothing if what the row has is of an earlier period."""
        if self.period != "none" and self.period_from < period_began:
            self.settled = self.reserved = self.unknown = self.unknown_calls = 0
            self.period_from = period_began

    def expects(self, worst: int) -> int:
        """Give what such calls have cost so far and a tenth; with little known, as if two had cost all they could."""
        known = 10 * (self.learned_worst + _PRIOR * worst)
        return min(worst, -(-worst * _TENTHS * (self.learned_cost + _PRIOR * worst) // known)) if known else 0

    def learn(self, cost: int, worst: int) -> None:
        """Take in what a call has cost, and what it could have."""
        self.learned_cost += cost - self.learned_cost // _MEMORY
        self.learned_worst += worst - self.learned_worst // _MEMORY

    def judge(self, take: int, *, priced: bool) -> Judged:
        spent = self.settled + self.unknown
        passes = take > 0 and spent + take > self.limit
        verdict: Verdict = "fits"
        if self.on_cap != "warn":
            full = take > 0 and spent + self.reserved + take > self.limit
            verdict = "unpriced" if not priced else "capped" if passes else "full" if full else "fits"
        fresh = self.warned_at is None or self.warned_at < self.period_from
        warns = self.on_cap == "warn" and passes and fresh
        return Judged(self.id, self.scope, self.period, self.on_cap, self.limit, spent, take, verdict, warns)


def answer(
    call: Call, judged: Sequence[Judged], worst: int, *, now: datetime, project: str | None
) -> Reserved | Capped:
    """Give what the budgets of a call come to; raises `BudgetUnpriced`."""
    for each in judged:
        if each.verdict == "unpriced":
            raise BudgetUnpriced(
                f"{call.model} has no price, and the budget of {told(each.scope, project)} must hold: give the model one in "
                "the file of NIGHTFLEET_MODELS_FILE, or let the budget warn (`nightfleet budgets set ... --on-cap warn`)",
                details={"model": call.model, "scope": told(each.scope, project)},
            )
    if (blocking := first_in_the_way(judged)) is None:
        return Reserved(worst, tuple(told(each.scope, project) for each in judged if each.warns))
    return Capped(
        scope=told(blocking.scope, project),
        period=blocking.period,
        on_cap=blocking.on_cap,
        settling=blocking.verdict == "full",
        limit_nanousd=blocking.limit,
        left_nanousd=blocking.limit - blocking.spent,
        needed_nanousd=blocking.take,
        resets_seconds=seconds_left(blocking.period, now),
    )


def already(call: Call, state: str | None, worst: int) -> Reserved | None:
    """Give the answer to a call that the ledger knows, None for a new one; raises `ValueError` for one that has ended."""
    if state in {"settled", "released"}:
        raise ValueError(f"call {call.id} ({call.slot}, try {call.attempt}) is {state}: the next try is another call")
    return None if state is None else Reserved(worst)


def first_in_the_way(judged: Sequence[Judged]) -> Judged | None:
    """Give the budget that decides: one that fails before one that pauses, and that before one where waiting helps."""

    def weight(each: Judged) -> tuple[bool, bool, str]:
        return each.verdict == "full", each.on_cap != "fail", each.id

    return min((each for each in judged if each.verdict in {"capped", "full"}), key=weight, default=None)


def told(scope: str, project: str | None) -> str:
    """Give a stored scope as people write it."""
    kind, _, target = scope.partition("/")
    if kind == "tenant":
        return kind
    return f"project/{project}" if kind == "project" and project is not None else f"{kind}/{target}"


def period_began(period: Period, now: datetime) -> datetime:
    """Give the beginning of the day or month of a time."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return day.replace(day=1) if period == "month" else day


def period_ends(period: Period, now: datetime) -> datetime | None:
    """Give the end of the day or month of a time, None for a budget without periods."""
    if period == "none":
        return None
    began = period_began(period, now)
    return began + timedelta(days=1) if period == "day" else period_began("month", began + timedelta(days=32))


def seconds_left(period: Period, now: datetime) -> float | None:
    """Give the seconds until a period ends."""
    ends = period_ends(period, now)
    return None if ends is None else (ends - now).total_seconds()


def judged_of(row: Sequence[Any]) -> Judged:
    """Give the first columns of a row of `reserve`."""
    return Judged(*row[:9])
