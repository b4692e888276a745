"""Retries, failures, cancellation and second beginnings; and that none of them loses a race against a completion."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from steps import FAILED, WORKER, Steps, ago, join, plan_of, race, task

from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.run import RunState
from orchestrator.errors import RunStateConflict
from orchestrator.store.database import Database, Session
from orchestrator.store.store import Store

T = TypeVar("T")


@pytest.fixture
def steps(store: Store) -> Steps:
    """A workflow of `a` and `b`, which meet in `end`."""
    return Steps(store, plan_of(task("a"), task("b"), task("end", "a", "b")))


# Requeue --------------------------------------------------------------------------------------------------------------


def test_a_retry_is_the_row_itself_due_later_and_not_yet_published(steps: Steps) -> None:
    [run_id] = steps.start()
    assert steps.requeue(steps.claim(run_id, "a"), delay_seconds=60)
    row = steps.row(run_id, "a")
    assert (row["state"], row["failures"], row["worker_id"], row["published_at"]) == ("queued", 1, None, None)
    assert 55 < (row["due_at"] - row["queued_at"]).total_seconds() <= 60.5
    assert row["error"] == {"code": "agent_failed", "message": "no"}
    assert row["priority"] == Priority.LATER
    assert steps.try_claim(run_id, "a") is None
    assert steps.store.repairs.take_due() == []
    assert 50 < (steps.store.repairs.seconds_to_next_due() or 0) <= 60


def test_a_retry_can_be_claimed_when_it_is_due_and_knows_its_failures(steps: Steps) -> None:
    [run_id] = steps.start()
    for failures in range(3):
        claim = steps.claim(run_id, "a")
        assert claim.failures == failures
        assert steps.requeue(claim, delay_seconds=60)
        steps.change(run_id, "a", due_at=ago(steps.store.database, 1))


def test_a_wait_that_is_no_failure_raises_only_the_epoch(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "a"), failed=False)
    claim = steps.claim(run_id, "a")
    assert (claim.failures, claim.crashes, claim.epoch) == (0, 0, 2)


def test_a_fallback_takes_over_on_its_own_queue_without_failures(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "a"))
    assert steps.requeue(steps.claim(run_id, "a"), agent="substitute")
    row = steps.row(run_id, "a")
    assert (row["agent"], row["queue"], row["failures"]) == ("substitute", "agent.substitute", 0)
    assert [dispatch.agent for dispatch in steps.store.repairs.take_due()] == ["substitute"]
    assert steps.claim(run_id, "a").agent == "substitute"


@pytest.mark.parametrize(("agent", "left"), [(None, [EntryState.DONE]), ("substitute", [EntryState.VOID])])
def test_what_an_agent_has_recorded_is_forgotten_together_with_its_fallbacks_beginning(
    steps: Steps, agent: str | None, left: list[EntryState]
) -> None:
    [run_id] = steps.start()
    lost, journal = steps.claim(run_id, "a"), steps.store.journal
    assert steps.requeue(lost)
    claim = steps.claim(run_id, "a")
    journal.record(claim, Entry(Slot("", 0), "step", "0" * 32, EntryState.DONE, outcome=1))
    assert not steps.requeue(lost, agent="substitute")
    assert [entry.state for entry in journal.entries(claim.id)] == [EntryState.DONE]
    assert steps.requeue(claim, agent=agent)
    assert [entry.state for entry in journal.entries(claim.id)] == left


def test_a_publication_that_failed_is_noted_unless_another_has_followed(steps: Steps) -> None:
    [run_id] = steps.start()
    first = Dispatch(steps.id(run_id, "a"), 1, "a", Priority.NEW)
    steps.store.agent_runs.unpublished([first])
    assert steps.row(run_id, "a")["published_at"] is None
    assert [dispatch.number for dispatch in steps.store.repairs.take_due()] == [2]
    steps.store.agent_runs.unpublished([first])
    assert steps.row(run_id, "a")["published_at"] is not None


def test_a_publication_that_failed_after_its_task_was_claimed_is_of_no_interest(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    steps.store.agent_runs.unpublished([Dispatch(steps.id(run_id, "a"), 1, "a", Priority.NEW)])
    assert steps.row(run_id, "a")["published_at"] is not None


# Fail -----------------------------------------------------------------------------------------------------------------


def test_a_failure_ends_the_run_and_cancels_what_is_open(steps: Steps) -> None:
    [run_id] = steps.start()
    sibling = steps.claim(run_id, "b")
    assert steps.store.runs.fail(steps.claim(run_id, "a"), FAILED)
    assert steps.states(run_id) == {"a": "failed", "b": "cancelled", "end": "cancelled"}
    row = steps.run_row(run_id)
    assert (row["state"], row["error"]) == ("failed", {"code": "agent_failed", "message": "no"})
    assert row["finished_at"] is not None
    assert steps.row(run_id, "a")["failures"] == 1
    assert steps.finish(sibling) is None


def test_of_two_failures_at_the_same_time_one_fails_the_run(steps: Steps) -> None:
    for run_id in steps.start(50):
        claims = [steps.claim(run_id, name) for name in "ab"]
        failed = race(*(lambda claim=claim: steps.store.runs.fail(claim, FAILED) for claim in claims))
        assert sorted(map(bool, failed)) == [False, True]
        assert sorted(steps.states(run_id).values()) == ["cancelled", "cancelled", "failed"]


# Cancel ---------------------------------------------------------------------------------------------------------------


def test_a_cancel_is_final_at_once_and_reaches_blocked_queued_and_running(steps: Steps) -> None:
    [run_id] = steps.start()
    running = steps.claim(run_id, "a")
    assert steps.store.runs.cancel(run_id)
    assert steps.states(run_id) == {"a": "cancelled", "b": "cancelled", "end": "cancelled"}
    assert (steps.state(run_id), steps.run_row(run_id)["error"]) == (RunState.CANCELLED, None)
    assert steps.finish(running) is None
    assert steps.try_claim(run_id, "b") is None
    assert steps.store.fleet.held(WORKER, settled_after_seconds=0) == []


def test_a_cancel_keeps_what_has_ended(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.do(run_id, "a")
    steps.store.runs.cancel(run_id)
    assert steps.states(run_id) == {"a": "succeeded", "b": "cancelled", "end": "cancelled"}


def test_a_run_that_has_ended_cannot_be_cancelled(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.do(run_id, "a", "b", "end")
    before = steps.run_row(run_id)
    assert not steps.store.runs.cancel(run_id)
    assert steps.run_row(run_id) == before


def test_a_cancel_that_races_completions_leaves_nothing_queued_and_surfaces_no_deadlock(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), *(task(f"c{number}", "a", "b") for number in range(6))))
    for run_id in steps.start(60):
        claims = [steps.claim(run_id, name) for name in "ab"]
        cancelled, *_ = race(
            lambda run_id=run_id: store.runs.cancel(run_id),
            *(lambda claim=claim: steps.finish(claim) is not None for claim in claims),
        )
        assert cancelled
        assert steps.state(run_id) is RunState.CANCELLED
        assert set(steps.states(run_id).values()) <= {"succeeded", "cancelled"}


def test_a_cancel_that_races_claims_and_retries_leaves_nothing_queued(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c")))
    for run_id in steps.start(60):
        held = steps.claim(run_id, "a")
        race(
            lambda run_id=run_id: store.runs.cancel(run_id),
            lambda held=held: steps.requeue(held),
            lambda run_id=run_id: steps.try_claim(run_id, "b") is not None,
            lambda run_id=run_id: steps.try_claim(run_id, "c") is not None,
        )
        assert set(steps.states(run_id).values()) == {"cancelled"}


def test_of_a_cancel_and_the_last_completion_exactly_one_ends_the_run(store: Store) -> None:
    steps = Steps(store, plan_of(task("a")))
    for run_id in steps.start(60):
        claim = steps.claim(run_id, "a")
        cancelled, finished = race(
            lambda run_id=run_id: store.runs.cancel(run_id), lambda claim=claim: steps.finish(claim) is not None
        )
        assert cancelled is not finished
        assert steps.state(run_id) is (RunState.CANCELLED if cancelled else RunState.SUCCEEDED)


# The order of locks, step by step: what needs the run waits for who holds it -------------------------------------------


def blocked(database: Database, future: Future[T]) -> bool:
    """Wait until a statement on this schema waits for a lock, true, or `future` is done without, false."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position(:schema IN query) > 0"
    )
    pause = threading.Event()
    while not future.done():
        with database.connect() as connection:
            if connection.execute(waiting, {"schema": database.schema}).scalar_one():
                return True
        pause.wait(0.005)
    return False


