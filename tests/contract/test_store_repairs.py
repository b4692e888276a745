"""What the sweep finds: the orphans of the dead, what is due, what is lost (and not what merely waits), what is stuck."""

from __future__ import annotations

import pytest
from steps import FAILED, OTHER_WORKER, WORKER, Steps, ago, change, plan_of, race, task

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.dispatch import Priority
from orchestrator.contracts.run import RunState
from orchestrator.store import repairs
from orchestrator.store.database import Database
from orchestrator.store.repairs import Lane, Loss, Orphan
from orchestrator.store.store import Store
from orchestrator.store.tables import sweep, worker, worker_queue

TTL, GRACE = 600.0, 10.0
LANE = Lane("agent.a", Priority.NEW)


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a")))


def joined(store: Store, worker_id: str = WORKER) -> None:
    cards = [AgentCard(name="a", digest="0123456789")]
    store.fleet.join(worker_id, name="host", pid=1, slots=1, cards=cards)


def published(steps: Steps, seconds_ago: float, count: int = 1) -> list[str]:
    """Make runs whose one task was published a while ago."""
    runs = steps.start(count)
    for run_id in runs:
        steps.change(run_id, "a", published_at=ago(steps.store.database, seconds_ago))
    return runs


def claimed(steps: Steps, *, published_ago: float, claimed_ago: float, **more: int) -> None:
    """Make a run whose one task was published and claimed a while ago."""
    [run_id] = published(steps, published_ago)
    steps.claim(run_id, "a")
    steps.change(run_id, "a", claimed_at=ago(steps.store.database, claimed_ago), **more)


def idle_since(store: Store, seconds: float) -> None:
    """Have a live worker that has waited for work for a while."""
    joined(store)
    with store.database.connect() as connection:
        connection.execute(worker_queue.update().values(idle_from=ago(store.database, seconds)))


# Whose turn it is -----------------------------------------------------------------------------------------------------


def test_one_of_many_sweeps_in_each_interval(store: Store) -> None:
    for _ in range(3):
        with store.database.connect() as connection:
            connection.execute(sweep.update().values(ran_at=ago(store.database, 100)))
        [turn] = filter(None, race(*[lambda: store.repairs.take_turn(60.0, lease_seconds=60)] * 8))
        store.repairs.end_turn(turn)
    assert store.repairs.take_turn(60.0, lease_seconds=60) is None


def test_nobody_sweeps_beside_one_that_takes_longer_than_an_interval(store: Store) -> None:
    turn = store.repairs.take_turn(0, lease_seconds=60)
    assert turn is not None
    assert store.repairs.take_turn(0, lease_seconds=60) is None
    store.repairs.end_turn(turn)
    assert store.repairs.take_turn(0, lease_seconds=60) is not None


def test_the_turn_of_one_that_died_passes_to_another_after_its_lease_and_cannot_be_ended_by_the_dead(
    store: Store,
) -> None:
    died = store.repairs.take_turn(0, lease_seconds=30)
    assert died is not None
    with store.database.connect() as connection:
        connection.execute(sweep.update().values(held_until=ago(store.database, 0.001)))
    assert store.repairs.take_turn(0, lease_seconds=60) is not None
    store.repairs.end_turn(died)
    assert store.repairs.take_turn(0, lease_seconds=60) is None


# Orphans --------------------------------------------------------------------------------------------------------------


def test_the_orphans_of_a_worker_are_what_it_holds(steps: Steps) -> None:
    mine, other, done = (steps.start()[0] for _ in range(3))
    steps.claim(mine, "a")
    steps.claim(other, "a", OTHER_WORKER)
    steps.do(done, "a")
    assert steps.store.repairs.orphans_of(WORKER) == [Orphan(steps.id(mine, "a"), mine, 1, 0, WORKER)]


