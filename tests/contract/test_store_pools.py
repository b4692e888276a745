"""Pools of agents: what is wished, and how many claims of one agent there may be at a time."""

from __future__ import annotations

from functools import partial

from plans import plan_text
from sqlalchemy import update
from steps import OTHER_WORKER, WORKER, Steps, ago, plan_of, race, task

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.fleet import PoolSummary
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database
from orchestrator.store.pools import Refused
from orchestrator.store.repairs import Lane
from orchestrator.store.store import Store
from orchestrator.store.tables import worker_queue

AGENT = "critic"


def scaled(slots: int | None, pool: PoolSummary) -> PoolSummary:
    return pool.model_copy(update={"slots": slots})


def queued(store: Store, count: int) -> tuple[Steps, list[str]]:
    steps = Steps(store, plan_of(task(AGENT)))
    return steps, steps.start(count)


def test_an_agent_of_which_nothing_is_wished_is_not_bounded(store: Store) -> None:
    assert store.pools.bounded() == []
    pool = store.pools.of(AGENT)
    assert (pool.bounded, pool.paused, pool.slots, pool.worker_slots, pool.running) == (False, False, None, None, 0)
    assert pool.changed_at is None


def test_a_wish_is_kept_with_the_time_at_which_it_was_made(store: Store) -> None:
    changed = store.pools.change(AGENT, partial(scaled, 4))
    assert (changed.slots, changed.paused) == (4, False)
    assert changed.changed_at is not None
    assert store.pools.bounded() == [store.pools.of(AGENT)] == [changed]
    store.pools.change(AGENT, partial(scaled, None))
    assert store.pools.bounded() == []


def test_changes_at_the_same_time_follow_one_another(store: Store) -> None:
    store.pools.change(AGENT, partial(scaled, 1))

    def grow() -> PoolSummary:
        return store.pools.change(AGENT, lambda pool: scaled((pool.slots or 0) + 1, pool))

    race(*[grow] * 8)
    assert store.pools.of(AGENT).slots == 9


def test_a_change_that_is_refused_changes_nothing(store: Store) -> None:
    store.pools.change(AGENT, partial(scaled, 1))

    def refuse(pool: PoolSummary) -> PoolSummary:
        raise ValueError(pool.agent)

    try:
        store.pools.change(AGENT, refuse)
    except ValueError:
        assert store.pools.of(AGENT).slots == 1
    else:
        raise AssertionError("it was refused")


def test_never_more_than_the_fleet_may_run_are_claimed_at_once(store: Store) -> None:
    steps, runs = queued(store, 12)
    store.pools.change(AGENT, partial(scaled, 3))
    wanted = [steps.id(run_id, AGENT) for run_id in runs]
    workers = [WORKER, OTHER_WORKER]
    claims = race(*(partial(store.pools.claim, each, workers[index % 2], AGENT) for index, each in enumerate(wanted)))
    held = [claim for claim in claims if isinstance(claim, Claim)]
    assert len(held) == 3
    assert sum(isinstance(claim, Refused) for claim in claims) == 9
    assert store.pools.of(AGENT).running == 3
    # Who was refused is queued as before, and begins when there is room.
    waiting = next(each for each in wanted if each not in {claim.id for claim in held})
    assert isinstance(store.pools.claim(waiting, WORKER, AGENT), Refused)
    assert steps.finish(held[0]) is not None
    assert isinstance(store.pools.claim(waiting, WORKER, AGENT), Claim)


def test_nothing_of_a_paused_agent_is_claimed_and_what_runs_goes_on(store: Store) -> None:
    steps, [first, second] = queued(store, 2)
    claim = steps.claim(first, AGENT)
    store.pools.change(AGENT, lambda pool: pool.model_copy(update={"paused": True}))
    assert isinstance(store.pools.claim(steps.id(second, AGENT), WORKER, AGENT), Refused)
    assert steps.finish(claim) is not None
    store.pools.change(AGENT, lambda pool: pool.model_copy(update={"paused": False}))
    assert isinstance(store.pools.claim(steps.id(second, AGENT), WORKER, AGENT), Claim)


def test_a_claim_within_a_pool_is_a_claim_like_any_other(store: Store) -> None:
    steps, [run_id] = queued(store, 1)
    store.fleet.join(WORKER, name="w-1@host", pid=1, slots=1, cards=[])
    store.pools.change(AGENT, partial(scaled, 1))
    claim = store.pools.claim(steps.id(run_id, AGENT), WORKER, AGENT)
    assert isinstance(claim, Claim)
    assert (claim.epoch, claim.task, claim.run_input) == (1, AGENT, claim.run_input)
    assert steps.row(run_id, AGENT)["worker"] == "w-1@host"
    assert store.runs.state(run_id) == "running"
    # A duplicate of what is done is nothing to do, and not refused.
    assert steps.finish(claim) is not None
    assert store.pools.claim(claim.id, WORKER, AGENT) is None


def test_a_bound_that_shrinks_below_what_runs_lets_nothing_begin_until_that_has_ended(store: Store) -> None:
    steps, runs = queued(store, 4)
    claims = [steps.claim(run_id, AGENT) for run_id in runs[:3]]
    store.pools.change(AGENT, partial(scaled, 1))
    for claim in claims:
        assert isinstance(store.pools.claim(steps.id(runs[3], AGENT), WORKER, AGENT), Refused)
        steps.finish(claim)
    assert isinstance(store.pools.claim(steps.id(runs[3], AGENT), WORKER, AGENT), Claim)


def test_what_waits_holds_no_slot_of_a_pool(store: Store) -> None:
    steps, [first, second] = queued(store, 2)
    store.pools.change(AGENT, partial(scaled, 1))
    claim = store.pools.claim(steps.id(first, AGENT), WORKER, AGENT)
    assert isinstance(claim, Claim)
    steps.change(first, AGENT, state="suspended", worker_id=None)
    assert isinstance(store.pools.claim(steps.id(second, AGENT), WORKER, AGENT), Claim)


def test_what_waits_for_a_paused_agent_is_not_taken_for_lost(store: Store) -> None:
    """Its worker has free slots and claims nothing: without a word of the pool the sweep would publish it again and again."""
    lane = Lane(f"agent.{AGENT}", 0)
    cards = [AgentCard(name=name, digest="0123456789") for name in (AGENT, "reader")]
    store.fleet.join(WORKER, name="w-1@host", pid=1, slots=4, cards=cards)
    steps, [run_id] = queued(store, 1)
    long_ago = ago(store.database, 3600)
    steps.change(run_id, AGENT, published_at=long_ago, queued_at=long_ago)

    def idle_since(shut: list[str]) -> None:
        store.fleet.beat(WORKER, slots=4, idle=True, draining=False, shut=shut)
        with store.database.engine.begin() as connection:
            connection.execute(
                update(worker_queue).where(worker_queue.c.idle_from.is_not(None)).values(idle_from=long_ago)
            )

    idle_since([lane.queue])
    assert store.repairs.take_unclaimed_by_idle(lane, grace_seconds=10, lease_ttl_seconds=600) == []
    idle_since([])
    assert len(store.repairs.take_unclaimed_by_idle(lane, grace_seconds=10, lease_ttl_seconds=600)) == 1


def test_what_runs_is_counted_by_the_index_of_what_runs(migrated: Database) -> None:
    """That of a queue holds all that ever ended on it."""
    plan = plan_text(migrated, "running_on")
    assert "ix_agent_run_held" in plan
    assert "ix_agent_run_claimed" not in plan
