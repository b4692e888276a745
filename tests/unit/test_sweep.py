"""What one sweep does beyond its statements: it shares its time among the lanes, and says what it has mended and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
from spending import TENANT, Purse, call_of
from steps import WORKER, Steps, ago, plan_of, task

from orchestrator import recovery
from orchestrator.advance import Advancer
from orchestrator.recovery import Sweep
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.tables import sweep as sweep_table


class Broker:
    """A broker that has lost everything, and takes everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.published: list[str] = []

    def publish(self, messages: Any) -> None:
        self.published += [message.task_id for message in messages]

    def depth(self, name: str) -> int | None:
        self.asked.append(name)
        return 0


@pytest.fixture
def steps(sqlite: Database) -> Steps:
    return Steps(Store(sqlite), plan_of(*(task(name) for name in "abcde")))


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def sweep(steps: Steps, broker: Broker) -> Iterator[Sweep]:
    made = Sweep(steps.store, Advancer(steps.store, cast("Any", broker)), broker, Settings(lease_ttl=15))  # pyright: ignore[reportArgumentType]
    yield made
    assert len(broker.published) == made.counts["republished"] + made.counts["due"]


def tick(sweep: Sweep, steps: Steps) -> None:
    with steps.store.database.connect() as connection:
        connection.execute(sweep_table.update().values(ran_at=ago(steps.store.database, 60)))
    sweep.tick()


def test_a_sweep_that_has_counted_enough_leaves_the_other_lanes_to_the_next(
    steps: Steps, broker: Broker, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_COUNTED_ROWS", 1)
    [run_id] = steps.start()
    for name in "abcde":
        steps.change(run_id, name, published_at=ago(steps.store.database, 100))
    for _ in range(5):
        tick(sweep, steps)
    assert broker.asked == [f"agent.{name}" for name in "abcde"]
    assert {steps.row(run_id, name)["republished"] for name in "abcde"} == {1}


def test_each_repair_says_what_and_why(steps: Steps, sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nightfleet.recovery")
    [run_id] = steps.start()
    steps.change(run_id, "a", published_at=ago(steps.store.database, 100))
    steps.claim(run_id, "b", WORKER)
    steps.change(run_id, "b", claimed_at=ago(steps.store.database, 100))
    tick(sweep, steps)
    told = {record.getMessage(): vars(record) for record in caplog.records if record.name == "nightfleet.recovery"}
    assert told["published again: the broker has fewer messages"]["agent_runs"] == steps.id(run_id, "a")
    assert told["taken over: their workers have left the fleet"]["agent_runs"] == steps.id(run_id, "b")
    assert (sweep.counts["republished"], sweep.counts["taken_over"]) == (1, 1)
    caplog.clear()
    tick(sweep, steps)
    assert [record for record in caplog.records if record.name == "nightfleet.recovery"] == []


def test_a_sweep_that_fails_in_the_middle_lets_the_next_one_begin(
    steps: Steps, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(sweep, "_lanes", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        tick(sweep, steps)
    with steps.store.database.connect() as connection:
        assert connection.execute(sweep_table.select()).mappings().one()["held_until"] is None


# Model calls ----------------------------------------------------------------------------------------------------------


def test_a_sweep_gives_up_calls_of_the_dead_and_publishes_who_waits_for_a_budget_with_room(
    steps: Steps, broker: Broker, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    purse = Purse(steps)
    purse.set(TENANT, 1000)
    dead, waiting = (steps.claim(run_id, "a") for run_id in steps.start(2))
    purse.ledger.reserve(call_of(dead), 600)
    purse.ledger.reserve(call_of(waiting), 600)
    steps.store.waits.suspend(waiting, left_seconds=None, waiting_for="waits for the budget of tenant")
    steps.store.runs.cancel(dead.run_id)
    with caplog.at_level(logging.WARNING, "nightfleet.recovery"):
        tick(sweep, steps)
    assert purse.amounts(TENANT) == (0, 0, 600)
    assert "kept as unknown what was reserved for model calls" in caplog.text
    assert broker.published == []
    purse.budgets.raise_to(TENANT.scope, "none", 1200)
    tick(sweep, steps)
    assert broker.published == [f"{waiting.id}.2"]
    assert sweep.counts["due"] == 1
