"""What a sweep publishes again, decided from the store alone: what is due, what is missing at the broker, nothing that waits."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest
from steps import WORKER, Steps, ago, plan_of, race, task

from orchestrator.advance import Advancer
from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.recovery import Sweep
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.repairs import Lane
from orchestrator.store.store import Store
from orchestrator.store.tables import sweep, worker_queue

LANE = Lane("agent.a", Priority.NEW)


class Broker:
    """A broker that notes what is published; `depth` is what it says of every queue."""

    def __init__(self) -> None:
        self.published: list[Dispatch] = []
        self.says: int | None = 0
        self.away = False
        self.tries = 0

    def depth(self, name: str, /) -> int | None:
        return self.says

    def republish(self, dispatches: Iterable[Dispatch]) -> bool:
        self.tries += 1
        assert self.tries < 50, "it is tried again and again"
        self.published.extend([] if self.away else dispatches)
        return not self.away


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a")))


def tick(steps: Steps, broker: Broker, *, my_turn: bool = True) -> list[str]:
    """Sweep once; gives the runs of what was published."""
    with steps.store.database.connect() as connection:
        connection.execute(sweep.update().values(ran_at=ago(steps.store.database, 60 if my_turn else -60)))
    advancer = SimpleNamespace(republish=broker.republish, advance=lambda run_id: None)  # pyright: ignore[reportUnknownLambdaType]
    before = len(broker.published)
    Sweep(steps.store, cast("Advancer", advancer), broker, Settings()).tick()
    return sorted(dispatch.run_id for dispatch in broker.published[before:])


def published(steps: Steps, seconds_ago: float, count: int) -> list[str]:
    """Make runs whose one task was published a while ago."""
    runs = steps.start(count)
    for run_id in runs:
        steps.change(run_id, "a", published_at=ago(steps.store.database, seconds_ago))
    return sorted(runs)


def joined(steps: Steps) -> None:
    cards = [AgentCard(name="a", digest="0123456789")]
    steps.store.fleet.join(WORKER, name="host", pid=1, slots=1, cards=cards)


@pytest.mark.parametrize("my_turn", [True, False])
def test_a_sweep_publishes_what_nobody_has_published_at_once_whoevers_turn_it_is(
    steps: Steps, broker: Broker, my_turn: bool
) -> None:
    unpublished, retried, later = steps.start(3)
    steps.change(unpublished, "a", published_at=None)
    steps.requeue(steps.claim(retried, "a"))
    steps.requeue(steps.claim(later, "a"), delay_seconds=60)
    assert tick(steps, broker, my_turn=my_turn) == sorted([unpublished, retried])
    assert tick(steps, broker, my_turn=my_turn) == []


def test_a_sweep_does_not_insist_while_the_broker_is_away(steps: Steps, broker: Broker) -> None:
    broker.away = True
    runs = steps.start(1200)
    with steps.store.database.connect() as connection:
        connection.exec_driver_sql(f"UPDATE {steps.store.database.qualify('agent_run')} SET published_at = NULL")
    assert tick(steps, broker, my_turn=False) == []
    assert broker.tries == 1
    broker.away = False
    assert set(tick(steps, broker, my_turn=False)) <= set(runs)


@pytest.mark.parametrize(("depth", "again"), [(0, 5), (1, 4), (5, 0), (9, 0), (None, 0)])
def test_what_is_missing_at_the_broker_is_published_again_and_what_waits_there_or_cannot_be_told_is_not(
    steps: Steps, broker: Broker, depth: int | None, again: int
) -> None:
    published(steps, 90, count=5)
    broker.says = depth
    assert len(tick(steps, broker)) == again


def test_nothing_of_a_young_lane_is_looked_for_at_the_broker(steps: Steps, broker: Broker) -> None:
    published(steps, 50, count=5)
    assert tick(steps, broker) == []


def test_a_sweep_publishes_again_what_an_idle_worker_does_not_claim(steps: Steps, broker: Broker) -> None:
    joined(steps)
    lost = published(steps, 20, count=3)
    broker.says = 3
    assert tick(steps, broker) == []
    with steps.store.database.connect() as connection:
        connection.execute(worker_queue.update().values(idle_from=ago(steps.store.database, 30)))
    assert tick(steps, broker) == lost


def test_a_sweep_publishes_again_what_was_overtaken(steps: Steps, broker: Broker) -> None:
    joined(steps)
    lost = published(steps, 120, count=3)
    [overtaking] = published(steps, 60, count=1)
    steps.claim(overtaking, "a")
    steps.change(overtaking, "a", claimed_at=ago(steps.store.database, 40))
    broker.says = 3
    assert tick(steps, broker) == lost


def test_several_that_take_what_is_missing_at_the_broker_share_it_without_overlap(steps: Steps) -> None:
    for _ in range(5):
        runs = published(steps, 90, count=60)
        shares = race(*[lambda: steps.store.repairs.take_older(LANE, age_seconds=60, most=40)] * 4)
        while more := steps.store.repairs.take_older(LANE, age_seconds=60, most=40):
            shares.append(more)
        assert sorted(dispatch.run_id for share in shares for dispatch in share) == runs


def test_an_embedded_process_does_not_take_a_retry_of_its_own_before_its_time(sqlite: Database) -> None:
    steps = Steps(Store(sqlite), plan_of(task("a")))
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "a"), delay_seconds=60)
    assert steps.store.repairs.take_due([run_id]) == []
    steps.change(run_id, "a", due_at=ago(sqlite, 0.1))
    assert [dispatch.run_id for dispatch in steps.store.repairs.take_due([run_id])] == [run_id]


def test_what_is_taken_over_of_a_run_goes_before_all_else(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    [dispatch] = steps.store.repairs.take_over_run(run_id, lease_ttl_seconds=15)
    assert (dispatch.priority, steps.row(run_id, "a")["priority"]) == (Priority.RECOVERED, Priority.RECOVERED)
