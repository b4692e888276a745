"""Workers join, beat and leave; the fleet knows who serves what and who holds what."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from steps import OTHER_WORKER, WORKER, Steps, ago, change, plan_of, race, stored, task

from orchestrator.contracts.agent import AgentCard
from orchestrator.store.fleet import Held
from orchestrator.store.store import Store
from orchestrator.store.tables import worker

TTL = 600.0


def card(name: str, **fields: Any) -> AgentCard:
    return AgentCard.model_validate({"name": name, "digest": "0123456789", **fields})


def join(store: Store, *names: str, worker_id: str = WORKER) -> None:
    store.fleet.join(worker_id, name=f"host-{worker_id[-1]}", pid=42, slots=4, cards=[card(name) for name in names])


def fall_silent(store: Store, worker_id: str = WORKER, seconds: float = TTL + 60) -> None:
    change(store.database, worker, worker_id, beat_at=ago(store.database, seconds))


def test_a_worker_that_joins_is_listed_with_its_agents(store: Store) -> None:
    join(store, "reader", "editor")
    [row] = store.fleet.workers(lease_ttl_seconds=TTL)
    assert (row.id, row.name, row.pid, row.slots, row.draining, row.running) == (WORKER, "host-1", 42, 4, False, 0)
    assert row.started_at is not None
    assert row.beat_at is not None
    assert store.fleet.agent_names() == {"reader", "editor"}
    assert store.fleet.agents(lease_ttl_seconds=TTL) == [(card("editor"), 1), (card("reader"), 1)]


def test_joining_twice_changes_nothing_and_the_last_announcement_of_an_agent_counts(store: Store) -> None:
    join(store, "reader")
    store.fleet.join(WORKER, name="host-1", pid=42, slots=4, cards=[card("reader", description="new")])
    assert len(store.fleet.workers(lease_ttl_seconds=TTL)) == 1
    assert store.fleet.agents(lease_ttl_seconds=TTL) == [(card("reader", description="new"), 1)]


def test_workers_that_join_at_the_same_time_with_the_same_agents_do_not_disturb_each_other(store: Store) -> None:
    names = ["reader", "critic", "editor", "chooser"]
    workers = [f"0199c0de-0000-7000-8000-{number:012x}" for number in range(12)]
    rotated = [names[number % 4 :] + names[: number % 4] for number in range(12)]
    race(*(partial(join, store, *each, worker_id=worker_id) for each, worker_id in zip(rotated, workers, strict=True)))
    assert [count for _, count in store.fleet.agents(lease_ttl_seconds=TTL)] == [12] * 4


def test_every_beat_is_another_number(store: Store) -> None:
    join(store)
    for sequence in range(3):
        [beat] = store.fleet.beats()
        assert (beat.worker_id, beat.sequence) == (WORKER, sequence)
        assert store.fleet.beat(WORKER, slots=4, idle=True, draining=False)


def test_all_heartbeats_are_read_at_one_time_of_the_database(store: Store) -> None:
    join(store)
    join(store, worker_id=OTHER_WORKER)
    first, second = store.fleet.beats()
    assert abs((first.seen_at - second.seen_at).total_seconds()) < 0.01
    assert first.seen_at.tzinfo is not None


def test_a_beat_is_false_when_the_worker_was_removed_and_it_can_join_again(store: Store) -> None:
    join(store, "reader")
    store.fleet.leave(WORKER)
    assert not store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    assert store.fleet.workers(lease_ttl_seconds=TTL) == []
    join(store, "reader")
    assert store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    assert store.fleet.unserved({"agent.reader"}, lease_ttl_seconds=TTL) == frozenset()


def test_an_agent_is_known_for_ever_but_served_only_by_the_living(store: Store) -> None:
    join(store, "reader")
    fall_silent(store)
    assert store.fleet.agent_names() == {"reader"}
    assert store.fleet.agents(lease_ttl_seconds=TTL) == [(card("reader"), 0)]
    assert store.fleet.workers(lease_ttl_seconds=TTL) == []
    store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    assert store.fleet.agents(lease_ttl_seconds=TTL) == [(card("reader"), 1)]


@pytest.mark.parametrize("why", ["silent", "draining", "gone"])
def test_a_queue_is_unserved_when_its_only_worker_is(store: Store, why: str) -> None:
    join(store, "reader")
    queues = {"agent.reader", "agent.editor"}
    assert store.fleet.unserved(queues, lease_ttl_seconds=TTL) == {"agent.editor"}
    if why == "silent":
        fall_silent(store)
    elif why == "draining":
        store.fleet.beat(WORKER, slots=4, idle=False, draining=True)
    else:
        store.fleet.leave(WORKER)
    assert store.fleet.unserved(queues, lease_ttl_seconds=TTL) == queues
    join(store, "reader", worker_id=OTHER_WORKER)
    assert store.fleet.unserved(queues, lease_ttl_seconds=TTL) == {"agent.editor"}


def test_a_worker_holds_what_it_has_claimed_and_knows_what_it_must_know_of(store: Store) -> None:
    join(store)
    steps = Steps(store, plan_of(task("a"), task("b"), task("c")))
    [run_id] = steps.start()
    for name in "abc":
        steps.claim(run_id, name, OTHER_WORKER if name == "c" else WORKER)
    steps.change(run_id, "a", claimed_at=ago(store.database, 2 * TTL))
    held = store.fleet.held(WORKER, settled_after_seconds=TTL)
    assert sorted(held, key=lambda each: each.id) == [
        Held(steps.id(run_id, "a"), 1, settled=True),
        Held(steps.id(run_id, "b"), 1, settled=False),
    ]
    assert [row.running for row in store.fleet.workers(lease_ttl_seconds=TTL)] == [2]
    steps.requeue(steps.claim(steps.start()[0], "a"))
    assert len(store.fleet.held(WORKER, settled_after_seconds=TTL)) == 2


def test_a_heartbeat_counts_for_everything_a_worker_holds(store: Store) -> None:
    """One update for each worker and beat, none for each agent run."""
    join(store)
    steps = Steps(store, plan_of(task("a")))
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    before = steps.row(run_id, "a")
    store.fleet.beat(WORKER, slots=4, idle=False, draining=False)
    assert steps.row(run_id, "a") == before
    assert stored(store.database, worker, WORKER)["beat_seq"] == 1
