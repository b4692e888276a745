"""Workers die wherever a team is at: each member has each of its turns once, and the team comes to what it always comes to."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.forms import QUICK, SEED, brokers, form
from chaos.ledger import AGENTS_PATH, ASYNC_THREADS, Performed, check_settled, effects_begun
from fleet import Fleet, fleet

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition

POINTS = (
    "before_call", "after_call", "after_commit_before_publish", "after_claim", "before_suspend", "after_suspend",
    "before_record", "after_record", "before_completion", "after_completion", "before_ack", "after_ack", "publish",
)  # fmt: skip
STEPS = 2
#: Turns of the foreman and its hands, of jurors in two rounds, of clerks; and the three teams themselves.
MEMBERS, TEAMS = (3 + 4) + (3 * 2) + 4, 3


def committees() -> WorkflowDefinition:
    """Give a workflow of three teams that go on side by side."""
    teams: dict[str, Any] = {
        "crew": {"leader_follower": {"leader": "foreman", "followers": ["hand"]}},
        "jury": {"consensus": {"members": dict.fromkeys(("ann", "bob", "cy"), "juror"), "rule": "unanimous"}},
        "office": {"handoff": {"agents": dict.fromkeys(("desk", "bills", "mends"), "clerk")}},
    }
    return WorkflowDefinition(tasks=tuple(TaskDefinition(id=name, **fields) for name, fields in teams.items()))


def check_teams(installation: Fleet, runs: int, killed: set[int]) -> None:
    """Assert that each team has come to the same, by as many turns as it takes, each of them done once."""
    query = installation.query
    assert query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", runs)]
    assert query("SELECT count(*), count(DISTINCT (run_id, task)) FROM agent_run") == [
        (runs * (MEMBERS + TEAMS), runs * (MEMBERS + TEAMS))
    ]
    outputs: dict[str, list[Any]] = {}
    for task, output in query("SELECT task, output FROM agent_run WHERE task IN ('crew', 'jury', 'office')"):
        outputs.setdefault(task, []).append(output)
    both = {"a": {"done": "a"}, "b": {"done": "b"}}
    third = {"done": {"input": "c", "after": both}}
    made = {**both, "c": third, "d": {"done": {"input": "d", "after": {"c": third}}}}
    assert outputs["crew"] == [made] * runs
    assert outputs["office"] == [{"way": ["desk", "bills", "mends"]}] * runs
    agreed = {"agreed": True, "answer": "ann", "rounds": 2, "votes": dict.fromkeys(("ann", "bob", "cy"), "ann")}
    assert [{name: each[name] for name in agreed} for each in outputs["jury"]] == [agreed] * runs
    performed = Performed.of(installation)
    assert performed.wrongly_repeated(killed) == []
    assert len(performed.executions) == runs * MEMBERS
    assert {len(performed.effects(task)) for task in performed.executions} == {STEPS}


@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_workers_that_die_at_every_point_of_a_team_lose_nothing_and_repeat_nothing_recorded(
    broker: str, tmp_path: Path
) -> None:
    chance = Random(SEED)
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        killed = set[int]()
        for point in POINTS:
            installation.orchestrator.submit(committees(), {"seconds": 0.0})
            worker = installation.start_worker(NIGHTFLEET_FAILPOINTS=f"{point}=kill:{chance.randint(1, 4)}")
            installation.until(lambda worker=worker: worker.poll() is not None, f"it dies at {point}")
            killed.add(worker.pid)
        installation.start_worker()
        installation.finish(form(short=300, long=600))
        check_teams(installation, len(POINTS), killed)
        check_settled(installation, others=ASYNC_THREADS)


@pytest.mark.scenario
@pytest.mark.parametrize("broker", brokers("redis"))
def test_workers_that_are_killed_while_teams_work_lose_nothing(broker: str, tmp_path: Path) -> None:
    runs, kills = form(short=20, long=200), form(short=3, long=30)
    chance, killed = Random(SEED), set[int]()
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        for _ in range(3):
            installation.start_worker()
        installation.orchestrator.submit_many(committees(), [{"seconds": 0.02}] * runs)
        total = runs * MEMBERS * STEPS
        for number in range(kills):
            target = total * (number + 1) // (kills + 2)
            installation.until(lambda target=target: effects_begun(installation) >= target, "work goes on", 300)
            victim = chance.choice([worker for worker in installation.workers if worker.poll() is None])
            installation.kill(victim)
            killed.add(victim.pid)
            installation.start_worker()
        installation.finish(form(short=300, long=1800))
        check_teams(installation, runs, killed)
        check_settled(installation, others=ASYNC_THREADS)
