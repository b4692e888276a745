"""Listings give what a look at every run would give, and look at few of them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from steps import Steps, plan_of, task

from orchestrator.clock import ids
from orchestrator.contracts.run import RunFilter, RunState
from orchestrator.errors import RunNotFound
from orchestrator.store import listing
from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.listing import count_runs, list_runs
from orchestrator.store.store import Store

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PROJECTS = ("left", "right", "rare", "empty")
#: Names of workflows, with the number of their definitions.
WORKFLOWS = {"daily": 3, "weekly": 1, "never": 1}
CODES = ("agent_failed", "agent_timeout", "once")


@dataclass(frozen=True)
class Made:
    id: str
    project: str
    workflow: str
    state: RunState
    error: str | None
    created_at: datetime


def fill(database: Database, count: int) -> list[Made]:
    """Store runs of all kinds, several at each moment, the newest last; `rare` and `once` are among the oldest."""
    chance = random.Random(5)
    now = {name: f"0199c0de-0000-7000-8000-{number:012x}" for number, name in enumerate(PROJECTS, 1)}
    definitions = {
        name: [f"0199c0de-0000-7000-8001-{number:08x}{each:04x}" for each in range(versions)]
        for number, (name, versions) in enumerate(WORKFLOWS.items())
    }
    made: list[Made] = []
    rows: list[tuple[Any, ...]] = []
    for number in range(count):
        project = "rare" if number < 5 else chance.choice(("left", "right"))
        # No run of the right project is of the daily workflow.
        workflow = "weekly" if project == "right" else chance.choice(("daily", "weekly", "daily"))
        state = RunState.FAILED if number < 2 else chance.choice(list(RunState))
        code = None if state is not RunState.FAILED else "once" if number < 2 else chance.choice(CODES[:2])
        at = NOW - timedelta(minutes=(count - number) // 7)
        new = Made(ids.new(), project, workflow, state, code, at)
        made.append(new)
        error = None if code is None else json.dumps({"code": code, "message": "no"})
        definition = chance.choice(definitions[workflow])
        rows.append((new.id, DEFAULT_TENANT_ID, now[project], definition, state.value, "{}", error, at))
    with database.transaction() as session:
        session.insert(
            "project",
            ("id", "tenant_id", "name", "created_at"),
            [(identity, DEFAULT_TENANT_ID, name, NOW) for name, identity in now.items()],
        )
        session.insert(
            "workflow",
            ("id", "tenant_id", "digest", "name", "definition", "created_at"),
            [
                (identity, DEFAULT_TENANT_ID, identity.replace("-", ""), name, "{}", NOW)
                for name, versions in definitions.items()
                for identity in versions
            ],
        )
        columns = ("id", "tenant_id", "project_id", "workflow_id", "state", "input", "error", "created_at")
        session.insert("run", columns, rows)
    return made


def expected(made: list[Made], which: RunFilter) -> list[str]:
    """Look at every run."""
    found = [
        run
        for run in made
        if which.project in {None, run.project}
        and which.workflow in {None, run.workflow}
        and which.error in {None, run.error}
        and (not which.states or run.state in which.states)
        and (which.since is None or run.created_at >= which.since)
        and (which.before is None or run.created_at < which.before)
    ]
    return [run.id for run in sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)]


def filters() -> Iterator[RunFilter]:
    """Give every combination of filters, those that match nothing among them."""
    spans = ((None, None), (NOW - timedelta(minutes=20), None), (None, NOW - timedelta(minutes=30)))
    for project, workflow, error, states, (since, before) in itertools.product(
        (None, "left", "rare", "empty", "unknown"),
        (None, "daily", "weekly", "never", "unknown"),
        (None, "agent_timeout", "once", "unknown"),
        ((), (RunState.FAILED,), (RunState.PENDING, RunState.RUNNING)),
        spans,
    ):
        yield RunFilter(project=project, workflow=workflow, error=error, states=states, since=since, before=before)


def test_every_combination_of_filters_gives_what_a_look_at_every_run_gives(database: Database) -> None:
    made = fill(database, 400)
    for which in random.Random(3).sample(list(filters()), 150):
        wanted = expected(made, which)
        assert [run.id for run in list_runs(database, which, limit=20)] == wanted[:20], which


def test_counting_counts_what_is_listed(database: Database) -> None:
    made = fill(database, 200)
    for which in random.Random(4).sample(list(filters()), 30):
        assert count_runs(database, which) == len(expected(made, which)), which


@pytest.mark.parametrize(
    "which",
    [
        RunFilter(),
        RunFilter(project="left", states=(RunState.FAILED, RunState.SUCCEEDED)),
        RunFilter(workflow="daily", before=NOW - timedelta(minutes=10)),
        RunFilter(error="agent_failed"),
    ],
    ids=["all", "project", "workflow", "error"],
)
def test_pages_follow_each_other_without_gap_or_overlap(database: Database, which: RunFilter) -> None:
    made = fill(database, 300)
    found: list[str] = []
    after: str | None = None
    while page := list_runs(database, which, limit=17, after=after):
        assert len(page) <= 17
        found += [run.id for run in page]
        after = page[-1].id
    assert found == expected(made, which)


def test_a_page_behind_no_run_is_an_error(database: Database) -> None:
    with pytest.raises(RunNotFound, match="behind which a listing could go on"):
        list_runs(database, RunFilter(), limit=1, after="0199c0de-0000-7000-8000-00000000ffff")


def test_a_name_of_very_many_definitions_gives_the_same(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fill(database, 200)
    monkeypatch.setattr(listing, "_MOST_PAIRS", 1)
    for which in (RunFilter(workflow="daily"), RunFilter(workflow="daily", project="left", error="agent_timeout")):
        assert [run.id for run in list_runs(database, which, limit=20)] == expected(made, which)[:20]


def test_a_line_of_the_list_says_what_the_run_is(database: Database) -> None:
    made = fill(database, 50)
    shown = list_runs(database, RunFilter(error="once"), limit=1)[0]
    [run] = [each for each in made if each.id == shown.id]
    assert (shown.project, shown.workflow, shown.state) == ("rare", run.workflow, "failed")
    assert shown.error is not None
    assert (shown.error.code, shown.created_at) == ("once", run.created_at)


def test_a_listing_looks_at_few_runs_however_rare_what_it_looks_for(migrated: Database) -> None:
    """On tables that were never analysed: those of a new installation."""
    made = fill(migrated, 6000)
    for which in random.Random(6).sample(list(filters()), 60):
        with explained(migrated) as plans:
            list_runs(migrated, which, limit=5)
        touched = sum(runs_touched(plan) for plan in plans)
        assert touched < len(made) / 20, (which, touched, json.dumps(plans, indent=1))


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (RunFilter(), "ix_run_state"),
        (RunFilter(states=(RunState.PENDING,), since=NOW - timedelta(minutes=5)), "ix_run_state"),
        (RunFilter(project="left"), "ix_run_project"),
        (RunFilter(workflow="daily"), "ix_run_workflow"),
        (RunFilter(workflow="daily", project="left", states=(RunState.FAILED,)), "ix_run_workflow"),
        (RunFilter(error="agent_failed"), "ix_run_error"),
        (RunFilter(error="agent_failed", project="right"), "ix_run_error"),
        (RunFilter(error="agent_failed", workflow="daily"), "ix_run_workflow_error"),
    ],
    ids=[
        "all",
        "state",
        "project",
        "workflow",
        "workflow in project",
        "error",
        "error in project",
        "error of workflow",
    ],
)
def test_each_kind_of_filter_reads_the_index_that_is_made_for_it(
    migrated: Database, which: RunFilter, index: str
) -> None:
    fill(migrated, 3000)
    with explained(migrated) as plans:
        assert list_runs(migrated, which, limit=5)
    *pages, _summaries = [used for plan in plans if (used := indexes_of(plan))]
    assert set(pages[-1]) == {index}


def test_a_run_that_moves_on_during_a_listing_is_in_it_once(database: Database, store: Store) -> None:
    """Each state is read by a query of its own."""
    steps = Steps(store, plan_of(task("a")))
    [run_id] = steps.start()
    moved: list[bool] = []

    def move(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not moved and "state" in statement and statement.startswith("SELECT"):
            moved.append(True)
            return
        if moved == [True]:  # after the first state was read
            moved.append(True)
            steps.claim(run_id, "a")

    event.listen(database.engine, "before_cursor_execute", move)
    try:
        found = list_runs(database, RunFilter(), limit=5)
    finally:
        event.remove(database.engine, "before_cursor_execute", move)
    assert len(moved) == 2
    assert [summary.id for summary in found] == [run_id]
    assert count_runs(database, RunFilter()) == 1


@contextmanager
def explained(database: Database) -> Generator[list[Any]]:
    """Collect the plan of every query that SQLAlchemy sends, with what its execution has read."""
    plans: list[Any] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            found = cursor.connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).fetchone()
            plans.append(json.loads(found[0])[0]["Plan"])

    event.listen(database.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(database.engine, "before_cursor_execute", explain)


def runs_touched(plan: Any) -> int:
    """Give the number of runs that a plan has read, those that a filter has thrown away included."""
    rows = 0
    if plan.get("Relation Name") == "run":
        rows = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return rows + sum(runs_touched(part) for part in plan.get("Plans", ()))


def indexes_of(plan: Any) -> list[str]:
    """Give the indexes by which a plan reads runs."""
    own = [plan["Index Name"]] if plan.get("Relation Name") == "run" else []
    return own + [name for part in plan.get("Plans", ()) for name in indexes_of(part)]
