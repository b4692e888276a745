"""What recorded effects cost: ten steps of an agent against ten steps of a DBOS workflow, both on Postgres."""

from __future__ import annotations

from harness import OURS, Bench, Row, expect, throughput
from others import DBOS_VARIANTS, Other
from ours import DURABLE_AGENTS, Fleet

STEPS = 10
RUNS = 150
DBOS_RUNS = {"DBOS, threads": 60, "DBOS, asyncio": 60, "DBOS, queue": 30}
TARGET = 2.0


def effects(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        libraries = [Other(alone, label) for label in DBOS_VARIANTS]
        ours = Fleet(alone, "rabbitmq", concurrency=alone.concurrency, agents=DURABLE_AGENTS)
        ours.start_worker()
        counts = {side.name: alone.count(DBOS_RUNS[side.name]) for side in libraries} | {OURS: alone.count(RUNS)}
        rounds = throughput(alone, (ours, *libraries), "steps", counts)
        _check_ours(ours)
        for library in libraries:
            _check_dbos(ours, library)
    what = f"durable agent with {STEPS} recorded no-op steps vs a DBOS workflow with {STEPS} steps"
    return [Row("effects-dbos", what, rounds, "runs/s", TARGET, ratio=True)]


def _check_ours(fleet: Fleet) -> None:
    """Every run has succeeded: the harness saw that. Each has all its outcomes, and nothing else is recorded."""
    runs = fleet.scalar("SELECT count(*) FROM @run WHERE state = 'succeeded'")
    recorded = fleet.rows("SELECT kind, state, count(*) FROM @journal GROUP BY 1, 2")
    expect(recorded, [("step", "done", runs * STEPS)], "recorded effects")


def _check_dbos(fleet: Fleet, library: Other) -> None:
    """Look into its tables, by their names in the version that `constraints.txt` names."""
    states = fleet.rows(f'SELECT status, count(*) FROM "{library.schema}".workflow_status GROUP BY 1')
    expect([state for state, _ in states], ["SUCCESS"], f"{library.name}: states of the workflows")
    recorded = fleet.scalar(f'SELECT count(*) FROM "{library.schema}".operation_outputs WHERE error IS NULL')
    expect(recorded, states[0][1] * STEPS, f"{library.name}: recorded steps")
