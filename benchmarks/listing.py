"""Listings: the newest 50 of a million runs, by filters that match much, little, and nothing."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from harness import OURS, Bench, Row, expect, percentile
from sqlalchemy import text

from orchestrator.clock import ids
from orchestrator.contracts.run import RunFilter, RunState
from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.listing import list_runs

RUNS = 1_000_000
#: Looks of one round at each filter; their slowest but one in a hundred counts.
LOOKS = 20
TARGET_MS = 50.0
PROJECTS = ("left", "right", "rare", "empty", *(f"team-{number}" for number in range(100)))
#: Names of workflows, with the number of their definitions: `shared` stands for more of them than are told apart.
WORKFLOWS = {"left-flow": 3, "right-flow": 3, "shared": 200, "seldom": 1, "never": 1}
COLUMNS = (
    "id", "tenant_id", "project_id", "workflow_id", "state", "input", "error", "created_at", "started_at", "finished_at",
)  # fmt: skip


def listing(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        name = f"bench_{alone.token()}"
        database = Database(
            alone.database_url, schema=name, pool_size=1, connect_timeout=timedelta(seconds=4), prepare=True
        )
        alone.schema(name)
        schema.upgrade(database)
        count, now = alone.count(RUNS), datetime.now(UTC)
        began = time.monotonic()
        _fill(database, count, now)
        with database.connect() as connection:
            # As autovacuum does within minutes; while it runs, listings wait for its disk.
            connection.execute(text(f'ANALYZE "{name}".run'))
        alone.say(f"  {count:,} runs in {time.monotonic() - began:.0f} s")
        rounds = [_round(alone, database, count, now) for _ in range(alone.rounds)]
        database.close()
    what = f"newest 50 of {RUNS:,} runs, the slowest of {len(_filters(now))} filters, p99"
    return [Row("listing", what, {OURS: rounds}, "ms", TARGET_MS, "at most")]


def _round(bench: Bench, database: Database, count: int, now: datetime) -> float:
    """Look at every filter; gives the p99 of the slowest in milliseconds."""
    slowest = 0.0
    for name, (which, full) in _filters(now).items():
        looks: list[float] = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            found = len(list_runs(database, which, limit=50))
            looks.append((time.perf_counter() - began) * 1000)
            if count == RUNS:
                expect(found, full, f"runs of the filter {name}")
        slowest = max(slowest, percentile(looks, 99))
        bench.say(f"  {name:36} p50 {statistics.median(looks):6.1f} ms  p99 {percentile(looks, 99):6.1f} ms")
    return slowest


def _filters(now: datetime) -> dict[str, tuple[RunFilter, int]]:
    """Give filters with the number of runs that they show."""
    failed, still_open = (RunState.FAILED,), (RunState.PENDING, RunState.RUNNING)
    long_ago = now - timedelta(days=5)
    return {
        "all": (RunFilter(), 50),
        "project": (RunFilter(project="left"), 50),
        "project, ten old runs": (RunFilter(project="rare"), 10),
        "project, none": (RunFilter(project="empty"), 0),
        "failed": (RunFilter(states=failed), 50),
        "open, project, none": (RunFilter(states=still_open, project="rare"), 0),
        "workflow": (RunFilter(workflow="left-flow"), 50),
        "workflow, ten old runs": (RunFilter(workflow="seldom"), 10),
        "workflow of 200 definitions": (RunFilter(workflow="shared"), 50),
        "workflow of 200, project": (RunFilter(workflow="shared", project="team-7"), 50),
        "workflow, project, never together": (RunFilter(workflow="right-flow", project="left"), 0),
        "error": (RunFilter(error="agent_failed"), 50),
        "error, three old runs": (RunFilter(error="once"), 3),
        "error, project, never together": (RunFilter(error="agent_failed", project="empty"), 0),
        "error, workflow": (RunFilter(error="model_rate_limited", workflow="right-flow"), 50),
        "error, workflow, never together": (RunFilter(error="once", workflow="right-flow"), 0),
        "failed, project, since": (RunFilter(states=failed, project="left", since=now - timedelta(days=2)), 50),
        "workflow, before": (RunFilter(workflow="left-flow", before=long_ago), 50),
        "everything": (
            RunFilter(project="left", workflow="left-flow", error="agent_timeout", since=long_ago, before=now),
            50,
        ),
    }


def _fill(database: Database, count: int, now: datetime) -> None:
    projects = {name: f"0199c0de-0000-7000-8000-{number:012x}" for number, name in enumerate(PROJECTS)}
    definitions = {
        name: [f"0199c0de-0000-7000-8001-{number:06x}{each:06x}" for each in range(versions)]
        for number, (name, versions) in enumerate(WORKFLOWS.items())
    }
    with database.transaction() as session:
        columns = ("id", "tenant_id", "name", "created_at")
        session.insert(
            "project", columns, [(identity, DEFAULT_TENANT_ID, name, now) for name, identity in projects.items()]
        )
        columns = ("id", "tenant_id", "name", "created_at", "digest", "definition")
        for name, versions in definitions.items():
            rows = [(each, DEFAULT_TENANT_ID, name, now, each.replace("-", ""), "{}") for each in versions]
            session.insert("workflow", columns, rows)
        rows: list[tuple[Any, ...]] = []
        for row in _runs(count, now, projects, definitions):
            rows.append(row)
            if len(rows) == 10_000:
                session.insert("run", COLUMNS, rows)
                rows.clear()
        session.insert("run", COLUMNS, rows)


def _runs(
    count: int, now: datetime, projects: dict[str, str], definitions: dict[str, list[str]]
) -> Iterator[tuple[Any, ...]]:
    """Give a week of runs, the oldest first: most in two projects, a tenth of them failed, the newest still open."""
    chance = random.Random(7)
    step = timedelta(days=7) / count
    for number in range(count):
        at = now - step * (count - number)
        if number < 10:
            project, workflow = "rare", "seldom"
        else:
            project = chance.choices(("left", "right", f"team-{chance.randrange(100)}"), (45, 45, 10))[0]
            workflow = f"{project}-flow" if project in {"left", "right"} else "shared"
        versions = definitions[workflow]
        state, code = _end(chance, number, count)
        error = None if code is None else json.dumps({"code": code, "message": "it went wrong", "task": "reader"})
        ended = None if state in {"pending", "running"} else at + timedelta(seconds=3)
        yield (
            ids.new(), DEFAULT_TENANT_ID, projects[project], versions[number * len(versions) // count], state,
            '{"text":"' + "x" * 100 + '"}', error, at, None if state == "pending" else at, ended,
        )  # fmt: skip


def _end(chance: random.Random, number: int, count: int) -> tuple[str, str | None]:
    """Give the state of a run, and the code of its error."""
    if number < 3:
        return "failed", "once"
    share = chance.random()
    if share < 0.1:
        codes = ("agent_failed", "agent_timeout", "model_rate_limited")
        return "failed", chance.choices(codes, (80, 19, 1))[0]
    if share < 0.11:
        return "cancelled", None
    if number >= count * 0.995:
        return ("pending" if number >= count * 0.996 else "running"), None
    return "succeeded", None
