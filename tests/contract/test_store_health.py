"""What the doctor reads of a database: the same on Postgres and SQLite, bounded, and nothing of it is changed."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from steps import FAILED, OTHER_WORKER, WORKER, Outcome, Steps, ago, change, plan_of, task

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.run import AgentRunState
from orchestrator.store import health as health_module
from orchestrator.store.database import Database
from orchestrator.store.health import Health
from orchestrator.store.store import Store
from orchestrator.store.tables import run, worker

LEASE = 600.0


@pytest.fixture
def health(store: Store) -> Health:
    return Health(store.database, lease_ttl_seconds=LEASE)


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("reader"), task("critic", "reader")))


def join(store: Store, worker_id: str = WORKER, *, silent_seconds: float = 0.0) -> None:
    card = AgentCard(name="reader", digest="0123456789")
    store.fleet.join(worker_id, name=f"w-{worker_id[-1]}", pid=42, slots=4, cards=[card])
    if silent_seconds:
        change(store.database, worker, worker_id, beat_at=ago(store.database, silent_seconds))


def test_an_empty_database_is_healthy(health: Health) -> None:
    assert health.now() is not None
    assert (health.workers(), health.queues(), health.orphans(), health.longest()) == ((), (), (), ())
    assert (health.unpublished(), health.waiting_for_retry(), health.open_runs()) == ((0, 0.0), 0, 0)
    assert (health.failures(), health.stuck_runs(rest_seconds=0.0)) == ({}, ())
    assert health.sweep_age_seconds() is not None
    assert sum(table.bytes for table in health.tables()) > 0


def test_the_server_says_what_it_is(database: Database, health: Health) -> None:
    if database.dialect == "sqlite":
        version, file = health.sqlite()
        assert version.startswith("3.")
        assert file.bytes > 0
        return
    version, server = health.postgres()
    assert int(version.partition(".")[0]) >= 12
    assert 0 < server.connections <= server.max_connections
    assert (server.fsync, server.synchronous_commit, server.standby) == (True, True, False)
    assert {"run", "agent_run", "worker"} <= {table.name for table in health.tables()}


def test_a_locked_table_is_not_waited_for(postgres: Database) -> None:
    impatient, patient = (
        Health(postgres, lease_ttl_seconds=LEASE, patience_seconds=seconds) for seconds in (2.0, 60.0)
    )
    with postgres.connect() as connection:
        connection.execute(text(f'LOCK TABLE "{postgres.schema}".worker IN ACCESS EXCLUSIVE MODE'))
        with pytest.raises(Exception, match="statement timeout"):
            impatient.workers()
        # What is not locked: a busy server may take more than two seconds for it.
        assert patient.open_runs() == 0
    assert patient.workers() == ()


def test_live_and_silent_workers_with_what_they_hold(store: Store, steps: Steps, health: Health) -> None:
    join(store)
    join(store, OTHER_WORKER, silent_seconds=LEASE + 60)
    steps.claim(steps.start()[0], "reader", OTHER_WORKER)
    live, silent = health.workers()
    assert (live.name, live.pid, live.slots, live.live, live.running) == ("w-1", 42, 4, True, 0)
    assert (silent.name, silent.live, silent.running) == ("w-2", False, 1)
    assert LEASE + 60 <= silent.beat_age_seconds < 2 * LEASE


def test_what_waits_and_who_serves_it(store: Store, steps: Steps, health: Health) -> None:
    join(store)
    old, _ = steps.start(2)
    steps.change(old, "reader", queued_at=ago(store.database, 300.0), priority=2)
    [waiting] = health.queues()
    assert (waiting.queue, waiting.agent, waiting.waiting, waiting.workers) == ("agent.reader", "reader", 2, 1)
    assert 300 <= waiting.oldest_seconds < 600
    assert not waiting.bounded
    store.fleet.beat(WORKER, slots=4, idle=False, draining=True)
    assert health.queues()[0].workers == 0


def test_counting_stops_at_its_bound(steps: Steps, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "COUNT_BOUND", 2)
    steps.start(3)
    [waiting] = health.queues()
    assert (waiting.waiting, waiting.bounded) == (2, True)
    assert health.open_runs() == 2


def test_what_is_due_and_was_never_published_is_told_from_what_waits_for_its_retry(
    store: Store, steps: Steps, health: Health
) -> None:
    due, later = steps.start(2)
    steps.change(due, "reader", published_at=None, due_at=ago(store.database, 50.0))
    steps.requeue(steps.claim(later, "reader"), delay_seconds=600.0)
    count, seconds = health.unpublished()
    assert count == 1
    assert 50 <= seconds < 600
    assert health.waiting_for_retry() == 1


def test_what_runs_under_a_worker_that_is_silent_for_two_leases_or_gone(
    store: Store, steps: Steps, health: Health
) -> None:
    join(store, silent_seconds=1.8 * LEASE)
    lost, held = steps.start(2)
    steps.claim(lost, "reader", OTHER_WORKER)
    steps.claim(held, "reader", WORKER)
    assert [orphan.run_id for orphan in health.orphans()] == [lost]
    change(store.database, worker, WORKER, beat_at=ago(store.database, 2.1 * LEASE))
    assert {orphan.run_id for orphan in health.orphans()} == {lost, held}


def test_what_has_been_running_for_the_longest_time_comes_first(store: Store, steps: Steps, health: Health) -> None:
    first, second = steps.start(2)
    for run_id, seconds in ((first, 10.0), (second, 9000.0)):
        steps.claim(run_id, "reader")
        steps.change(run_id, "reader", claimed_at=ago(store.database, seconds))
    assert [(each.run_id, each.agent, each.seconds > 8000) for each in health.longest()] == [
        (second, "reader", True),
        (first, "reader", False),
    ]


def test_a_run_in_which_nothing_can_move_is_stuck_and_no_other(store: Store, steps: Steps, health: Health) -> None:
    stuck, resting, moving, ended = steps.start(4)
    for run_id in (stuck, resting, moving):
        steps.do(run_id, "reader")
        change(store.database, run, run_id, created_at=ago(store.database, 100.0))
    for run_id in (stuck, resting):
        # As if a release had been lost: this cannot come about by the statements of ours.
        steps.change(run_id, "critic", state="blocked")
    steps.change(stuck, "reader", finished_at=ago(store.database, 90.0))
    steps.do(ended, "reader", "critic")
    assert health.stuck_runs(rest_seconds=60.0) == (stuck,)


def test_failures_are_counted_by_the_code_of_their_error(store: Store, steps: Steps, health: Health) -> None:
    crashed = Outcome(AgentRunState.FAILED, error='{"code":"agent_crashed","message":"no"}')
    ids = steps.start(4)
    for run_id, outcome in zip(ids, (FAILED, FAILED, crashed), strict=False):
        assert store.runs.fail(steps.claim(run_id, "reader"), outcome)
    assert list(health.failures().items()) == [("agent_failed", 2), ("agent_crashed", 1)]
    change(store.database, run, ids[0], created_at=ago(store.database, 90_000.0))
    assert health.failures()["agent_failed"] == 1
