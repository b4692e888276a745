"""Reports of the ledger: what calls have used and cost, added up by what people ask for. By SQLAlchemy, like listings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, case, cast, func, select
from sqlalchemy.types import Text

from orchestrator.contracts.cost import CostFilter, CostLine, Dimension
from orchestrator.contracts.money import plain_usd
from orchestrator.store.database import Database, sqlite_value
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.tables import model_call, project, run, tenant

_lines = model_call.c
#: What stands for a dimension that a call has nothing of.
NOTHING = "-"


def list_costs(
    database: Database, by: Sequence[Dimension], which: CostFilter, *, limit: int | None = None
) -> list[CostLine]:
    """Give what the calls that are meant have used and cost, a line for each group, the dearest first."""
    groups = {name: _group(database.dialect, name) for name in by}
    cost = func.coalesce(_sum(_lines.cost_nanousd, _lines.state == "settled"), 0)
    query = (
        select(*(column.label(name) for name, column in groups.items()), *_amounts(cost))
        .where(_lines.tenant_id == DEFAULT_TENANT_ID, _lines.state != "released", *_conditions(database, which))
        .group_by(*groups.values())
        .order_by(cost.desc(), *groups.values())
    )
    if "project" in groups:
        query = query.outerjoin(project, project.c.id == _lines.project_id)
    if "variant" in groups or which.variant is not None:
        query = query.outerjoin(run, run.c.id == _lines.run_id)
    if "tenant" in groups:
        query = query.join(tenant, tenant.c.id == _lines.tenant_id)
    with database.connect(snapshot=True) as connection:
        rows = connection.execute(query if limit is None else query.limit(limit)).mappings().all()
    return [_line(row, tuple(groups)) for row in rows if row["calls"]]


def _group(dialect: str, name: Dimension) -> ColumnElement[Any]:
    """Give what a dimension is, as text."""
    columns: dict[str, Any] = {
        "tenant": tenant.c.name,
        "project": project.c.name,
        "batch": cast(_lines.batch_id, String),
        "user": _lines.user_label,
        "run": cast(_lines.run_id, String),
        "agent": _lines.agent,
        "model": _lines.model,
        "variant": run.c.variant,
    }
    if name != "day":
        return func.coalesce(columns[name], NOTHING)
    if dialect == "sqlite":
        return func.substr(_lines.created_at, 1, 10)
    return func.to_char(func.timezone("UTC", _lines.created_at), "YYYY-MM-DD", type_=Text())


def _sum(amount: Any, condition: ColumnElement[bool]) -> Any:
    return func.sum(case((condition, amount), else_=0))


def _amounts(cost: Any) -> list[Any]:
    settled, provider = _lines.state == "settled", _lines.provenance == "provider"
    unpriced = settled & _lines.cost_nanousd.is_(None)
    columns = {
        "calls": func.count(),
        "input_tokens": func.sum(_lines.input_tokens),
        "cached_input_tokens": func.sum(_lines.cached_input_tokens),
        "output_tokens": func.sum(_lines.output_tokens),
        "cost": cost,
        "reserved": _sum(_lines.reserved_nanousd, _lines.state == "reserved"),
        "unknown_calls": _sum(1, _lines.state == "unknown"),
        "unknown": _sum(_lines.reserved_nanousd, _lines.state == "unknown"),
        "unpriced_calls": _sum(1, unpriced & provider),
        "saved_calls": _sum(1, settled & ~provider),
    }
    return [column.label(name) for name, column in columns.items()]


def _conditions(database: Database, which: CostFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if which.project is not None:
        named = select(project.c.id).where(project.c.tenant_id == DEFAULT_TENANT_ID, project.c.name == which.project)
        conditions.append(_lines.project_id == named.scalar_subquery())
    for column, value in (
        (_lines.user_label, which.user),
        (_lines.run_id, which.run),
        (_lines.batch_id, which.batch),
        (_lines.agent, which.agent),
        (_lines.model, which.model),
        (run.c.variant, which.variant),
    ):
        if value is not None:
            conditions.append(column == value)
    sqlite = database.dialect == "sqlite"
    if which.since is not None:
        conditions.append(_lines.created_at >= (sqlite_value(which.since) if sqlite else which.since))
    if which.before is not None:
        conditions.append(_lines.created_at < (sqlite_value(which.before) if sqlite else which.before))
    return conditions


def _line(row: Mapping[Any, Any], names: Sequence[str]) -> CostLine:
    counts = ("calls", "input_tokens", "cached_input_tokens", "output_tokens")
    values: dict[str, Any] = {name: row[name] for name in names}
    values |= {name: int(row[name]) for name in (*counts, "unknown_calls", "unpriced_calls", "saved_calls")}
    amounts = {"usd": "cost", "reserved_usd": "reserved", "unknown_usd": "unknown"}
    values |= {name: plain_usd(int(row[column])) for name, column in amounts.items()}
    return CostLine(**values)
