"""Model calls as the ledger sees them, for tests of what they are charged to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from steps import Steps, ago

from orchestrator.contracts.budget import Bill, Budget, Call, Capped, Reserved
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.money import to_usd
from orchestrator.store.agent_runs import Claim
from orchestrator.store.budgets import Budgets, Place
from orchestrator.store.database import Database, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.tables import budget, model_call

TENANT = Place("tenant", DEFAULT_TENANT_ID)


def call_of(claim: Claim, number: int = 0, attempt: int = 1, model: str = "openai:small") -> Call:
    """Give a call of a claim, by its number in the agent's code."""
    slot = Slot("", number)
    return Call(claim.tenant_id, claim.run_id, claim.id, claim.epoch, slot, attempt, claim.agent, model, "0a1b2c3d")


def nano(limit: int, **kind: Any) -> Budget:
    """Give a budget of so many nanodollars."""
    return Budget(usd=to_usd(limit), **kind)


def held(answer: Reserved | Capped) -> int:
    """Give what is held for a call that may be made."""
    assert isinstance(answer, Reserved), answer
    return answer.nanousd


def capped(answer: Reserved | Capped) -> Capped:
    assert isinstance(answer, Capped), answer
    return answer


class Purse:
    """Budgets of one installation, and what their rows and the ledger's say."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.database: Database = steps.store.database
        self.ledger = steps.store.ledger
        self.budgets = Budgets(self.database)

    def set(self, place: Place, limit: int, **kind: Any) -> None:
        self.budgets.set(place, nano(limit, **kind))

    def claim(self) -> Claim:
        [run_id] = self.steps.start()
        return self.steps.claim(run_id, "a")

    def spend(self, call: Call, cost: int, worst: int | None = None) -> None:
        """Make a call: reserve and settle it."""
        assert isinstance(self.ledger.reserve(call, worst or cost), Reserved)
        assert self.ledger.settle(call, Bill(cost))

    def amounts(self, place: Place) -> tuple[int, int, int]:
        """Give what is settled, reserved and unknown of the budget of a scope, as its row has it."""
        row = self.row(place)
        return row["settled_nanousd"], row["reserved_nanousd"], row["unknown_nanousd"]

    def row(self, place: Place) -> dict[str, Any]:
        with self.database.connect() as connection:
            found = connection.execute(select(budget).where(budget.c.scope == place.scope)).mappings().one()
        return dict(found)

    def lines(self) -> dict[str, dict[str, Any]]:
        """Give the lines of the ledger by id."""
        with self.database.connect() as connection:
            rows = connection.execute(select(model_call)).mappings().all()
        return {row["id"]: dict(row) | {"created_at": times(row["created_at"])} for row in rows}

    def line(self, call: Call) -> dict[str, Any]:
        return self.lines()[call.id]

    def let_pass(self, days: float) -> None:
        """Put all that there is back in time."""
        then = ago(self.database, days * 86_400)
        with self.database.connect() as connection:
            connection.execute(update(budget).where(budget.c.period != "none").values(period_from=then))
            connection.execute(update(model_call).values(created_at=then))
