"""Workers die wherever a call is at: every agent that was called is executed, recorded once, and taken up once by its caller."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from chaos.forms import QUICK, SEED, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_outputs, check_settled, effects_begun
from fleet import Fleet, fleet

#: Where a worker dies while it executes callers and what they call. Most points are passed by both.
POINTS = (
    "before_call", "after_call", "after_commit_before_publish", "after_claim", "before_suspend", "after_suspend",
    "before_record", "after_record", "before_completion", "after_completion", "before_ack", "after_ack", "publish",
)  # fmt: skip
LABORERS, STEPS = 5, 2
#: Of a run: the contractor, its laborers, the one below, and its laborers.
AGENT_RUNS = 2 * (1 + LABORERS)
INPUT = {"laborers": LABORERS, "steps": STEPS, "seconds": 0.0}


def check_called(installation: Fleet) -> None:
    """Assert that each caller has in its output what those have committed that it has called, in their order."""
    query = "SELECT run_id::text, task, output FROM agent_run WHERE agent = 'contractor'"
    outputs = {
        (run, task): output["execution"]
        for run, task, output in installation.query("SELECT run_id::text, task, output FROM agent_run")
    }
    for run, task, output in installation.query(query):
        below = [] if "-" in task else [outputs[run, f"{task}-{LABORERS + 1}"]]
        laborers = [outputs[run, f"{task}-{number}"] for number in range(1, LABORERS + 1)]
        assert output["called"] == [*laborers, *below]
    assert installation.query("SELECT DISTINCT state FROM subwork") == [("done",)]
    assert installation.query("SELECT count(*) FROM subwork WHERE remaining <> 0 OR failures <> 0") == [(0,)]


def check_performed(installation: Fleet, runs: int, killed: set[int]) -> None:
    assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", runs)]
    assert installation.query("SELECT count(*) FROM agent_run") == [(runs * AGENT_RUNS,)]
    check_outputs(installation)
    check_called(installation)
    performed = Performed.of(installation)
    assert performed.wrongly_repeated(killed) == []
    assert len(performed.executions) == runs * AGENT_RUNS
    assert {len(performed.effects(task)) for task in performed.executions} == {STEPS}


@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_workers_that_die_at_every_point_of_a_call_lose_nothing_and_repeat_nothing_recorded(
    broker: str, tmp_path: Path
) -> None:
    chance = Random(SEED)
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        killed = set[int]()
        for point in POINTS:
            installation.orchestrator.submit("contractor", INPUT)
            worker = installation.start_worker(NIGHTFLEET_FAILPOINTS=f"{point}=kill:{chance.randint(1, 3)}")
            installation.until(lambda worker=worker: worker.poll() is not None, f"it dies at {point}")
            killed.add(worker.pid)
        installation.start_worker()
        installation.finish(form(short=300, long=600))
        check_performed(installation, len(POINTS), killed)
        check_settled(installation)


@pytest.mark.scenario
@pytest.mark.parametrize("broker", brokers("redis"))
def test_workers_that_are_killed_while_agents_call_agents_lose_nothing(broker: str, tmp_path: Path) -> None:
    runs, kills = form(short=40, long=400), form(short=4, long=40)
    chance, killed = Random(SEED), set[int]()
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        for _ in range(3):
            installation.start_worker()
        installation.orchestrator.submit_many("contractor", [{**INPUT, "seconds": 0.02}] * runs)
        total = runs * AGENT_RUNS * STEPS
        for number in range(kills):
            target = total * (number + 1) // (kills + 2)
            installation.until(lambda target=target: effects_begun(installation) >= target, "work goes on", 300)
            victim = chance.choice([worker for worker in installation.workers if worker.poll() is None])
            installation.kill(victim)
            killed.add(victim.pid)
            installation.start_worker()
        installation.finish(form(short=300, long=1800))
        check_performed(installation, runs, killed)
        check_settled(installation)


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_messages_that_come_twice_are_executed_once_and_lost_ones_are_published_again(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **STEADY) as installation:
        installation.start_worker(NIGHTFLEET_FAILPOINTS="publish=twice")
        installation.orchestrator.submit_many("contractor", [INPUT] * 5)
        installation.finish()
        assert {len(each) for each in Performed.of(installation).executions.values()} <= {1, 2, 3}
        assert Performed.of(installation).repeated() == []
        installation.start_worker(NIGHTFLEET_FAILPOINTS="publish=drop:3")
        installation.orchestrator.submit_many("contractor", [INPUT] * 5)
        installation.finish()
        check_performed(installation, 10, set())
        check_settled(installation)
