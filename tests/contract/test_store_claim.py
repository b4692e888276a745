"""A claim is the right to execute, and every write names it: exactly one holder, and nothing from whoever lost it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from steps import FAILED, OTHER_WORKER, WORKER, Steps, ago, join, plan_of, race, spread, task

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.usage import Usage
from orchestrator.store.agent_runs import Claim, Outcome
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.store import Store


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("reader"), task("editor", "reader")))


# Claiming -------------------------------------------------------------------------------------------------------------


def test_exactly_one_of_sixteen_threads_claims(steps: Steps) -> None:
    for run_id in steps.start(25):
        workers = [ids.new() for _ in range(16)]
        claims = race(*(partial(steps.try_claim, run_id, "reader", worker) for worker in workers))
        [winner] = [worker for worker, claim in zip(workers, claims, strict=True) if claim is not None]
        row = steps.row(run_id, "reader")
        assert (row["state"], row["epoch"], row["worker_id"]) == ("running", 1, winner)


def test_a_claim_says_what_its_executor_needs(steps: Steps) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "reader")
    assert claim.id == steps.id(run_id, "reader")
    assert claim.run_id == run_id
    assert (claim.task, claim.position, claim.agent) == ("reader", 0, "reader")
    assert (claim.epoch, claim.failures, claim.crashes) == (1, 0, 0)
    assert json.loads(claim.run_input) == {"text": "hello"}
    assert claim.upstream is None
    assert steps.store.runs.plan(claim.workflow_id).workflow == steps.plan.workflow


def test_a_claim_brings_what_came_before_in_topological_order_failures_as_errors(store: Store) -> None:
    steps = Steps(store, plan_of(task("z"), task("a", on_error="continue"), task("end", "a", "z")))
    [run_id] = steps.start()
    steps.do(run_id, "z")
    steps.do(run_id, "a", outcome=FAILED)
    upstream = json.loads(steps.claim(run_id, "end").upstream or "")
    assert upstream == [
        ["z", "succeeded", {"text": "done"}, None],
        ["a", "failed", None, {"code": "agent_failed", "message": "no"}],
    ]


def test_the_first_claim_starts_the_run_and_later_ones_leave_its_start_alone(steps: Steps) -> None:
    [run_id] = steps.start()
    assert steps.run_row(run_id)["started_at"] is None
    steps.do(run_id, "reader")
    started = steps.run_row(run_id)["started_at"]
    assert steps.state(run_id) is RunState.RUNNING
    assert started is not None
    steps.claim(run_id, "editor")
    assert steps.run_row(run_id)["started_at"] == started


def test_a_claim_that_fails_does_not_start_the_run(steps: Steps) -> None:
    [run_id] = steps.start()
    assert steps.try_claim(run_id, "editor") is None
    steps.change(run_id, "reader", due_at=ago(steps.store.database, -60))
    assert steps.try_claim(run_id, "reader") is None
    assert steps.state(run_id) is RunState.PENDING


@pytest.mark.parametrize("state", [state for state in AgentRunState if state is not AgentRunState.QUEUED])
def test_only_what_is_queued_can_be_claimed(steps: Steps, state: AgentRunState) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "reader", state=state)
    assert steps.try_claim(run_id, "reader") is None
    assert steps.row(run_id, "reader")["epoch"] == 0


def test_what_is_not_there_cannot_be_claimed(steps: Steps) -> None:
    assert steps.try_claim(ids.new(), "reader") is None


def test_what_is_not_due_cannot_be_claimed_until_it_is(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.change(run_id, "reader", due_at=ago(steps.store.database, -60))
    assert steps.try_claim(run_id, "reader") is None
    steps.change(run_id, "reader", due_at=ago(steps.store.database, 1))
    assert steps.claim(run_id, "reader").epoch == 1
    assert steps.row(run_id, "reader")["due_at"] is None


def test_nothing_of_a_cancelled_run_can_be_claimed(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.store.runs.cancel(run_id)
    assert steps.try_claim(run_id, "reader") is None
    assert steps.state(run_id) is RunState.CANCELLED


def test_every_claim_raises_the_epoch_whatever_came_between(steps: Steps) -> None:
    [run_id] = steps.start()
    first = steps.claim(run_id, "reader")
    steps.requeue(first, failed=True)
    second = steps.claim(run_id, "reader")
    steps.store.repairs.release(orphan_of(second), Loss.DIED_ALONE)
    third = steps.claim(run_id, "reader")
    assert [claim.epoch for claim in (first, second, third)] == [1, 2, 3]
    assert (third.failures, third.crashes) == (1, 1)


# Fencing --------------------------------------------------------------------------------------------------------------


def orphan_of(claim: Claim, worker: str = WORKER) -> Orphan:
    return Orphan(claim.id, claim.run_id, claim.epoch, claim.crashes, worker)


WRITES: dict[str, Callable[[Steps, Claim], object]] = {
    "finish": lambda steps, claim: steps.finish(claim),
    "finish as failed": lambda steps, claim: steps.finish(claim, FAILED),
    "requeue": lambda steps, claim: steps.requeue(claim),
    "hand over": lambda steps, claim: steps.requeue(claim, agent="other"),
    "fail the run": lambda steps, claim: steps.store.runs.fail(claim, FAILED),
    "release": lambda steps, claim: steps.store.repairs.release(orphan_of(claim), Loss.DIED_ALONE),
    "quarantine": lambda steps, claim: steps.store.repairs.quarantine(orphan_of(claim), FAILED.error or ""),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_under_an_old_epoch_changes_nothing(steps: Steps, write: str) -> None:
    [run_id] = steps.start()
    zombie = steps.claim(run_id, "reader")
    steps.requeue(zombie)
    steps.claim(run_id, "reader", WORKER)
    before = steps.row(run_id, "reader"), steps.row(run_id, "editor"), steps.run_row(run_id)
    assert not WRITES[write](steps, zombie)
    assert (steps.row(run_id, "reader"), steps.row(run_id, "editor"), steps.run_row(run_id)) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_write_after_a_release_changes_nothing_even_before_the_next_claim(steps: Steps, write: str) -> None:
    [run_id] = steps.start()
    zombie = steps.claim(run_id, "reader")
    assert steps.store.repairs.release(orphan_of(zombie), Loss.DIED_ALONE)
    before = steps.row(run_id, "reader"), steps.run_row(run_id)
    assert not WRITES[write](steps, zombie)
    assert (steps.row(run_id, "reader"), steps.run_row(run_id)) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_write_after_the_end_changes_nothing(steps: Steps, write: str) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "reader")
    steps.finish(claim)
    before = steps.row(run_id, "reader"), steps.row(run_id, "editor"), steps.run_row(run_id)
    assert not WRITES[write](steps, claim)
    assert (steps.row(run_id, "reader"), steps.row(run_id, "editor"), steps.run_row(run_id)) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_write_in_a_cancelled_run_changes_nothing(steps: Steps, write: str) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "reader")
    steps.store.runs.cancel(run_id)
    before = steps.row(run_id, "reader"), steps.run_row(run_id)
    assert not WRITES[write](steps, claim)
    assert (steps.row(run_id, "reader"), steps.run_row(run_id)) == before


def test_a_release_of_what_another_worker_holds_changes_nothing(steps: Steps) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "reader")
    assert not steps.store.repairs.release(orphan_of(claim, OTHER_WORKER), Loss.DIED_ALONE)
    assert steps.states(run_id)["reader"] == "running"


def test_after_a_takeover_the_zombies_completion_releases_nothing_and_the_new_ones_does(steps: Steps) -> None:
    [run_id] = steps.start()
    zombie = steps.claim(run_id, "reader")
    steps.store.repairs.release(orphan_of(zombie), Loss.DIED_ALONE)
    heir = steps.claim(run_id, "reader", OTHER_WORKER)
    assert steps.finish(zombie) is None
    assert steps.states(run_id) == {"reader": "running", "editor": "blocked"}
    finished = steps.finish(heir, Outcome(AgentRunState.SUCCEEDED, output='"the heir\'s"'))
    assert finished is not None
    assert [dispatch.agent for dispatch in finished.released] == ["editor"]
    assert steps.row(run_id, "reader")["output"] == "the heir's"


def test_a_zombie_and_its_heir_that_finish_together_end_the_agent_run_once(steps: Steps) -> None:
    for run_id in steps.start(50):
        zombie = steps.claim(run_id, "reader")
        steps.store.repairs.release(orphan_of(zombie), Loss.DIED_ALONE)
        heir = steps.claim(run_id, "reader", OTHER_WORKER)
        of_zombie, of_heir = race(lambda zombie=zombie: steps.finish(zombie), lambda heir=heir: steps.finish(heir))
        assert of_zombie is None
        assert of_heir is not None
        assert steps.row(run_id, "editor")["dispatch"] == 1


def test_two_deliveries_of_one_completion_count_once_at_the_join(store: Store) -> None:
    steps = Steps(store, join(2))
    for run_id in steps.start(25):
        claim = steps.claim(run_id, "a0")
        assert sum(finished is not None for finished in race(*[lambda claim=claim: steps.finish(claim)] * 4)) == 1
        assert steps.states(run_id)["end"] == "blocked"
        assert len(steps.do(run_id, "a1").released) == 1


# What a claim's holder can ask ----------------------------------------------------------------------------------------


def test_a_claim_is_held_until_it_ends_or_is_lost(steps: Steps) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "reader")
    agent_runs = steps.store.agent_runs
    assert agent_runs.still_held(claim)
    assert agent_runs.ended_as(claim) is None
    steps.requeue(claim)
    assert not agent_runs.still_held(claim)
    heir = steps.claim(run_id, "reader")
    assert not agent_runs.still_held(claim)
    steps.finish(heir)
    assert agent_runs.ended_as(heir) is AgentRunState.SUCCEEDED
    assert agent_runs.ended_as(claim) is None


def test_a_completion_without_an_answer_can_find_out_what_it_released(steps: Steps) -> None:
    [run_id] = steps.start()
    claim = steps.claim(run_id, "reader")
    finished = steps.finish(claim)
    assert finished is not None
    released = finished.released
    assert steps.store.agent_runs.queued_after(claim, steps.plan) == released
    assert released == (Dispatch(steps.id(run_id, "editor"), 1, "editor", Priority.LATER),)
    steps.claim(run_id, "editor")
    assert steps.store.agent_runs.queued_after(claim, steps.plan) == ()


def test_an_outcome_is_stored_as_it_is(steps: Steps) -> None:
    [run_id] = steps.start()
    text = '{"text":"naïve — 漢字 \\u2028 😀","n":1e-7,"deep":[[{}]]}'
    usage = Usage(model_calls=2, input_tokens=10, output_tokens=3)
    steps.finish(steps.claim(run_id, "reader"), Outcome(AgentRunState.SUCCEEDED, text, usage=usage, model="offline"))
    row = steps.row(run_id, "reader")
    assert row["output"] == json.loads(text)
    assert row["usage"] == {"model_calls": 2, "input_tokens": 10, "output_tokens": 3}
    assert (row["model"], row["worker_id"]) == ("offline", None)
    assert row["finished_at"] >= row["started_at"]


def test_the_name_of_the_worker_outlives_its_claim_and_the_worker_itself(steps: Steps) -> None:
    def workers(run_id: str) -> list[str | None]:
        return [row[7] for row in steps.store.runs.parts(run_id)]

    steps.store.fleet.join(WORKER, name="w-1@host", pid=1, slots=1, cards=[])
    steps.store.fleet.join(OTHER_WORKER, name="w-2@host", pid=1, slots=1, cards=[])
    [run_id] = steps.start()
    assert workers(run_id) == [None, None]
    steps.requeue(steps.claim(run_id, "reader"))
    assert workers(run_id) == ["w-1@host", None]
    claim = steps.claim(run_id, "reader", OTHER_WORKER)
    assert steps.store.runs.fail(claim, FAILED)
    steps.store.fleet.leave(OTHER_WORKER)
    assert workers(run_id) == ["w-2@host", None]
    assert steps.row(run_id, "reader")["worker_id"] is None
    steps.store.runs.reopen(run_id)
    assert workers(run_id) == [None, None]


def test_peek_gives_the_state_that_celerys_tools_show(steps: Steps) -> None:
    [run_id] = steps.start()
    agent_runs = steps.store.agent_runs
    assert agent_runs.peek(steps.id(run_id, "reader")) == ("queued", None, None, None, None, 0, 1)
    steps.do(run_id, "reader")
    seen = agent_runs.peek(steps.id(run_id, "reader"))
    assert seen is not None
    state, output, error, finished_at, started_at, epoch, dispatch = seen
    assert (state, json.loads(output), error, epoch, dispatch) == ("succeeded", {"text": "done"}, None, 1, 1)
    assert started_at is not None
    assert finished_at is not None
    assert agent_runs.peek(ids.new()) is None


def test_many_threads_claim_and_finish_many_runs_without_an_error(steps: Steps) -> None:
    def work(run_id: str) -> None:
        steps.do(run_id, "reader", "editor")

    runs = steps.start(200)
    spread(work, runs, threads=16)
    assert steps.store.runs.unfinished() == []
    assert {steps.state(run_id) for run_id in runs} == {RunState.SUCCEEDED}
