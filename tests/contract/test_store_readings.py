"""What there is to count in the fleet."""

from __future__ import annotations

from steps import WORKER, Steps, ago, plan_of, task

from orchestrator.contracts.agent import AgentCard
from orchestrator.store.readings import FleetReading, Readings, Waiting
from orchestrator.store.store import Store

TTL = 600.0


def read(store: Store) -> FleetReading:
    return Readings(store.database).fleet(lease_ttl_seconds=TTL)


def test_an_empty_fleet_is_zeros(store: Store) -> None:
    assert read(store) == FleetReading({"pending": 0, "running": 0}, {}, {}, 0, 0)


def test_open_work_is_counted_by_state_and_agent(store: Store) -> None:
    cards = [AgentCard.model_validate({"name": name, "digest": "0123456789"}) for name in ("reader", "editor", "idle")]
    store.fleet.join(WORKER, name="w", pid=1, slots=7, cards=cards)
    steps = Steps(store, plan_of(task("reader"), task("editor", "reader")))
    waiting, retried, running, later, done = steps.start(5)
    steps.change(waiting, "reader", queued_at=ago(store.database, 90))
    steps.requeue(steps.claim(retried, "reader"), delay_seconds=600)
    steps.claim(running, "reader")
    steps.do(later, "reader")
    steps.do(done, "reader", "editor")
    found = read(store)
    assert found.runs == {"pending": 1, "running": 3}
    assert found.running == {"reader": 1, "editor": 0, "idle": 0}
    reader = found.waiting["reader"]
    assert (reader.due, reader.later) == (1, 1)
    assert 89 < reader.oldest_seconds < 400
    assert (found.waiting["editor"].due, found.waiting["editor"].later) == (1, 0)
    assert found.waiting["idle"] == Waiting()
    assert (found.workers, found.slots) == (1, 7)


def test_a_retry_waits_from_the_time_at_which_it_is_due(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    (run_id,) = steps.start()
    steps.change(run_id, "reader", queued_at=ago(store.database, 900), due_at=ago(store.database, 60))
    assert 59 < read(store).waiting["reader"].oldest_seconds < 400
