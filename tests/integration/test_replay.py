"""A fleet that is killed in the middle of an agent repeats nothing that is recorded: on Postgres and RabbitMQ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, fleet
from losses import killed

from orchestrator import sequential


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, lease_ttl=600, sweep_interval=0.2) as made:
        yield made


def effects(fast: Fleet) -> Counter[str]:
    return Counter(what for kind, _, what, _ in fast.ledger() if kind == "effect")


def test_a_kill_in_the_middle_of_an_agent_repeats_its_effect_in_flight_and_none_before(fast: Fleet) -> None:
    first = fast.start_worker()
    until = fast.folder / "go on"
    run = fast.orchestrator.submit(sequential("in_steps"), {"until": str(until)})
    fast.until(lambda: effects(fast)["2"] == 1, "the third step has begun")
    killed(fast, first)
    until.touch()
    fast.start_worker()
    output = run.result(timeout=120)
    assert output["found"] == [f"did {number}" for number in range(5)]
    assert effects(fast) == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1}
    told = [row[0] for row in fast.query("SELECT message FROM run_event ORDER BY id")]
    assert told == [f"step {number}" for number in range(5)]
    epochs = fast.query("SELECT kind, epoch FROM journal ORDER BY number")
    assert Counter(epochs) == {("step", 1): 2, ("progress", 1): 3, ("step", 2): 3, ("progress", 2): 2, ("now", 2): 1}


def test_a_kill_in_the_middle_of_parallel_branches_repeats_the_effects_in_flight(fast: Fleet) -> None:
    first = fast.start_worker()
    until = fast.folder / "go on"
    run = fast.orchestrator.submit(sequential("in_branches"), {"until": str(until)})
    # Eleven: three even branches of three, and two steps of each odd one.
    fast.until(lambda: fast.query("SELECT count(*) FROM journal")[0][0] == 11, "all but the held ones are recorded")
    fast.until(lambda: {"1.1", "3.1"} <= effects(fast).keys(), "the held ones have begun")
    killed(fast, first)
    until.touch()
    fast.start_worker()
    assert run.result(timeout=120)["found"] == [[f"did {name}.{n}" for n in range(3)] for name in range(5)]
    assert {what: count for what, count in effects(fast).items() if count > 1} == {"1.1": 2, "3.1": 2}


def test_a_retry_repeats_what_failed_alone(fast: Fleet) -> None:
    fast.start_worker()
    workflow = sequential("in_tries")
    assert fast.orchestrator.submit(workflow, {}).result(timeout=120)["found"] == ["did a", "did b", "did c"]
    assert effects(fast) == {"a": 1, "b": 2, "c": 1}


def test_a_drain_hands_back_what_goes_on_elsewhere_without_a_failure(fast: Fleet) -> None:
    first = fast.start_worker(NIGHTFLEET_DRAIN_TIMEOUT="0.1")
    until = fast.folder / "go on"
    run = fast.orchestrator.submit(sequential("in_steps"), {"until": str(until)})
    fast.until(lambda: effects(fast)["2"] == 1, "the third step has begun")
    fast.stop_worker(first)
    until.touch()
    fast.start_worker()
    assert len(run.result(timeout=120)["found"]) == 5
    assert effects(fast) == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 1}
    assert fast.query("SELECT failures, crashes, epoch FROM agent_run") == [(0, 0, 2)]
