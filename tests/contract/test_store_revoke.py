"""What revoking a Celery id does to its run, on every store."""

from __future__ import annotations

import pytest
from steps import OTHER_WORKER, Steps, plan_of, task

from orchestrator.contracts.run import RunState
from orchestrator.store.revoke import Revocation, revoke
from orchestrator.store.store import Store


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a"), task("b", "a")))


def dispatched(steps: Steps, run_id: str, name: str) -> str:
    """Give the Celery id of a task's last dispatch."""
    return f"{steps.id(run_id, name)}.{steps.row(run_id, name)['dispatch']}"


def test_a_revoke_cancels_a_run_once_whether_it_waits_or_runs(steps: Steps) -> None:
    waiting, running = steps.start(2)
    steps.claim(running, "a")
    for run_id in (waiting, running):
        task_id = dispatched(steps, run_id, "a")
        assert revoke(steps.store.runs, task_id) is Revocation.CANCELLED
        assert revoke(steps.store.runs, task_id) is Revocation.ENDED
        assert steps.state(run_id) is RunState.CANCELLED


def test_a_revoke_of_what_has_succeeded_cancels_the_rest_of_its_run(steps: Steps) -> None:
    [run_id] = steps.start()
    task_id = dispatched(steps, run_id, "a")
    steps.do(run_id, "a")
    assert revoke(steps.store.runs, task_id) is Revocation.CANCELLED
    assert steps.states(run_id) == {"a": "succeeded", "b": "cancelled"}


def test_a_revoke_that_comes_after_its_run_was_retried_cancels_nothing(steps: Steps) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "a")
    first = dispatched(steps, run_id, "a")
    steps.store.runs.cancel(run_id)
    steps.store.runs.reopen(run_id)
    assert revoke(steps.store.runs, first, claim) is Revocation.SUPERSEDED
    steps.claim(run_id, "a", OTHER_WORKER)
    assert revoke(steps.store.runs, first, claim) is Revocation.SUPERSEDED
    assert steps.state(run_id) is RunState.RUNNING
    assert revoke(steps.store.runs, dispatched(steps, run_id, "a")) is Revocation.CANCELLED


def test_a_revoke_of_the_last_id_that_anybody_saw_cancels_what_waits_for_its_next_try(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.claim(run_id, "a")
    seen = dispatched(steps, run_id, "a")
    # Handed back and published again, behind a backlog.
    steps.change(run_id, "a", state="queued", dispatch=2, worker_id=None)
    assert revoke(steps.store.runs, seen) is Revocation.CANCELLED


def test_a_revoke_of_an_earlier_dispatch_that_is_still_executed_here_cancels(steps: Steps) -> None:
    """A message that only seemed to be lost was published again, and then the first one came."""
    [run_id] = steps.start()
    first = dispatched(steps, run_id, "a")
    steps.change(run_id, "a", dispatch=2)
    claim = steps.claim(run_id, "a")
    assert revoke(steps.store.runs, first) is Revocation.SUPERSEDED
    assert revoke(steps.store.runs, first, claim) is Revocation.CANCELLED


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "x",
        "0199c0de-0000-7000-8000-000000000001",
        "0199c0de-0000-7000-8000-000000000001.1",
        "0199c0de-0000-7000-8000-000000000001.x",
        "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz.1",
    ],
)
def test_an_id_of_nobody_is_unknown(store: Store, task_id: str) -> None:
    assert revoke(store.runs, task_id) is Revocation.UNKNOWN
