"""The fleet as it is now: agents, versions, load, workers."""

from __future__ import annotations

from typing import Any

import pytest
from steps import OTHER_WORKER, WORKER, Steps, ago, change, plan_of, task

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.fleet import AgentVersion, LiveAgent, WorkerState
from orchestrator.contracts.policy import Limits, Timeouts
from orchestrator.store.census import Load
from orchestrator.store.store import Store
from orchestrator.store.tables import worker

TTL = 600.0
THIRD = "0199c0de-0000-7000-8000-000000000003"


def card(name: str, digest: str = "0123456789", **fields: Any) -> AgentCard:
    return AgentCard.model_validate({"name": name, "digest": digest, **fields})


def join(store: Store, *cards: AgentCard, worker_id: str = WORKER, slots: int = 4) -> None:
    name = f"w-{worker_id[-1]}@host"
    store.fleet.join(worker_id, name=name, pid=42, slots=slots, cards=cards, broker="amqp://b", host="host")


def agents(store: Store) -> dict[str, LiveAgent]:
    return {agent.name: agent for agent in store.census.agents(lease_ttl_seconds=TTL)}


def test_an_agent_is_shown_with_its_card_its_workers_and_their_slots(store: Store) -> None:
    own = card("critic", capabilities=("review",), limits=Limits(model_calls=3), timeouts=Timeouts(hard=60))  # pyright: ignore[reportArgumentType]
    join(store, own, card("reader"))
    join(store, own, worker_id=OTHER_WORKER, slots=6)
    critic = agents(store)["critic"]
    assert (critic.state, critic.queue, critic.workers, critic.slots) == ("served", "agent.critic", 2, 10)
    assert critic.served_by == ("w-1@host", "w-2@host")
    assert (critic.capabilities, critic.limits, critic.timeouts) == (("review",), own.limits, own.timeouts)
    assert critic.announced_at is not None
    assert [agent.name for agent in store.census.agents(lease_ttl_seconds=TTL)] == ["critic", "reader"]


def test_versions_that_differ_between_live_workers_are_seen(store: Store) -> None:
    old, new = card("critic", "a" * 16), card("critic", "b" * 16)
    join(store, old)
    join(store, old, worker_id=OTHER_WORKER)
    assert agents(store)["critic"].versions == (AgentVersion(digest="a" * 16, workers=2),)
    join(store, new, worker_id=THIRD)
    versions = agents(store)["critic"].versions
    assert versions == (AgentVersion(digest="a" * 16, workers=2), AgentVersion(digest="b" * 16, workers=1))
    join(store, new)
    join(store, new, worker_id=OTHER_WORKER)
    assert agents(store)["critic"].versions == (AgentVersion(digest="b" * 16, workers=3),)


def test_an_agent_whose_workers_are_gone_is_known_and_unserved(store: Store) -> None:
    join(store, card("critic"))
    change(store.database, worker, WORKER, beat_at=ago(store.database, TTL + 60))
    critic = agents(store)["critic"]
    assert (critic.state, critic.workers, critic.slots, critic.versions) == ("unserved", 0, 0, ())


def test_functions_and_celery_tasks_are_no_agents(store: Store) -> None:
    join(store, card("critic"), card("function"), card("celery"))
    assert agents(store).keys() == {"critic"}
    assert store.census.workers(lease_ttl_seconds=TTL)[0].agents == ("critic",)


def test_the_load_of_an_agent_is_what_runs_and_what_is_queued(store: Store) -> None:
    join(store, card("critic"), card("reader"))
    steps = Steps(store, plan_of(task("critic"), task("reader", "critic")))
    runs = steps.start(5)
    steps.claim(runs[0], "critic")
    steps.do(runs[1], "critic")
    loads = store.census.loads({"critic", "reader", "nobody"}, lease_ttl_seconds=TTL)
    assert loads == [Load("critic", 4, 1, 3), Load("nobody", 0, 0, 0), Load("reader", 4, 0, 1)]
    assert agents(store)["critic"].load == 1.0