def test_whatever_ends_or_queues_an_agent_run_waits_for_a_cancel_that_holds_the_run(postgres: Database) -> None:
    store = Store(postgres)
    steps = Steps(store, plan_of(task("a"), task("b"), task("c", "a"), task("d", "b")))
    actions: list[Callable[[str], object]] = [
        lambda run_id: steps.finish(steps.claim(run_id, "a")),
        lambda run_id: steps.requeue(steps.claim(run_id, "a")),
        lambda run_id: store.runs.fail(steps.claim(run_id, "a"), FAILED),
    ]
    for action in actions:
        [run_id] = steps.start()
        steps.claim(run_id, "b")
        with ThreadPoolExecutor(1) as pool:
            with postgres.transaction() as cancel:
                assert cancel.row("lock_run", run_id=run_id)
                future = pool.submit(action, run_id)
                assert blocked(postgres, future)
                cancel.run("cancel_open", run_id=run_id)
                cancel.run("set_run_state", run_id=run_id, state="cancelled", error=None)
            assert not future.result(60)
        assert set(steps.states(run_id).values()) == {"cancelled"}
        assert steps.state(run_id) is RunState.CANCELLED


def test_a_first_claim_that_meets_a_cancel_waits_before_it_locks_anything_and_claims_nothing(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(Store(postgres), plan_of(task("a")))
    [run_id] = steps.start()
    statements: list[str] = []
    rows = Session.rows

    def noted(session: Session, statement: str, **parameters: Any) -> Any:
        statements.append(statement)
        return rows(session, statement, **parameters)

    monkeypatch.setattr(Session, "rows", noted)
    with ThreadPoolExecutor(1) as pool:
        with postgres.transaction() as cancel:
            assert cancel.row("lock_run", run_id=run_id)
            future = pool.submit(steps.try_claim, run_id, "a")
            assert blocked(postgres, future)
            cancel.run("cancel_open", run_id=run_id)
            cancel.run("set_run_state", run_id=run_id, state="cancelled", error=None)
        assert future.result(60) is None
    assert (steps.state(run_id), steps.states(run_id)) == (RunState.CANCELLED, {"a": "cancelled"})
    assert statements.count("claim") == 1, "it was in the way of the cancel, and Postgres broke a deadlock by it"


def test_a_cancel_waits_for_a_completion_that_is_under_way(postgres: Database) -> None:
    store = Store(postgres)
    steps = Steps(store, plan_of(task("a"), task("b", "a")))
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    with ThreadPoolExecutor(1) as pool:
        with postgres.transaction() as completion:
            assert completion.row("lock_active_run", run_id=run_id)
            future = pool.submit(store.runs.cancel, run_id)
            assert blocked(postgres, future)
            completion.row("release_row", id=steps.id(run_id, "b"), decided=False)
        assert future.result(60)
    assert steps.states(run_id) == {"a": "cancelled", "b": "cancelled"}


# Reopen ---------------------------------------------------------------------------------------------------------------


def failed_run(steps: Steps) -> str:
    """Make a run in which `a` has succeeded and `b` has failed."""
    [run_id] = steps.start()
    steps.do(run_id, "a")
    steps.requeue(steps.claim(run_id, "b"))
    assert steps.store.runs.fail(steps.claim(run_id, "b"), FAILED)
    return run_id


def test_a_failed_run_opens_again_from_what_did_not_succeed(steps: Steps) -> None:
    run_id = failed_run(steps)
    [dispatch] = steps.store.runs.reopen(run_id)
    assert (dispatch.id, dispatch.agent) == (steps.id(run_id, "b"), "b")
    assert steps.states(run_id) == {"a": "succeeded", "b": "queued", "end": "blocked"}
    row = steps.run_row(run_id)
    assert (row["state"], row["error"], row["finished_at"]) == ("pending", None, None)
    claim = steps.claim(run_id, "b")
    assert (claim.failures, claim.crashes) == (0, 0)
    finished = steps.finish(claim)
    assert finished is not None
    assert [released.agent for released in finished.released] == ["end"]
    assert steps.do(run_id, "end").ended
    assert steps.state(run_id) is RunState.SUCCEEDED


def test_a_cancelled_run_opens_again(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.do(run_id, "a")
    steps.store.runs.cancel(run_id)
    assert [dispatch.agent for dispatch in steps.store.runs.reopen(run_id)] == ["b"]
    assert steps.do(run_id, "b", "end").ended


def test_a_run_opened_again_never_uses_a_dispatch_number_or_an_epoch_again(steps: Steps) -> None:
    run_id = failed_run(steps)
    numbers, epochs = {steps.row(run_id, "b")["dispatch"]}, {steps.row(run_id, "b")["epoch"]}
    for _ in range(3):
        [dispatch] = steps.store.runs.reopen(run_id)
        claim = steps.claim(run_id, "b")
        assert dispatch.number not in numbers
        assert claim.epoch not in epochs
        numbers.add(dispatch.number)
        epochs.add(claim.epoch)
        assert steps.store.runs.fail(claim, FAILED)


def test_a_claim_from_before_a_second_beginning_is_lost(steps: Steps) -> None:
    [run_id] = steps.start()
    old = steps.claim(run_id, "a")
    steps.store.runs.cancel(run_id)
    steps.store.runs.reopen(run_id)
    assert steps.finish(old) is None
    assert not steps.store.runs.fail(old, FAILED)
    assert steps.finish(steps.claim(run_id, "a")) is not None


def test_joins_are_counted_anew_by_what_has_to_run_again(store: Store) -> None:
    steps = Steps(store, join(4))
    [run_id] = steps.start()
    steps.do(run_id, "a0", "a1")
    store.runs.cancel(run_id)
    assert {dispatch.agent for dispatch in store.runs.reopen(run_id)} == {"a2", "a3"}
    assert steps.do(run_id, "a2").released == ()
    assert [dispatch.agent for dispatch in steps.do(run_id, "a3").released] == ["end"]


def test_a_fallback_is_forgotten_when_the_run_opens_again(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "a"), agent="substitute")
    steps.store.runs.cancel(run_id)
    assert {dispatch.agent for dispatch in steps.store.runs.reopen(run_id)} == {"a", "b"}
    assert steps.row(run_id, "a")["queue"] == "agent.a"


def test_a_condition_is_decided_again_when_the_run_opens_again(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b", "a", when="a.go")))
    [run_id] = steps.start()
    steps.do(run_id, "a")
    store.runs.cancel(run_id)
    assert store.runs.reopen(run_id) == ()
    assert steps.states(run_id) == {"a": "succeeded", "b": "blocked"}
    assert store.repairs.stuck_runs() == [run_id]


def test_a_run_opened_again_does_not_end_while_anything_of_it_is_open(store: Store) -> None:
    """`a` failed, the workflow lived with it and `b` has used that; what failed the run is `c`."""
    steps = Steps(store, plan_of(task("a", on_error="continue"), task("b", "a"), task("c")))
    [run_id] = steps.start()
    steps.do(run_id, "a", outcome=FAILED)
    steps.do(run_id, "b")
    assert store.runs.fail(steps.claim(run_id, "c"), FAILED)
    store.runs.reopen(run_id)
    steps.do(run_id, "c")
    still_open = set(steps.states(run_id).values()) - {"succeeded", "failed"}
    assert steps.state(run_id).final is not bool(still_open)


@pytest.mark.parametrize(("done", "state"), [((), "pending"), (("a",), "running"), (("a", "b", "end"), "succeeded")])
def test_a_run_that_is_open_or_has_succeeded_cannot_be_opened_again(
    steps: Steps, done: tuple[str, ...], state: str
) -> None:
    [run_id] = steps.start()
    for name in done:
        steps.do(run_id, name)
    before = steps.states(run_id)
    with pytest.raises(RunStateConflict, match=f"run {run_id} is {state}"):
        steps.store.runs.reopen(run_id)
    assert steps.states(run_id) == before


def test_of_several_that_open_a_run_again_one_does(steps: Steps) -> None:
    run_id = failed_run(steps)

    def reopen() -> bool:
        try:
            return bool(steps.store.runs.reopen(run_id))
        except RunStateConflict:
            return False

    assert sorted(race(*[reopen] * 4)) == [False, False, False, True]
