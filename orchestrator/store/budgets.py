"""Budgets as people set and see them; what calls do with them is in `ledger.py`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Text, case, cast, func, insert, literal, select, update

from orchestrator.clock import ids
from orchestrator.contracts.budget import Budget, BudgetSummary, Mode, OnCap, Period
from orchestrator.contracts.money import plain_usd
from orchestrator.store.database import Database, sqlite_value, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.judging import period_began, period_ends, told
from orchestrator.store.tables import budget, budget_wait, model_call, project

#: Before every call: the beginning of a budget without periods.
FOREVER = datetime(1970, 1, 1, tzinfo=UTC)
#: The column of the ledger by which the calls of a scope are found.
_COLUMNS = {
    "tenant": model_call.c.tenant_id,
    "project": model_call.c.project_id,
    "user": model_call.c.user_label,
    "batch": model_call.c.batch_id,
    "run": model_call.c.run_id,
    "agent-run": model_call.c.agent_run_id,
}
_MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """What a budget is about, as it is stored: `run_id` is given for a run and an agent run, with which it goes."""

    kind: str
    target: str
    run_id: str | None = None

    @property
    def scope(self) -> str:
        return f"{self.kind}/{self.target}"


class Budgets:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, place: Place, wanted: Budget) -> None:
        """Set the budget of a scope and a period, or change it. What has been spent there in this period counts.

        It is counted anew, from the ledger, while no call can be reserved or settled.
        """
        with self._database.connect() as connection:
            if self._database.dialect == "postgresql":
                connection.exec_driver_sql(self._database.statement("hold_ledger"))
            now = _now(connection)
            since = FOREVER if wanted.period == "none" else period_began(wanted.period, now)
            values = {
                "mode": wanted.mode,
                "on_cap": wanted.on_cap,
                "limit_nanousd": wanted.limit_nanousd,
                "period_from": self._stored(since),
                "warned_at": None,
                **self._counted(connection, place, wanted.mode, since),
            }
            changing = update(budget).where(*_the(place.scope, wanted.period)).values(**values)
            if connection.execute(changing).rowcount == 0:
                key = {"id": ids.new(), "tenant_id": DEFAULT_TENANT_ID, "scope": place.scope, "period": wanted.period}
                made = {**key, "run_id": place.run_id, "created_at": self._stored(now)}
                connection.execute(insert(budget).values(**made, **values))

    def raise_to(self, scope: str, period: Period, limit_nanousd: int) -> bool:
        """Give a budget a higher limit; false when it has that much already, or is not there."""
        return self._change("raise_budget", scope, period, limit=limit_nanousd)

    def raise_by(self, scope: str, period: Period, amount_nanousd: int) -> bool:
        """Raise the limit of a budget by an amount; false when there is none."""
        return self._change("add_to_budget", scope, period, amount=amount_nanousd)

    def remove(self, scope: str, period: Period) -> bool:
        """End a budget; false when there is none. What waits for it is woken by the next `Ledger.wake`."""
        return self._change("remove_budget", scope, period)

    def list(self, scope: str | None = None, *, of_runs: bool = False) -> list[BudgetSummary]:
        """Give budgets by scope and period, at most 1,000: those of one scope, or all but those of runs, or all."""
        waiting = (
            select(func.count(budget_wait.c.agent_run_id.distinct()))
            .where(budget_wait.c.budget_id == budget.c.id)
            .scalar_subquery()
        )
        query = (
            select(budget, project.c.name.label("project"), waiting.label("waiting"))
            .select_from(budget.outerjoin(project, budget.c.scope == literal("project/") + cast(project.c.id, Text)))
            .where(budget.c.tenant_id == DEFAULT_TENANT_ID)
            .order_by(budget.c.scope, budget.c.period)
            .limit(_MOST_LISTED)
        )
        if scope is not None:
            query = query.where(budget.c.scope == scope)
        elif not of_runs:
            query = query.where(budget.c.run_id.is_(None))
        with self._database.connect(snapshot=True) as connection:
            now = _now(connection)
            return [_summary(row, now) for row in connection.execute(query)]

    def _counted(self, connection: Connection, place: Place, mode: Mode, since: datetime) -> dict[str, Any]:
        """Add up what the ledger has of a scope since a time."""
        lines = model_call.c
        held = lines.reserved_nanousd if mode == "strict" else lines.expected_nanousd

        def summed(state: str, amount: Any) -> Any:
            return func.coalesce(func.sum(case((lines.state == state, amount), else_=0)), 0)

        query = select(
            summed("settled", func.coalesce(lines.cost_nanousd, 0)),
            summed("reserved", held),
            summed("unknown", held),
            summed("unknown", 1),
        ).where(_COLUMNS[place.kind] == place.target, lines.created_at >= self._stored(since))
        if place.run_id is not None:
            query = query.where(lines.run_id == place.run_id)
        found = connection.execute(query).one()
        names = ("settled_nanousd", "reserved_nanousd", "unknown_nanousd", "unknown_calls")
        return dict(zip(names, map(int, found), strict=True))

    def _change(self, statement: str, scope: str, period: Period, **amounts: int) -> bool:
        which = {"tenant_id": DEFAULT_TENANT_ID, "scope": scope, "period": period}
        return self._database.execute(lambda session: session.run(statement, **which, **amounts)) == 1

    def _stored(self, at: datetime) -> Any:
        return sqlite_value(at) if self._database.dialect == "sqlite" else at


def _the(scope: str, period: Period) -> tuple[Any, ...]:
    return budget.c.tenant_id == DEFAULT_TENANT_ID, budget.c.scope == scope, budget.c.period == period


def _now(connection: Connection) -> datetime:
    if connection.dialect.name == "postgresql":
        return connection.execute(select(func.now())).scalar_one().astimezone(UTC)
    found = times(connection.exec_driver_sql("SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now')").scalar_one())
    if found is None:
        raise LookupError("the database did not tell its time")
    return found


def _summary(row: Row[Any], now: datetime) -> BudgetSummary:
    period: Period = row.period
    on_cap: OnCap = row.on_cap
    began = times(row.period_from) or now
    anew = period != "none" and began < period_began(period, now)
    settled, reserved, unknown, calls = (
        (0, 0, 0, 0) if anew
        else (row.settled_nanousd, row.reserved_nanousd, row.unknown_nanousd, row.unknown_calls)
    )  # fmt: skip
    return BudgetSummary(
        scope=told(row.scope, row.project),
        period=period,
        mode=row.mode,
        on_cap=on_cap,
        limit_usd=plain_usd(row.limit_nanousd),
        spent_usd=plain_usd(settled),
        reserved_usd=plain_usd(reserved),
        unknown_usd=plain_usd(unknown),
        unknown_calls=calls,
        left_usd=plain_usd(max(0, row.limit_nanousd - settled - reserved - unknown)),
        over_usd=plain_usd(max(0, settled - row.limit_nanousd)),
        waiting=row.waiting,
        since=(times(row.created_at) or now).astimezone(UTC) if period == "none" else period_began(period, now),
        until=period_ends(period, now),
    )