def test_what_a_worker_without_a_row_holds_belongs_to_nobody(steps: Steps) -> None:
    joined(steps.store)
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    steps.change(run_id, "a", claimed_at=ago(steps.store.database, TTL + 1))
    orphans = steps.store.repairs.orphans_of_nobody
    assert orphans(lease_ttl_seconds=TTL) == []
    steps.store.fleet.leave(WORKER)
    assert [orphan.run_id for orphan in orphans(lease_ttl_seconds=TTL)] == [run_id]


def test_a_worker_that_has_yet_to_join_keeps_what_it_has_claimed_within_a_lease(steps: Steps) -> None:
    """One that was declared dead, or that came while the database was away, claims before its next beat."""
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    assert steps.store.repairs.orphans_of_nobody(lease_ttl_seconds=TTL) == []


@pytest.mark.parametrize("loss", Loss)
def test_an_orphan_goes_back_before_all_else_to_be_published_at_once(steps: Steps, loss: Loss) -> None:
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    [orphan] = steps.store.repairs.orphans_of(WORKER)
    assert steps.store.repairs.release(orphan, loss)
    row = steps.row(run_id, "a")
    assert (row["state"], row["worker_id"], row["published_at"], row["due_at"]) == ("queued", None, None, None)
    assert (row["priority"], row["failures"]) == (Priority.RECOVERED, 0)
    [dispatch] = steps.store.repairs.take_due()
    assert (dispatch.number, dispatch.priority) == (2, Priority.RECOVERED)


def test_of_several_that_release_an_orphan_one_does(steps: Steps) -> None:
    for run_id in steps.start(20):
        steps.claim(run_id, "a")
        [orphan] = [found for found in steps.store.repairs.orphans_of(WORKER) if found.run_id == run_id]
        release = [lambda orphan=orphan: steps.store.repairs.release(orphan, Loss.DIED_ALONE)] * 4
        assert sorted(race(*release)) == [False, False, False, True]
        assert steps.row(run_id, "a")["crashes"] == 1


@pytest.mark.parametrize(
    ("loss", "suspect", "crashes"),
    [
        (Loss.HANDED_BACK, False, [0, 0]),
        (Loss.WORKER_DIED, True, [0, 0]),
        (Loss.FORGOTTEN, True, [0, 1]),
        (Loss.DIED_ALONE, True, [1, 2]),
    ],
)
def test_what_was_lost_is_a_suspect_and_only_what_died_alone_is_charged_at_once(
    steps: Steps, loss: Loss, suspect: bool, crashes: list[int]
) -> None:
    [run_id] = steps.start()
    for charged in crashes:
        claim = steps.claim(run_id, "a")
        assert steps.store.repairs.release(Orphan(claim.id, run_id, claim.epoch, claim.crashes, WORKER), loss)
        row = steps.row(run_id, "a")
        assert (bool(row["suspect"]), row["crashes"]) == (suspect, charged)
    assert steps.claim(run_id, "a").suspect is suspect


@pytest.mark.parametrize("end", ["succeeded", "failed", "retried", "handed to another agent"])
def test_a_suspect_that_has_ended_well_is_none_any_more(steps: Steps, end: str) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "a", suspect=True, crashes=2)
    claim = steps.claim(run_id, "a")
    match end:
        case "succeeded":
            steps.finish(claim)
        case "failed":
            steps.store.runs.fail(claim, FAILED)
        case "retried":
            steps.requeue(claim)
        case _:
            steps.requeue(claim, agent="b")
    row = steps.row(run_id, "a")
    assert (bool(row["suspect"]), row["crashes"]) == (False, 0 if end == "handed to another agent" else 2)


def test_a_suspect_that_is_put_back_without_a_failure_stays_one(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "a", suspect=True)
    steps.requeue(steps.claim(run_id, "a"), failed=False)
    assert steps.claim(run_id, "a").suspect


def test_a_death_is_charged_to_the_current_claim_alone(steps: Steps) -> None:
    [run_id] = steps.start()
    lost = steps.claim(run_id, "a")
    steps.store.repairs.release(Orphan(lost.id, run_id, lost.epoch, lost.crashes, WORKER), Loss.HANDED_BACK)
    current = steps.claim(run_id, "a")
    assert (steps.agent_runs.charge_crash(lost), steps.agent_runs.charge_crash(current)) == (False, True)
    assert steps.row(run_id, "a")["crashes"] == 1


