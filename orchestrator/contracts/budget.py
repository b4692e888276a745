"""Budgets: how much may be spent where, and what the ledger answers to a call that wants to spend."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator

from orchestrator.contracts.effect import Slot
from orchestrator.contracts.money import show_usd, to_nanousd
from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage
from orchestrator.errors import BudgetExceeded, UsageError

Period = Literal["none", "day", "month"]
Mode = Literal["strict", "expected"]
OnCap = Literal["pause", "fail", "warn"]
Kind = Literal["tenant", "project", "user", "batch", "run", "agent-run"]
Provenance = Literal["provider", "cache", "flight"]

#: Every kind of scope, from the widest to the narrowest.
KINDS: tuple[Kind, ...] = ("tenant", "project", "user", "batch", "run", "agent-run")
_MOST_USD = 1_000_000_000
_IDS = frozenset({"batch", "run", "agent-run"})
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOST_CHARACTERS = 200


def _is_label(text: str) -> str:
    if not text.strip() or len(text) > _MOST_CHARACTERS or not text.isprintable():
        raise ValueError(f"give printable text of 1 to {_MOST_CHARACTERS} characters, such as an id of your own")
    return text


#: Whom costs are charged to, in words of the installation's own.
Label = Annotated[str, AfterValidator(_is_label)]


class Budget(Value):
    """How much may be spent: `usd` in all, or in each `day` or `month` (UTC).

    `strict` reserves what a call can cost at most, and is never overshot; `expected` reserves what such calls have cost
    so far, with a margin, and may be overshot by what is in flight. At the cap `pause` suspends agent runs until the
    budget is raised or a new period begins, `fail` fails them, and `warn` lets them go on.
    """

    usd: Decimal = Field(ge=0, le=_MOST_USD, allow_inf_nan=False)
    period: Period = "none"
    mode: Mode = "strict"
    on_cap: OnCap = "pause"

    @field_validator("usd", mode="before")
    @classmethod
    def _exact(cls, value: Any) -> Any:
        # 0.1 as a float is another number than the one that was written.
        return str(value) if isinstance(value, float) else value

    @property
    def limit_nanousd(self) -> int:
        return to_nanousd(self.usd)

    @classmethod
    def checked(cls, **given: Any) -> Self:
        """Give the budget that was asked for in so many words; raises `UsageError` naming what is wrong."""
        try:
            return cls(**given)
        except ValidationError as error:
            fault = error.errors()[0]
            raise UsageError(f"budget: {fault['loc'][0]} {fault['input']}: {fault['msg'].lower()}") from None

    @classmethod
    def of(cls, given: Budget | Decimal | float) -> Budget:
        """Give the budget that an amount stands for; raises `UsageError`."""
        return given if isinstance(given, Budget) else cls.checked(usd=given)


class Scope(NamedTuple):
    """What a budget is about, written `project/press`, `user/ada`, `run/ID`, or `tenant` alone.

    `target` is a name or an id, and nothing for the tenant.
    """

    kind: Kind
    target: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Give the scope that people write; raises `UsageError`."""
        kind, separator, target = text.partition("/")
        meant: Kind | None = next((each for each in KINDS if each == kind.strip().lower().replace("_", "-")), None)
        if meant is None or (meant == "tenant") is not (not separator) or (separator and not target):
            raise UsageError(
                f"{text!r} names nothing that has a budget: write tenant, project/NAME, user/NAME, batch/ID, run/ID or "
                "agent-run/ID"
            )
        if meant in _IDS and not _ID.fullmatch(target.lower()):
            raise UsageError(f"{text!r}: {target!r} is no id; `nightfleet runs` lists those of runs")
        return cls(meant, target.lower() if meant in _IDS else target)

    def __str__(self) -> str:
        return f"{self.kind}/{self.target}" if self.target else self.kind


