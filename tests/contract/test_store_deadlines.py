"""A run that has not ended at its deadline fails, once, with everything that is open of it."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import update
from steps import Steps, ago, change, plan_of, task

from orchestrator.advance import Advancer
from orchestrator.clock import ids
from orchestrator.contracts.run import RunState
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.own_runs import OwnRuns
from orchestrator.planning.frontier import Plan
from orchestrator.recovery import Sweep
from orchestrator.settings import Settings
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.tables import run, sweep


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a"), task("b", "a")))


def with_deadline(steps: Steps, seconds: float) -> str:
    [run_id] = steps.create(NewRun(ids.new(), "{}", deadline=timedelta(seconds=seconds)))
    return run_id


def overdue(steps: Steps) -> str:
    """Make a run whose deadline has just passed."""
    run_id = with_deadline(steps, 60)
    change(steps.store.database, run, run_id, deadline_at=ago(steps.store.database, 0.01))
    return run_id


class Empty:
    """A broker that holds nothing."""

    def depth(self, name: str, /) -> int:
        return 0


class Swept:
    """Sweeps of one process; `ended` notes the runs that it hears of."""

    def __init__(self, store: Store, *, embedded: bool = False) -> None:
        self.store = store
        self.ended: list[tuple[str, RunState]] = []
        advancer = SimpleNamespace(
            republish=lambda dispatches: bool(list(dispatches)) or True,  # pyright: ignore[reportUnknownLambdaType]
            advance=lambda run_id: None,  # pyright: ignore[reportUnknownLambdaType]
            on_run_ended=lambda run_id, state: self.ended.append((run_id, state)),  # pyright: ignore[reportUnknownLambdaType]
        )
        own = OwnRuns(store, cast("Advancer", advancer), 15.0) if embedded else None
        self.sweep = Sweep(store, cast("Advancer", advancer), Empty(), Settings(), own)

    def tick(self) -> int:
        with self.store.database.connect() as connection:
            connection.execute(update(sweep).values(ran_at=ago(self.store.database, 60), held_until=None))
        return self.sweep.tick().expired


# How long a run has ---------------------------------------------------------------------------------------------------


def seconds_of(steps: Steps, run_id: str) -> float | None:
    row = steps.run_row(run_id)
    return None if row["deadline_at"] is None else (row["deadline_at"] - row["created_at"]).total_seconds()


def test_the_deadline_counts_from_the_submit_by_the_databases_clock(steps: Steps) -> None:
    assert seconds_of(steps, with_deadline(steps, 90.5)) == 90.5
    assert seconds_of(steps, steps.start()[0]) is None


def test_what_the_submit_says_goes_before_what_the_workflow_says(store: Store) -> None:
    steps = Steps(
        store, Plan(WorkflowDefinition.model_validate({"tasks": [{"id": "a", "agent": "a"}], "deadline": 3600}))
    )
    assert seconds_of(steps, steps.start()[0]) == 3600
    assert seconds_of(steps, with_deadline(steps, 7200)) == 7200


def test_a_second_submit_with_the_same_key_changes_no_deadline(steps: Steps) -> None:
    [first] = steps.create(NewRun(ids.new(), "{}", "k", timedelta(seconds=60)))
    assert steps.create(NewRun(ids.new(), "{}", "k", timedelta(seconds=1))) == (first,)
    assert seconds_of(steps, first) == 60


@pytest.mark.parametrize("deadline", [0, -1, 1e12, "soon"])
def test_a_deadline_that_no_run_can_have_is_refused(deadline: Any) -> None:
    with pytest.raises(ValueError, match="deadline"):
        WorkflowDefinition.model_validate({"tasks": [], "deadline": deadline})


def test_a_workflow_without_a_deadline_has_the_digest_that_it_always_had() -> None:
    assert "deadline" not in plan_of(task("a")).workflow.canonical


# When it has passed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedded", [False, True])
def test_a_run_that_has_not_ended_in_time_fails_with_all_that_is_open(steps: Steps, embedded: bool) -> None:
    late, in_time = overdue(steps), with_deadline(steps, 60)
    claim = steps.claim(late, "a")
    swept = Swept(steps.store, embedded=embedded)
    assert swept.tick() == 1
    assert steps.state(late) is RunState.FAILED
    assert steps.states(late) == {"a": "cancelled", "b": "cancelled"}
    error = steps.run_row(late)["error"]
    assert error["code"] == "run_deadline"
    assert "within its deadline" in error["message"]
    assert steps.finish(claim) is None
    assert steps.state(in_time) is RunState.PENDING
    assert swept.ended == [(late, RunState.FAILED)]


def test_it_fails_once(steps: Steps) -> None:
    late = overdue(steps)
    swept = Swept(steps.store)
    assert [swept.tick(), swept.tick()] == [1, 0]
    at = steps.run_row(late)["finished_at"]
    assert steps.store.runs.expire(late, "{}") is None
    assert steps.run_row(late)["finished_at"] == at


def test_a_run_that_ended_in_time_stays_as_it_is(steps: Steps) -> None:
    done = overdue(steps)
    steps.do(done, "a", "b")
    cancelled = overdue(steps)
    steps.store.runs.cancel(cancelled)
    assert steps.store.runs.overdue() == []
    assert Swept(steps.store).tick() == 0
    assert steps.state(done) is RunState.SUCCEEDED


def test_a_run_that_ends_between_look_and_deed_stays_as_it_is(steps: Steps) -> None:
    late = overdue(steps)
    [seen] = steps.store.runs.overdue()
    steps.do(late, "a", "b")
    assert steps.store.runs.expire(seen.id, "{}") is None
    assert steps.state(late) is RunState.SUCCEEDED


def test_more_runs_than_one_sweep_takes_are_ended_by_the_next(steps: Steps) -> None:
    late = [overdue(steps) for _ in range(103)]
    swept = Swept(steps.store)
    assert [swept.tick(), swept.tick(), swept.tick()] == [100, 3, 0]
    assert set(steps.store.runs.states_of(late).values()) == {RunState.FAILED}


def test_a_retry_after_the_deadline_has_no_deadline_any_more(steps: Steps) -> None:
    late = overdue(steps)
    Swept(steps.store).tick()
    steps.store.runs.reopen(late)
    assert seconds_of(steps, late) is None
    assert Swept(steps.store).tick() == 0
    steps.do(late, "a", "b")
    assert steps.state(late) is RunState.SUCCEEDED


def test_a_retry_before_the_deadline_keeps_it(steps: Steps) -> None:
    run_id = with_deadline(steps, 60)
    steps.store.runs.cancel(run_id)
    steps.store.runs.reopen(run_id)
    assert seconds_of(steps, run_id) == 60


def test_what_a_late_run_did_is_undone_and_its_deadline_does_not_pass_again(store: Store) -> None:
    steps = Steps(store, plan_of(task("a", compensate="undo_it"), task("b", "a")))
    late = overdue(steps)
    steps.do(late, "a")
    swept = Swept(store)
    assert [swept.tick(), swept.tick()] == [1, 0]
    row = steps.run_row(late)
    ending = row["ending"] if isinstance(row["ending"], dict) else json.loads(row["ending"])
    assert (row["state"], ending["state"], ending["error"]["code"]) == ("running", "failed", "run_deadline")
    assert swept.ended == []


def test_open_runs_are_looked_through_by_their_deadline_alone(postgres: Database) -> None:
    steps = Steps(Store(postgres), plan_of(task("a")))
    for _ in range(5):
        steps.start(100)
    overdue(steps)
    with postgres.transaction() as session:
        session.command("SET LOCAL enable_seqscan = off")
        text = postgres.statement("overdue_runs")
        plan = "\n".join(row[0] for row in explain(session, text))
    assert "ix_run_deadline" in plan


def explain(session: Any, text: str) -> list[tuple[str]]:
    cursor = session._connection.execute(f"EXPLAIN {text}")
    return cursor.fetchall()