def test_a_run_that_is_opened_again_suspects_nobody(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "a", suspect=True, crashes=3)
    steps.store.runs.cancel(run_id)
    steps.store.runs.reopen(run_id)
    claim = steps.claim(run_id, "a")
    assert (claim.suspect, claim.crashes) == (False, 0)


def test_what_is_no_suspect_is_never_quarantined(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    [orphan] = steps.store.repairs.orphans_of(WORKER)
    assert not steps.store.repairs.quarantine(orphan, '{"code":"agent_crashed","message":"too often"}')
    assert steps.state(run_id) is RunState.RUNNING


def test_what_a_dead_process_left_running_of_a_run_is_suspected(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    steps.store.repairs.take_over_run(run_id, lease_ttl_seconds=TTL)
    assert steps.claim(run_id, "a").suspect


def test_a_quarantine_ends_the_run_with_its_reason(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "a", suspect=True)
    claim = steps.claim(run_id, "a")
    [orphan] = steps.store.repairs.orphans_of(WORKER)
    assert steps.store.repairs.quarantine(orphan, '{"code":"agent_crashed","message":"too often"}')
    assert steps.state(run_id) is RunState.FAILED
    assert steps.run_row(run_id)["error"] == {"code": "agent_crashed", "message": "too often"}
    assert steps.row(run_id, "a")["crashes"] == 1
    assert steps.finish(claim) is None


# Due ------------------------------------------------------------------------------------------------------------------


def test_what_is_due_is_taken_once_and_counted_as_a_new_dispatch(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "a"))
    [dispatch] = steps.store.repairs.take_due()
    assert (dispatch.id, dispatch.number, dispatch.agent) == (steps.id(run_id, "a"), 2, "a")
    assert steps.row(run_id, "a")["published_at"] is not None
    assert steps.store.repairs.take_due() == []


def test_what_is_not_due_is_not_taken_before_its_time(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "a"), delay_seconds=60)
    assert steps.store.repairs.take_due() == []
    steps.change(run_id, "a", due_at=ago(steps.store.database, 0.1))
    assert len(steps.store.repairs.take_due()) == 1


def test_the_next_due_time_is_the_nearest_in_the_future(steps: Steps) -> None:
    assert steps.store.repairs.seconds_to_next_due() is None
    for run_id, delay in zip(steps.start(2), (30_000, 6000), strict=True):
        steps.requeue(steps.claim(run_id, "a"), delay_seconds=delay)
    assert 5000 < (steps.store.repairs.seconds_to_next_due() or 0) <= 6000


def test_many_that_take_what_is_due_share_it_without_overlap(steps: Steps) -> None:
    runs = steps.start(1200)
    with steps.store.database.connect() as connection:
        connection.exec_driver_sql(f"UPDATE {steps.store.database.qualify('agent_run')} SET published_at = NULL")
    shares = race(*[steps.store.repairs.take_due] * 4)
    while more := steps.store.repairs.take_due():
        shares.append(more)
    assert all(len(share) <= 500 for share in shares)
    assert sorted(dispatch.run_id for share in shares for dispatch in share) == sorted(runs)


def test_an_embedded_process_takes_what_is_due_of_its_own_runs_only(sqlite: Database) -> None:
    steps = Steps(Store(sqlite), plan_of(task("a")))
    mine, other = steps.start(2)
    for run_id in (mine, other):
        steps.requeue(steps.claim(run_id, "a"))
    assert steps.store.repairs.take_due([]) == []
    assert [dispatch.run_id for dispatch in steps.store.repairs.take_due([mine])] == [mine]
    assert steps.row(other, "a")["published_at"] is None