def test_a_pool_bounds_the_slots_of_an_agent(store: Store) -> None:
    join(store, card("critic"))
    join(store, card("critic"), worker_id=OTHER_WORKER)
    for changes, slots in (
        ({"worker_slots": 3}, 6),
        ({"slots": 5}, 5),
        ({"slots": 50}, 6),
        ({"paused": True}, 0),
        ({"paused": False, "slots": None, "worker_slots": None}, 8),
    ):
        store.pools.change("critic", lambda pool, changes=changes: pool.model_copy(update=changes))
        assert agents(store)["critic"].slots == slots
    store.pools.change("critic", lambda pool: pool.model_copy(update={"paused": True}))
    assert agents(store)["critic"].state == "paused"
    assert agents(store)["critic"].slots == 0
    assert store.census.slots("critic", lease_ttl_seconds=TTL) == 8, "as many as it has when it is resumed"
    [load] = store.census.loads({"critic"}, lease_ttl_seconds=TTL)
    assert (load.paused, load.slots) == (True, 0)


@pytest.mark.parametrize("state", WorkerState)
def test_a_worker_lives_drains_or_is_lost(store: Store, state: WorkerState) -> None:
    join(store, card("critic"), card("reader"))
    steps = Steps(store, plan_of(task("critic")))
    steps.claim(steps.start()[0], "critic")
    if state is WorkerState.DRAINING:
        store.fleet.beat(WORKER, slots=4, idle=False, draining=True)
    elif state is WorkerState.LOST:
        change(store.database, worker, WORKER, beat_at=ago(store.database, TTL + 60))
    [found] = store.census.workers(lease_ttl_seconds=TTL)
    assert (found.id, found.name, found.host, found.pid) == (WORKER, "w-1@host", "host", 42)
    assert (found.state, found.slots, found.running, found.agents) == (state, 4, 1, ("critic", "reader"))
    assert found.started_at is not None
    assert found.beat_at is not None
    assert (store.census.now() - found.beat_at).total_seconds() >= 0


def test_capabilities_are_read_from_the_cards(store: Store) -> None:
    join(store, card("critic", capabilities=("review", "sum")), card("judge", capabilities=("review",)), card("reader"))
    assert store.fleet.capabilities() == {"review": ("critic", "judge"), "sum": ("critic",)}


def test_a_card_of_a_newer_worker_is_read_as_far_as_it_is_known(store: Store) -> None:
    join(store, card("critic", capabilities=("review",)))
    newer = card("critic", capabilities=("review",)).model_dump_json()[:-1] + ',"moods":["kind"]}'
    store.database.transact(lambda session: session.run("add_agent", name="critic", queue="agent.critic", card=newer))
    assert agents(store)["critic"].capabilities == ("review",)
    assert store.fleet.agents(lease_ttl_seconds=TTL)[0][0].name == "critic"


def test_a_queue_that_a_worker_takes_nothing_from_is_not_idle_there(store: Store) -> None:
    """What waits on it is not lost: the sweep would publish it again and again."""
    join(store, card("critic"), card("reader"))

    def idle() -> set[str]:
        from sqlalchemy import select

        from orchestrator.store.tables import worker_queue

        with store.database.engine.connect() as connection:
            rows = connection.execute(select(worker_queue.c.queue).where(worker_queue.c.idle_from.is_not(None)))
            return {row[0] for row in rows}

    store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    assert idle() == {"agent.critic", "agent.reader"}
    store.fleet.beat(WORKER, slots=4, idle=True, draining=False, shut=["agent.critic"])
    assert idle() == {"agent.reader"}
    store.fleet.beat(WORKER, slots=4, idle=False, draining=False, shut=["agent.critic"])
    assert idle() == set()
    store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    assert idle() == {"agent.critic", "agent.reader"}
