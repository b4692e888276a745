"""Workers die in the middle of loops, maps and nested workflows: nothing recorded is repeated, and all ends as if none had."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.forms import QUICK, SEED, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_settled, effects_begun
from fleet import Fleet, fleet

from orchestrator import WorkflowDefinition

POINTS = (
    "before_call", "after_call", "after_commit_before_publish", "after_claim", "before_suspend", "after_suspend",
    "before_record", "after_record", "before_completion", "after_completion", "publish",
)  # fmt: skip
ROUNDS, ITEMS, STEPS = 20, 6, 2
BRANCHES = ("b", "c", "d")
WORKFLOW = WorkflowDefinition.model_validate(
    {
        "name": "made of others",
        "tasks": [
            {"id": "rounds", "loop": {"do": "laborer", "until": f"iteration == {ROUNDS}", "max_iterations": ROUNDS}},
            {"id": "pieces", "map": {"do": "laborer", "over": "items", "max_concurrency": 2}},
            {
                "id": "inner",
                "workflow": {
                    "name": "inner",
                    "tasks": [
                        {"id": "a", "agent": "laborer"},
                        *({"id": branch, "agent": "laborer", "after": ["a"]} for branch in BRANCHES),
                        {"id": "e", "agent": "laborer", "after": [*BRANCHES]},
                    ],
                },
            },
        ],
    }
)
LABORERS = ROUNDS + ITEMS + len(BRANCHES) + 2
INPUT: dict[str, Any] = {"items": [{}] * ITEMS, "steps": STEPS, "seconds": 0.0}


def check_done(installation: Fleet, runs: int, killed: set[int]) -> None:
    query = installation.query
    assert query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", runs)]
    assert query("SELECT agent, count(*) FROM agent_run GROUP BY 1 ORDER BY 1") == [
        ("laborer", runs * LABORERS), ("loop", runs), ("map", runs), ("workflow", runs),
    ]  # fmt: skip
    outputs = {(run, task): output for run, task, output in query("SELECT run_id::text, task, output FROM agent_run")}
    for run in {run for run, _ in outputs}:
        assert outputs[run, "rounds"] == outputs[run, f"rounds-{ROUNDS}"]
        assert outputs[run, "pieces"] == [outputs[run, f"pieces-{number}"] for number in range(1, ITEMS + 1)]
        assert outputs[run, "inner"] == outputs[run, f"inner-{len(BRANCHES) + 2}"]
    performed = Performed.of(installation)
    assert performed.wrongly_repeated(killed) == []
    assert len(performed.executions) == runs * LABORERS
    assert {len(performed.effects(task)) for task in performed.executions} == {STEPS}
    assert query("SELECT DISTINCT state FROM subwork") == [("done",)]


@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_workers_that_die_at_every_point_of_loops_maps_and_nested_workflows_lose_and_repeat_nothing(
    broker: str, tmp_path: Path
) -> None:
    chance, killed = Random(SEED), set[int]()
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        for point in POINTS:
            installation.orchestrator.submit(WORKFLOW, INPUT)
            worker = installation.start_worker(NIGHTFLEET_FAILPOINTS=f"{point}=kill:{chance.randint(1, 12)}")
            installation.until(lambda worker=worker: worker.poll() is not None, f"it dies at {point}")
            killed.add(worker.pid)
        installation.start_worker()
        installation.finish(form(short=300, long=600))
        check_done(installation, len(POINTS), killed)
        check_settled(installation)


@pytest.mark.scenario
@pytest.mark.parametrize("broker", brokers("redis"))
def test_workers_that_are_killed_in_the_middle_of_what_is_made_of_others_lose_nothing(
    broker: str, tmp_path: Path
) -> None:
    runs, kills = form(short=12, long=120), form(short=3, long=30)
    chance, killed = Random(SEED), set[int]()
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        for _ in range(2):
            installation.start_worker()
        installation.orchestrator.submit_many(WORKFLOW, [{**INPUT, "seconds": 0.01}] * runs)
        total = runs * LABORERS * STEPS
        for number in range(kills):
            target = total * (number + 1) // (kills + 2)
            installation.until(lambda target=target: effects_begun(installation) >= target, "work goes on", 300)
            victim = chance.choice([worker for worker in installation.workers if worker.poll() is None])
            installation.kill(victim)
            killed.add(victim.pid)
            installation.start_worker()
        installation.finish(form(short=300, long=1800))
        check_done(installation, runs, killed)
        check_settled(installation)