class BudgetSummary(Value):
    """A budget and how much of it is used, in decimal dollars; amounts are those of the current period.

    `spent_usd` is settled, `reserved_usd` held for calls in flight. `unknown_usd` is kept for `unknown_calls` of which
    nobody knows whether they were billed; `left_usd` is what is left of all three, `over_usd` by how much the settled part
    is over the limit. `waiting` agent runs are paused by it.
    """

    schema_version: Literal[1] = 1
    scope: str
    period: Period
    mode: Mode
    on_cap: OnCap
    limit_usd: str
    spent_usd: str
    reserved_usd: str
    unknown_usd: str
    unknown_calls: int
    left_usd: str
    over_usd: str
    waiting: int
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Charge:
    """Whom a run is charged to, beside its project, what it may cost, and what it is counted with."""

    user: str | None = None
    budget: Budget | None = None
    batch_id: str | None = None
    #: What it is one of: `evaluation/variant`, `evaluation/judge/grader`, or `experiment/arm`.
    variant: str | None = None

    @classmethod
    def to(cls, user: str | None, budget: Budget | Decimal | float | None = None) -> Self:
        """Give the charge that a caller asks for; raises `UsageError`."""
        try:
            user = None if user is None else _is_label(user)
        except ValueError as error:
            raise UsageError(f"user: {user!r} is no label: {error}") from None
        found = None if budget is None else Budget.of(budget)
        if found is not None and found.period != "none":
            raise UsageError(
                "the budget of a run is for all of it: leave `period` out, or give one to its user or project"
            )
        return cls(user, found)


NOBODY = Charge()


@dataclass(frozen=True, slots=True)
class Call:
    """One try of a model call, by where it happens: the same place, claim and try is the same call.

    `credential` is the alias of a key, never the key.
    """

    tenant_id: str
    run_id: str
    agent_run_id: str
    epoch: int
    slot: Slot
    attempt: int
    agent: str
    model: str
    credential: str | None = None

    @property
    def id(self) -> str:
        """The call's id: it follows from the others, and sorts as its agent run's does."""
        text = f"{self.agent_run_id} {self.epoch} {self.slot} {self.attempt}"
        found = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.agent_run_id[:18]}-8{found[:3]}-{found[3:15]}"


@dataclass(frozen=True, slots=True)
class Bill:
    """What came of a call. `cost_nanousd` is None where the model has no price; `price` says whose price it was, of when."""

    cost_nanousd: int | None
    usage: Usage = field(default_factory=Usage)
    price: str | None = None
    request_id: str | None = None
    provenance: Provenance = "provider"


@dataclass(frozen=True, slots=True)
class Reserved:
    """The call may be made, and is in the ledger. `nanousd` is the most that it can cost: held in each strict budget about it.

    `warnings` name budgets that only warn and that this call is the first of the period to pass.
    """

    nanousd: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capped:
    """The call must not be made now: a budget is in the way.

    With `settling` calls in flight hold what it needs, and what they leave may be enough: whoever asks again later may be
    lucky, whatever `on_cap` says. `left_nanousd` is the most that a call could reserve once nothing is in flight.
    `resets_seconds` is the time until the period ends.
    """

    scope: str
    period: Period
    on_cap: OnCap
    settling: bool
    limit_nanousd: int
    left_nanousd: int
    needed_nanousd: int
    resets_seconds: float | None

    def told(self) -> str:
        """Say what is in the way, for people."""
        each = "" if self.period == "none" else f" a {self.period}"
        return (
            f"the budget of {self.scope} ({show_usd(self.limit_nanousd)}{each}) has {show_usd(max(0, self.left_nanousd))} "
            f"left, and the call may cost {show_usd(self.needed_nanousd)}"
        )

    def told_how_to_go_on(self) -> str:
        """Say what is in the way, and what takes it out of the way."""
        period = "" if self.period == "none" else f" --period {self.period}"
        return f"{self.told()}: raise it with `nightfleet budgets raise {self.scope} +USD{period}`"

    def error(self) -> BudgetExceeded:
        """Give the error of an agent run that this fails."""
        return BudgetExceeded(
            f"{self.told_how_to_go_on()} and retry the run",
            details={"scope": self.scope, "period": self.period},
        )
