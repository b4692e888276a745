"""Listings: read by people, with filters that are put together when they are asked for, so by SQLAlchemy."""

from __future__ import annotations

from sqlalchemy import desc, select

from orchestrator.contracts.run import ErrorInfo, RunState, RunSummary
from orchestrator.store.database import Database, times
from orchestrator.store.tables import project as project_table
from orchestrator.store.tables import run, workflow


def list_runs(
    database: Database, *, project: str | None, state: RunState | None, workflow_name: str | None, limit: int
) -> list[RunSummary]:
    """Give the newest runs first, at most `limit`."""
    query = (
        select(
            run.c.id,
            project_table.c.name.label("project"),
            workflow.c.name.label("workflow"),
            run.c.state,
            run.c.error,
            run.c.created_at,
            run.c.started_at,
            run.c.finished_at,
        )
        .join(project_table, project_table.c.id == run.c.project_id)
        .join(workflow, workflow.c.id == run.c.workflow_id)
        .order_by(desc(run.c.created_at), desc(run.c.id))
        .limit(limit)
    )
    for column, value in ((project_table.c.name, project), (run.c.state, state), (workflow.c.name, workflow_name)):
        if value is not None:
            query = query.where(column == str(value))
    with database.connect() as connection:
        rows = connection.execute(query).all()
    return [
        RunSummary(
            id=row.id,
            project=row.project,
            workflow=row.workflow,
            state=RunState(row.state),
            error=None if row.error is None else ErrorInfo.model_validate(row.error),
            created_at=row.created_at,
            started_at=times(row.started_at),
            finished_at=times(row.finished_at),
        )
        for row in rows
    ]
