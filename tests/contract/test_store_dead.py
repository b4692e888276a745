"""Agent runs that failed for good, and runs that are opened again with another input."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from steps import FAILED, OTHER_WORKER, Steps, ago, change, plan_of, task

from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.run import RunFilter, RunState
from orchestrator.dead import DeadLetters
from orchestrator.errors import RunStateConflict
from orchestrator.store.agent_runs import Claim
from orchestrator.store.dead import dead_of, details_of, redrive
from orchestrator.store.listing import list_runs
from orchestrator.store.store import Store
from orchestrator.store.tables import run


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a"), task("b", on_error="continue"), task("c", "a", "b")))


def failed(steps: Steps) -> Claim:
    """Fail a run by its task `a`, which has recorded an effect; `b` has failed too, and `c` is cancelled."""
    [run_id] = steps.start()
    steps.finish(steps.claim(run_id, "b"), FAILED)
    claim = steps.claim(run_id, "a")
    entry = Entry(Slot("", 0), "step", "f" * 32, EntryState.DONE, outcome=1)
    steps.store.journal.record(claim, entry)
    steps.store.runs.fail(claim, FAILED)
    return claim


def test_the_dead_are_what_failed_of_some_runs_with_their_reasons(steps: Steps) -> None:
    first, second = failed(steps), failed(steps)
    runs = list_runs(steps.store.database, RunFilter(states=(RunState.FAILED,)), limit=9)
    dead = dead_of(steps.store.database, runs)
    assert [(each.run_id, each.task) for each in dead] == [
        (second.run_id, "a"),
        (second.run_id, "b"),
        (first.run_id, "a"),
        (first.run_id, "b"),
    ]
    assert {(each.quarantined, each.error and each.error.message, each.project) for each in dead} == {
        (False, "no", "default")
    }
    assert dead_of(steps.store.database, []) == []


def test_details_count_what_is_recorded(steps: Steps) -> None:
    claim = failed(steps)
    details = details_of(steps.store.database, claim.id)
    assert details is not None
    assert (details.state, details.own_input, details.recorded) == ("failed", None, 1)
    assert details_of(steps.store.database, "01a1f8e2-2a12-7db5-bf29-1320ff100001") is None


def test_a_redrive_keeps_what_is_recorded(steps: Steps) -> None:
    claim = failed(steps)
    redrive(steps.store.runs, claim.id, None)
    again = steps.claim(claim.run_id, "a", OTHER_WORKER)
    assert (again.own_input, steps.store.journal.read(again).take(Slot("", 0)) is not None) == (None, True)


def test_a_redrive_with_another_input_begins_anew_with_it(steps: Steps) -> None:
    claim = failed(steps)
    redrive(steps.store.runs, claim.id, '{"text":"other"}')
    again = steps.claim(claim.run_id, "a", OTHER_WORKER)
    assert json.loads(again.own_input or "") == {"text": "other"}
    assert steps.store.journal.read(again).take(Slot("", 0)) is None
    assert steps.claim(claim.run_id, "b").own_input is None


@pytest.mark.parametrize("which", ["c", "of an open run"])
def test_what_has_not_failed_takes_no_other_input_and_nothing_is_changed(which: str, steps: Steps) -> None:
    claim = failed(steps)
    identity = steps.id(claim.run_id, "c") if which == "c" else steps.id(steps.start()[0], "a")
    with pytest.raises(RunStateConflict):
        redrive(steps.store.runs, identity, "{}")
    assert steps.state(claim.run_id) is RunState.FAILED


def test_runs_that_failed_without_any_are_passed_over(steps: Steps) -> None:
    first, second = failed(steps), failed(steps)
    for run_id in steps.start(3):
        change(steps.store.database, run, run_id, deadline_at=ago(steps.store.database, 1))
        steps.store.runs.expire(run_id, str(FAILED.error))
    letters = DeadLetters(cast("Any", SimpleNamespace(store=steps.store)))
    assert [each.run_id for each in letters.list(limit=1)] == [second.run_id] * 2
    assert [each.run_id for each in letters.list(limit=1, after=second.run_id)] == [first.run_id] * 2
    assert [each.run_id for each in letters.list(limit=9)] == [second.run_id] * 2 + [first.run_id] * 2
