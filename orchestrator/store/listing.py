"""Listings: runs by any filter, newest first, a page at a time. Put together when they are asked for, so by SQLAlchemy.

A filter that matches next to nothing must not read every run there is. So a listing is merged from lanes: runs that lie
side by side in one index, in the order of their creation. Without a filter there is a lane for each state, with a project
one for each state in that project. A name of workflows stands for many definitions, since each change of a workflow is
one; there is a lane for each definition, project and state that occur together, and those whose newest run is too old
are never read. Runs that failed have lanes by their error's code instead of by their state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, desc, func, literal_column, or_, select

from orchestrator.contracts.run import ErrorInfo, RunFilter, RunState, RunSummary
from orchestrator.errors import RunNotFound
from orchestrator.store.database import Database, sqlite_value, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.tables import project, run, workflow

#: A name that stands for more pairs of definition and project than this has so many runs that the newest are looked through.
_MOST_PAIRS = 500
_FIRST_ID, _LAST_ID = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
_LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC)

Conditions = tuple[ColumnElement[bool], ...]


@dataclass(frozen=True, slots=True)
class _Lane:
    """Runs that one index has in the order of their creation; `newest` is when the last of them was made, if known."""

    conditions: Conditions
    newest: Any = None


def list_runs(database: Database, which: RunFilter, *, limit: int, after: str | None = None) -> list[RunSummary]:
    """Give the newest runs first, at most `limit`, those behind the run `after`; raises `RunNotFound` if that is none."""
    with database.connect(snapshot=True) as connection:
        search = _Search(database, connection, which, after)
        keys: list[Any] = []
        for lane in search.lanes():
            full = len(keys) == limit
            if full and lane.newest is not None and lane.newest < keys[-1].created_at:
                break
            query = (
                select(run.c.id, run.c.created_at)
                .where(*search.bounds, *lane.conditions, *([run.c.created_at >= keys[-1].created_at] if full else []))
                .order_by(desc(run.c.created_at), desc(run.c.id))
                # Written out: a plan that is made for any limit expects to read a tenth of all runs, and sorts them.
                .limit(literal_column(str(limit)))
            )
            found = connection.execute(query).all()
            keys = sorted([*keys, *found], key=lambda key: (key.created_at, key.id), reverse=True)[:limit]
        return _summaries(connection, [key.id for key in keys])


def count_runs(database: Database, which: RunFilter) -> int:
    """Give the number of runs that are meant."""
    counting = select(func.count()).select_from(run)
    with database.connect(snapshot=True) as connection:
        search = _Search(database, connection, which)
        queries = [counting.where(*search.bounds, *lane.conditions) for lane in search.lanes()]
        return sum(connection.execute(query).scalar_one() for query in queries)


class _Search:
    """One look at the runs that are meant: the stretch of time, and the lanes to read."""

    def __init__(self, database: Database, connection: Connection, which: RunFilter, after: str | None = None) -> None:
        self._statement = database.statement
        self._connection = connection
        self._which = which
        self._on_sqlite = database.dialect == "sqlite"
        ended = self._stored(which.ended_before)
        # A run that ended before a time was made before it.
        bounds = [each for each in (which.before, which.ended_before) if each is not None]
        since, until = self._stored(which.since), self._stored(min(bounds, default=_LAST_TIME))
        behind = _FIRST_ID  # before which there is none: at that very moment nothing is meant
        if after is not None:
            found = connection.execute(select(run.c.created_at).where(run.c.id == after)).scalar_one_or_none()
            if found is None:
                raise RunNotFound(f"there is no run {after} in this database behind which a listing could go on")
            until, behind = (found, after) if found < until else (until, behind)
        self._until = until
        made = run.c.created_at
        self.bounds: Conditions = (made <= until, or_(made < until, run.c.id < behind))
        if since is not None:
            self.bounds += (made >= since,)
        if ended is not None:
            self.bounds += (run.c.finished_at < ended,)

    def lanes(self) -> Iterable[_Lane]:
        """Give the lanes to read, that of the newest run first where it is known."""
        which = self._which
        if which.error is not None and which.states and RunState.FAILED not in which.states:
            return []
        project_id = None if which.project is None else self._project_id(which.project)
        if which.project is not None and project_id is None:
            return []
        ends = self._ends()
        where: Conditions = () if project_id is None else (run.c.project_id == project_id,)
        if which.variant is not None:
            return [self._lane_of_variant(which.variant, where, ends)]
        if which.workflow is not None:
            lanes = self._lanes_of_workflow(which.workflow, project_id, ends)
            if lanes is not None:
                return lanes
            where += (run.c.workflow_id.in_(select(workflow.c.id).where(workflow.c.name == which.workflow)),)
        return [_Lane((*where, *end)) for end in ends.values()]

    def _lane_of_variant(self, variant: str, where: Conditions, ends: Mapping[str, Conditions]) -> _Lane:
        """Give one lane: the runs of a variant lie side by side, and all else is looked at in each of them."""
        named = self._which.workflow
        if named is not None:
            where += (run.c.workflow_id.in_(select(workflow.c.id).where(workflow.c.name == named)),)
        return _Lane((run.c.variant == variant, *where, or_(*(and_(*end) for end in ends.values()))))

    def _lanes_of_workflow(
        self, name: str, project_id: str | None, ends: Mapping[str, Conditions]
    ) -> Iterable[_Lane] | None:
        """Give a lane for each definition, project and end that occur together, None if they are too many."""
        place = {"name": name, "first": project_id or _FIRST_ID, "last": project_id or _LAST_ID}
        error = self._which.error
        if error is not None and not self._on_sqlite:
            statement, end = "newest_failure_of_workflow", {"code": error}
        else:
            states = ends if error is None else [RunState.FAILED.value]
            statement, end = "newest_of_workflow", {"states": json.dumps(dict.fromkeys(states))}
        rows = self._connection.exec_driver_sql(
            self._statement(statement), {**place, **end, "until": self._until, "most": _MOST_PAIRS + 1}
        ).all()
        if len({(definition, project) for definition, project, *_ in rows}) > _MOST_PAIRS:
            return None
        known = sorted((row for row in rows if row[3] is not None), key=lambda row: row[3], reverse=True)
        # One by one: most are never read.
        return (
            _Lane((run.c.workflow_id == definition, run.c.project_id == project, *ends[error or state]), newest)
            for definition, project, state, newest in known
        )

    def _ends(self) -> dict[str, Conditions]:
        """Give the conditions on how far runs have come: by state, or by the code of the error that failed them."""
        error = self._which.error
        if error is None:
            return {state.value: (run.c.state == state.value,) for state in self._which.states or RunState}
        if self._on_sqlite:
            code = func.json_extract(run.c.error, "$.code")
            return {error: (run.c.state == RunState.FAILED.value, code == error)}
        code = run.c.error.op("->>", return_type=Text())(literal_column("'code'"))
        return {error: (run.c.error.is_not(None), code == error)}

    def _project_id(self, name: str) -> str | None:
        query = select(project.c.id).where(project.c.tenant_id == DEFAULT_TENANT_ID, project.c.name == name)
        return self._connection.execute(query).scalar_one_or_none()

    def _stored(self, at: datetime | None) -> Any:
        return sqlite_value(at) if self._on_sqlite else at


# What is shown --------------------------------------------------------------------------------------------------------


def _summaries(connection: Connection, identities: Sequence[str]) -> list[RunSummary]:
    """Give runs as lines of a list, in this order."""
    query = (
        select(
            run.c.id,
            project.c.name.label("project"),
            workflow.c.name.label("workflow"),
            run.c.state,
            run.c.error,
            run.c.created_at,
            run.c.started_at,
            run.c.finished_at,
            run.c.variant,
        )
        .join(project, project.c.id == run.c.project_id)
        .join(workflow, workflow.c.id == run.c.workflow_id)
        .where(run.c.id.in_(identities))
    )
    found = {row.id: row for row in connection.execute(query)} if identities else {}
    return [
        RunSummary(
            id=row.id,
            project=row.project,
            workflow=row.workflow,
            state=RunState(row.state),
            error=None if row.error is None else ErrorInfo.model_validate(row.error),
            created_at=times(row.created_at) or row.created_at,
            started_at=times(row.started_at),
            finished_at=times(row.finished_at),
            variant=row.variant,
        )
        for row in (found[identity] for identity in identities if identity in found)
    ]