def test_a_process_takes_over_what_another_one_left_of_a_run_but_not_what_a_living_one_holds(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c"), task("d"), task("end", "a", "b", "c", "d")))
    [run_id] = steps.start()
    joined(store, OTHER_WORKER)
    steps.claim(run_id, "a", WORKER)
    steps.claim(run_id, "b", OTHER_WORKER)
    steps.requeue(steps.claim(run_id, "d"), delay_seconds=60)
    taken = store.repairs.take_over_run(run_id, lease_ttl_seconds=TTL)
    assert sorted(dispatch.agent for dispatch in taken) == ["a", "c"]
    assert {dispatch.number for dispatch in taken} == {2}
    assert steps.states(run_id) == {"a": "queued", "b": "running", "c": "queued", "d": "queued", "end": "blocked"}
    change(store.database, worker, OTHER_WORKER, beat_at=ago(store.database, TTL + 60))
    assert "b" in {dispatch.agent for dispatch in store.repairs.take_over_run(run_id, lease_ttl_seconds=TTL)}


# Lost or waiting ------------------------------------------------------------------------------------------------------


def test_a_lane_is_a_queue_and_a_priority_with_something_published(steps: Steps) -> None:
    published(steps, 1, count=3)
    [later, unpublished, running] = steps.start(3)
    steps.change(later, "a", priority=Priority.LATER)
    steps.change(unpublished, "a", published_at=None, priority=Priority.RECOVERED)
    steps.claim(running, "a")
    assert set(steps.store.repairs.lanes()) == {LANE, Lane("agent.a", Priority.LATER)}


def test_a_healthy_backlog_is_left_alone(steps: Steps) -> None:
    """Older work is claimed before younger: what waits was published after everything that has been claimed."""
    for seconds in range(200, 60, -10):
        claimed(steps, published_ago=seconds, claimed_ago=seconds - 40)
    published(steps, 55, count=100)
    joined(steps.store)
    assert steps.store.repairs.take_overtaken(LANE, grace_seconds=GRACE) == []
    assert steps.store.repairs.take_unclaimed_by_idle(LANE, grace_seconds=GRACE, lease_ttl_seconds=TTL) == []


def test_what_was_overtaken_by_far_is_lost(steps: Steps) -> None:
    lost = published(steps, 120, count=3)
    waiting = published(steps, 70, count=2)
    claimed(steps, published_ago=60, claimed_ago=40)
    taken = steps.store.repairs.take_overtaken(LANE, grace_seconds=GRACE)
    assert sorted(dispatch.run_id for dispatch in taken) == sorted(lost)
    assert {dispatch.number for dispatch in taken} == {2}
    assert steps.row(lost[0], "a")["republished"] == 1
    assert steps.row(waiting[0], "a")["republished"] == 0
    assert steps.store.repairs.take_overtaken(LANE, grace_seconds=GRACE) == []


@pytest.mark.parametrize("claimed_ago", [0, 400])
def test_traffic_that_is_too_fresh_or_too_old_proves_nothing(steps: Steps, claimed_ago: float) -> None:
    published(steps, 1000)
    claimed(steps, published_ago=claimed_ago + 1, claimed_ago=claimed_ago)
    assert steps.store.repairs.take_overtaken(LANE, grace_seconds=GRACE) == []


def test_traffic_on_another_queue_or_priority_proves_nothing(steps: Steps) -> None:
    [run_id] = published(steps, 120)
    steps.change(run_id, "a", priority=Priority.LATER)
    other = Steps(steps.store, plan_of(task("b")))
    [elsewhere] = other.start()
    other.claim(elsewhere, "b")
    other.change(elsewhere, "b", published_at=ago(steps.store.database, 60), claimed_at=ago(steps.store.database, 40))
    claimed(steps, published_ago=60, claimed_ago=40)
    assert steps.store.repairs.take_overtaken(Lane("agent.a", Priority.LATER), grace_seconds=GRACE) == []


def test_what_an_idle_worker_does_not_claim_is_lost(steps: Steps) -> None:
    idle_since(steps.store, 30)
    lost = published(steps, 20)
    fresh = published(steps, 0)
    taken = steps.store.repairs.take_unclaimed_by_idle(LANE, grace_seconds=GRACE, lease_ttl_seconds=TTL)
    assert [dispatch.run_id for dispatch in taken] == lost
    assert steps.row(fresh[0], "a")["dispatch"] == 1


def taken_for_idle(steps: Steps) -> list[str]:
    taken = steps.store.repairs.take_unclaimed_by_idle(LANE, grace_seconds=GRACE, lease_ttl_seconds=TTL)
    return [dispatch.run_id for dispatch in taken]


def test_a_worker_that_has_a_free_slot_at_each_look_and_works_through_a_long_queue_does_not_get_it_again(
    steps: Steps,
) -> None:
    idle_since(steps.store, 60)
    published(steps, 40, count=3)
    claimed(steps, published_ago=50, claimed_ago=0)
    assert taken_for_idle(steps) == []


def test_what_waits_until_work_of_a_higher_priority_is_done_is_not_published_again(steps: Steps) -> None:
    idle_since(steps.store, 60)
    published(steps, 40)
    claimed(steps, published_ago=1, claimed_ago=0, priority=Priority.LATER)
    assert taken_for_idle(steps) == []


def test_what_a_worker_with_a_free_slot_has_passed_over_is_lost(steps: Steps) -> None:
    idle_since(steps.store, 60)
    lost = published(steps, 40)
    published(steps, 15)
    claimed(steps, published_ago=20, claimed_ago=0)
    assert taken_for_idle(steps) == lost


def test_of_a_broker_that_was_wiped_everything_is_found_at_once_whatever_was_published_again_and_claimed(
    steps: Steps,
) -> None:
    idle_since(steps.store, 60)
    lost = published(steps, 40)
    claimed(steps, published_ago=6, claimed_ago=5, republished=1)
    assert taken_for_idle(steps) == lost


@pytest.mark.parametrize("why", ["idle for a moment", "busy", "dead", "elsewhere"])
def test_a_worker_that_is_not_idle_on_the_queue_for_long_proves_nothing(steps: Steps, why: str) -> None:
    idle_since(steps.store, 0 if why == "idle for a moment" else 60)
    if why == "busy":
        steps.store.fleet.beat(WORKER, slots=4, idle=False, draining=False)
    elif why == "dead":
        change(steps.store.database, worker, WORKER, beat_at=ago(steps.store.database, TTL + 60))
    published(steps, 1000)
    lane = Lane("agent.b", Priority.NEW) if why == "elsewhere" else LANE
    assert steps.store.repairs.take_unclaimed_by_idle(lane, grace_seconds=GRACE, lease_ttl_seconds=TTL) == []


def test_a_worker_is_idle_from_the_start_of_an_uninterrupted_stretch(store: Store) -> None:
    joined(store)

    def idle_from() -> object:
        with store.database.connect() as connection:
            return connection.execute(worker_queue.select()).mappings().one()["idle_from"]

    assert idle_from() is None
    store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    began = idle_from()
    store.fleet.beat(WORKER, slots=4, idle=True, draining=False)
    assert idle_from() == began is not None
    store.fleet.beat(WORKER, slots=4, idle=False, draining=False)
    assert idle_from() is None


def test_the_delay_doubles_with_each_publication(steps: Steps) -> None:
    idle_since(steps.store, 10_000)
    [run_id] = steps.start()
    for republished, delay in enumerate((100, 200, 400, 800)):
        assert steps.row(run_id, "a")["republished"] == republished
        for seconds, expected in ((delay * 0.75, 0), (delay + 2, 1)):
            steps.change(run_id, "a", published_at=ago(steps.store.database, seconds))
            taken = steps.store.repairs.take_unclaimed_by_idle(LANE, grace_seconds=100, lease_ttl_seconds=TTL)
            assert len(taken) == expected, (republished, seconds)


def test_the_age_of_what_is_missing_at_the_broker_doubles_too(steps: Steps) -> None:
    [run_id] = steps.start()
    for age in (100, 200, 400):
        for seconds, expected in ((age * 0.75, 0), (age + 5, 1)):
            steps.change(run_id, "a", published_at=ago(steps.store.database, seconds))
            assert len(steps.store.repairs.take_older(LANE, age_seconds=100, most=9)) == expected, (age, seconds)


def test_a_retry_begins_with_the_first_delay_again(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "a", republished=5)
    steps.requeue(steps.claim(run_id, "a"))
    assert steps.row(run_id, "a")["republished"] == 0


def test_what_is_missing_at_the_broker_is_taken_oldest_first_and_not_more_than_is_missing(steps: Steps) -> None:
    repairs = steps.store.repairs
    oldest, older = published(steps, 300) + published(steps, 200)
    published(steps, 0)
    assert repairs.has_older(LANE, age_seconds=60)
    assert not repairs.has_older(LANE, age_seconds=600)
    assert (repairs.waiting("agent.a", bound=50), repairs.waiting("agent.a", bound=2)) == (3, 2)
    assert [dispatch.run_id for dispatch in repairs.take_older(LANE, age_seconds=60, most=1)] == [oldest]
    assert [dispatch.run_id for dispatch in repairs.take_older(LANE, age_seconds=60, most=9)] == [older]
    assert not repairs.has_older(LANE, age_seconds=60)


def test_at_most_fifty_are_taken_at_once_and_nobody_takes_the_same_twice(steps: Steps) -> None:
    idle_since(steps.store, 60)
    published(steps, 40, count=120)
    take = steps.store.repairs.take_unclaimed_by_idle
    shares = race(*[lambda: take(LANE, grace_seconds=GRACE, lease_ttl_seconds=TTL)] * 4)
    while more := take(LANE, grace_seconds=GRACE, lease_ttl_seconds=TTL):
        shares.append(more)
    assert all(len(share) <= 50 for share in shares)
    taken = [dispatch.id for share in shares for dispatch in share]
    assert len(taken) == len(set(taken)) == 120


# Stuck ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_stuck_while_a_decision_is_due_and_not_taken(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b", "a", when="a.go")))
    stuck, waiting, cancelled = steps.start(3)
    assert store.repairs.stuck_runs() == []
    steps.do(stuck, "a")
    steps.claim(waiting, "a")
    steps.do(cancelled, "a")
    store.runs.cancel(cancelled)
    assert store.repairs.stuck_runs() == [stuck]
    with store.database.transaction() as session:
        session.run("skip_row", id=steps.id(stuck, "b"))
    assert store.repairs.stuck_runs() == []


def test_stuck_runs_are_found_however_many_rows_are_looked_at_in_between(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairs, "_LOOKED_AT_ONCE", 3)
    steps = Steps(store, plan_of(task("a"), task("b", "a", when="a.go")))
    run_ids = steps.start(10)
    stuck = {run_ids[0], run_ids[5], run_ids[9]}
    for run_id in stuck:
        steps.do(run_id, "a")
    for _ in range(2):
        found = [store.repairs.stuck_runs() for _ in range(5)]
        assert {run_id for part in found for run_id in part} == stuck
        assert all(len(part) <= 3 for part in found)


def test_more_stuck_runs_than_are_taken_at_once_are_all_told_as_they_are_mended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairs, "_STUCK_AT_ONCE", 2)
    steps = Steps(store, plan_of(task("a"), task("b", "a", when="a.go")))
    mended: list[str] = []
    for run_id in (run_ids := steps.start(5)):
        steps.do(run_id, "a")
    while found := store.repairs.stuck_runs():
        assert len(found) <= 2
        for run_id in found:
            with store.database.transaction() as session:
                session.run("skip_row", id=steps.id(run_id, "b"))
        mended += found
    assert sorted(mended) == sorted(run_ids)


def test_a_worker_that_leaves_takes_its_queues_along(store: Store) -> None:
    joined(store)
    store.fleet.leave(WORKER)
    with store.database.connect() as connection:
        assert connection.execute(worker_queue.select()).all() == []
