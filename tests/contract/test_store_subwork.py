"""Sub-work: created once with the beginning of its effect, counted as it ends, resumed, and ended with its caller."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from plans import plan_text
from sqlalchemy import insert, select
from steps import DONE, FAILED, OTHER_WORKER, WORKER, Steps, ago, change, plan_of, race, spread, stored, task

from orchestrator.clock import position_of
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.policy import RetryPolicy
from orchestrator.contracts.run import RunState
from orchestrator.contracts.subwork import Ended, Order, Standing, SubworkOptions, SubworkState
from orchestrator.contracts.workflow import Compensation, TaskDefinition
from orchestrator.errors import CallLimitExceeded, ClaimLost
from orchestrator.planning.subwork import definition_of
from orchestrator.store.agent_runs import Claim, Finish, Outcome
from orchestrator.store.compensation import finish_undo
from orchestrator.store.database import Database, Session
from orchestrator.store.past import past_of
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.store import Store
from orchestrator.store.subwork import Begun, Subworks
from orchestrator.store.tables import agent_run, journal, subwork

FIRST, SECOND = Slot("", 0), Slot("", 1)


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a"), task("b", "a")))


def order(*inputs: Any, agent: str = "sub", **options: Any) -> Order:
    return Order(agent, tuple(map(json.dumps, inputs)), **options)


def begin(steps: Steps, claim: Claim, asked: Order, slot: Slot = FIRST, *, mark: str = "0", most: int = 1000) -> Begun:
    row = {
        "agent_run_id": claim.id, "tenant_id": claim.tenant_id, "scope": slot.scope, "number": slot.number, "kind": "call",
        "fingerprint": mark * 32, "state": "begun", "request": None, "error": None, "usage": None, "model": None,
        "digest": None, "conversation": None, "epoch": claim.epoch, "milliseconds": None,
    }  # fmt: skip
    return steps.store.subwork.begin(claim, steps.plan, asked, row, most=most)


def suspend(steps: Steps, claim: Claim, standing: Standing) -> Dispatch | None:
    interest = Interest("calls", {"subwork": standing.id})
    return steps.store.waits.suspend(claim, left_seconds=None, waiting_for="waits", interests=[interest])


def waiting(steps: Steps, asked: Order) -> tuple[Claim, Begun]:
    """Make a run whose first task has asked for sub-work, and is suspended."""
    claim = steps.claim(steps.start()[0], "a")
    begun = begin(steps, claim, asked)
    assert suspend(steps, claim, begun.standing) is None
    return claim, begun


def take(steps: Steps, dispatch: Dispatch, worker: str = WORKER) -> Claim:
    claim = steps.agent_runs.claim(dispatch.id, worker)
    assert claim is not None
    return claim


def end(steps: Steps, dispatch: Dispatch | Claim, outcome: Outcome = DONE, *, asked: bool = False) -> Finish:
    claim = dispatch if isinstance(dispatch, Claim) else take(steps, dispatch)
    finished = Subworks(steps.store.database).finish(claim, outcome, asked=asked)
    assert finished is not None
    return finished


def rows_of(steps: Steps, run_id: str) -> dict[str, str]:
    """Give the states of the agent runs of sub-work."""
    return {name: state for name, state in steps.states(run_id).items() if "-" in name}


def state_of(steps: Steps, claim: Claim, slot: Slot = FIRST) -> SubworkState | None:
    standing = steps.store.subwork.standing(claim, slot)
    return None if standing is None else standing.state


def void(steps: Steps, claim: Claim, *slots: Slot) -> None:
    steps.store.journal.void(claim, slots)


# Beginning ------------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_made_with_the_beginning_of_its_effect_and_as_many_as_may_are_ready(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    begun = begin(steps, claim, order(1, 2, 3, max_concurrency=2))
    assert rows_of(steps, claim.run_id) == {"a-1": "queued", "a-2": "queued", "a-3": "blocked"}
    assert [position_of(dispatch.id) for dispatch in begun.ready] == [2, 3], "behind the tasks"
    assert begun.standing.tasks == "a-1 to a-3"
    with steps.store.database.connect() as connection:
        assert connection.execute(select(journal.c.kind, journal.c.state)).all() == [("call", "begun")]
    child = take(steps, begun.ready[1])
    assert (child.task, child.agent, child.own_input, child.parent_id) == ("a-2", "sub", "2", claim.id)
    assert child.upstream is None


def test_the_same_request_again_after_a_reply_that_was_lost_makes_nothing(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    first, again = begin(steps, claim, order(1)), begin(steps, claim, order(1))
    assert again == Begun(first.standing)
    end(steps, first.ready[0])
    assert begin(steps, claim, order(1)).standing.state is SubworkState.DONE
    assert len(rows_of(steps, claim.run_id)) == 1


def test_who_has_lost_the_claim_asks_for_nothing(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    steps.requeue(claim)
    newer = steps.claim(claim.run_id, "a", OTHER_WORKER)
    with pytest.raises(ClaimLost):
        begin(steps, claim, order(1))
    steps.store.runs.cancel(claim.run_id)
    with pytest.raises(ClaimLost):
        begin(steps, newer, order(1))
    assert rows_of(steps, claim.run_id) == {}


def test_a_run_has_no_more_agent_runs_beside_its_tasks_than_the_settings_say(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    with pytest.raises(CallLimitExceeded, match=r"more than 3 .*NIGHTFLEET_MAX_CALLS"):
        begin(steps, claim, order(1, 2, 3, 4), most=3)
    begin(steps, claim, order(1, 2), most=3)
    with pytest.raises(CallLimitExceeded):
        begin(steps, claim, order(1, 2), SECOND, most=3)
    begin(steps, claim, order(1), SECOND, most=3)
    assert list(rows_of(steps, claim.run_id)) == ["a-1", "a-2", "a-3"]


def test_agent_runs_that_ask_at_the_same_time_get_positions_of_their_own(store: Store) -> None:
    steps = Steps(store, plan_of(*(task(f"a{number}") for number in range(8))))
    [run_id] = steps.start()
    claims = [steps.claim(run_id, f"a{number}") for number in range(8)]
    begun = race(*(lambda claim=claim: begin(steps, claim, order(*range(5))) for claim in claims))
    ids = [dispatch.id for each in begun for dispatch in each.ready]
    assert sorted(map(position_of, ids)) == list(range(8, 48))
    assert {f"a{number}-{child}" for number in range(8) for child in range(1, 6)} == set(rows_of(steps, run_id))


# Ending ---------------------------------------------------------------------------------------------------------------


def test_an_end_releases_the_next_one_and_the_last_end_queues_who_waits_once(steps: Steps) -> None:
    claim, begun = waiting(steps, order(*range(4), max_concurrency=2))
    [third] = end(steps, begun.ready[1]).released
    [fourth] = end(steps, begun.ready[0]).released
    assert [position_of(each.id) for each in (third, fourth)] == [4, 5]
    assert end(steps, fourth).released == ()
    [woken] = end(steps, third).released
    assert (woken.id, woken.number) == (claim.id, 2)
    row = steps.row(claim.run_id, "a")
    assert (row["state"], row["listening"], row["waiting_for"]) == ("queued", None, None)
    assert state_of(steps, claim) is SubworkState.DONE
    ends, more = steps.store.subwork.ends(begun.standing.id)
    assert ends == [Ended(f"a-{number}", "succeeded", {"text": "done"}, None) for number in range(1, 5)]
    assert more is None


def test_an_end_that_comes_before_its_caller_is_suspended_gives_it_straight_back_to_its_queue(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    begun = begin(steps, claim, order(1))
    assert end(steps, begun.ready[0]).released == ()
    again = suspend(steps, claim, begun.standing)
    assert again is not None
    assert steps.row(claim.run_id, "a")["state"] == "queued"


def test_an_end_wakes_nobody_who_waits_for_something_else(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    first, second = begin(steps, claim, order(1)), begin(steps, claim, order(2), SECOND, mark="1")
    assert suspend(steps, claim, second.standing) is None
    assert end(steps, first.ready[0]).released == ()
    assert steps.row(claim.run_id, "a")["state"] == "suspended"
    assert [each.id for each in end(steps, second.ready[0]).released] == [claim.id]


def test_a_failure_cancels_the_rest_and_wakes_the_caller_with_the_first_of_them(steps: Steps) -> None:
    claim, begun = waiting(steps, order(*range(4), max_concurrency=3))
    running = take(steps, begun.ready[2])
    [woken] = end(steps, begun.ready[1], FAILED).released
    assert woken.id == claim.id
    assert rows_of(steps, claim.run_id) == {"a-1": "cancelled", "a-2": "failed", "a-3": "cancelled", "a-4": "cancelled"}
    assert not steps.agent_runs.still_held(running)
    assert state_of(steps, claim) is SubworkState.FAILED
    failure = steps.store.subwork.failure(begun.standing.id)
    assert failure is not None
    assert (failure.task, failure.error["code"], failure.failed, failure.size) == ("a-2", "agent_failed", 1, 4)


def test_without_failing_fast_all_end_before_the_failure_is_told(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1, 2, 3, fail_fast=False))
    assert end(steps, begun.ready[2], FAILED).released == ()
    assert end(steps, begun.ready[0]).released == ()
    assert [each.id for each in end(steps, begun.ready[1], FAILED).released] == [claim.id]
    assert state_of(steps, claim) is SubworkState.FAILED
    failure = steps.store.subwork.failure(begun.standing.id)
    assert failure is not None
    assert (failure.task, failure.failed) == ("a-2", 2)


def test_failures_are_results_where_they_are_to_be(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1, 2, return_exceptions=True, fail_fast=False))
    end(steps, begun.ready[0], FAILED)
    end(steps, begun.ready[1])
    assert state_of(steps, claim) is SubworkState.DONE
    ends, _ = steps.store.subwork.ends(begun.standing.id)
    assert [(each.state, each.error and each.error["code"]) for each in ends] == [
        ("failed", "agent_failed"),
        ("succeeded", None),
    ]


@pytest.mark.parametrize("max_concurrency", [None, 7])
def test_ends_from_many_processes_release_everything_once_and_wake_once(
    steps: Steps, max_concurrency: int | None
) -> None:
    claim, begun = waiting(steps, order(*range(60), max_concurrency=max_concurrency))
    todo, woken = list(begun.ready), 0
    while todo:
        finished = spread(lambda dispatch: end(steps, dispatch), todo, threads=8)
        todo = [dispatch for each in finished for dispatch in each.released]
        woken += sum(dispatch.id == claim.id for dispatch in todo)
        todo = [dispatch for dispatch in todo if dispatch.id != claim.id]
    assert woken == 1
    assert set(rows_of(steps, claim.run_id).values()) == {"succeeded"}


def test_ends_of_one_process_share_transactions_and_two_calls_of_one_caller_wake_it_once(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    calls = [begin(steps, claim, order(*range(20)), Slot("", number), mark=str(number)) for number in range(2)]
    interests = [Interest("calls", {"subwork": each.standing.id}) for each in calls]
    steps.store.waits.suspend(claim, left_seconds=None, waiting_for="waits", interests=interests)
    children = [take(steps, dispatch) for each in calls for dispatch in each.ready]
    finished = spread(lambda child: steps.store.subwork.finish(child, DONE, asked=False), children, threads=16)
    released = [dispatch.id for each in finished if each is not None for dispatch in each.released]
    assert released == [claim.id], "it waited for either of them, and is queued by the first"
    assert [state_of(steps, claim, Slot("", number)) for number in range(2)] == [SubworkState.DONE] * 2
    assert steps.row(claim.run_id, "a")["dispatch"] == 2


def test_suspensions_that_meet_the_last_end_lose_no_wake_up(steps: Steps) -> None:
    for _ in range(30):
        claim = steps.claim(steps.start()[0], "a")
        begun = begin(steps, claim, order(1))
        child = take(steps, begun.ready[0])
        given_back, finished = race(
            lambda claim=claim, begun=begun: suspend(steps, claim, begun.standing),
            lambda child=child: end(steps, child),
        )
        woken = [*([given_back] if given_back else []), *(finished.released if isinstance(finished, Finish) else ())]
        assert [getattr(each, "id", None) for each in woken] == [claim.id]
        assert steps.row(claim.run_id, "a")["state"] == "queued"


def test_an_end_under_a_claim_that_was_lost_changes_nothing(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1))
    child = take(steps, begun.ready[0])
    steps.requeue(child)
    assert steps.store.subwork.finish(child, DONE, asked=False) is None
    assert state_of(steps, claim) is SubworkState.OPEN
    newer = take(steps, begun.ready[0], OTHER_WORKER)
    steps.store.runs.cancel(claim.run_id)
    assert steps.store.subwork.finish(newer, DONE, asked=False) is None


def test_what_an_end_has_queued_can_be_told_again_when_its_reply_was_lost(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1, 2, max_concurrency=1))
    child = take(steps, begun.ready[0])
    [second] = end(steps, child).released
    assert steps.store.subwork.queued_around(child) == (second,)
    last = take(steps, second)
    [woken] = end(steps, last).released
    assert steps.store.subwork.queued_around(last) == (woken,)
    assert woken.id == claim.id


def test_a_quarantined_one_fails_its_call_and_not_the_run(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1, 2))
    child = take(steps, begun.ready[0])
    steps.store.repairs.release(Orphan(child.id, child.run_id, child.epoch, 0, WORKER), Loss.WORKER_DIED)
    suspect = take(steps, begun.ready[0])
    orphan = Orphan(suspect.id, suspect.run_id, suspect.epoch, 2, WORKER)
    assert steps.store.repairs.quarantine(orphan, str(FAILED.error)) is RunState.RUNNING
    assert rows_of(steps, claim.run_id) == {"a-1": "failed", "a-2": "cancelled"}
    assert steps.row(claim.run_id, "a")["state"] == "queued"
    assert [each.id for each in steps.store.repairs.take_due([claim.run_id])] == [claim.id], "left to the sweep"


# The end of the caller ------------------------------------------------------------------------------------------------


def nested(steps: Steps) -> tuple[Claim, Claim, Begun]:
    """Make a task that has asked for an agent run that has asked for two."""
    claim = steps.claim(steps.start()[0], "a")
    child = take(steps, begin(steps, claim, order(1)).ready[0])
    return claim, child, begin(steps, child, order(1, 2))


def test_names_tell_who_has_asked_whom(steps: Steps) -> None:
    claim, child, begun = nested(steps)
    assert (child.task, begun.standing.tasks) == ("a-1", "a-1-1 to a-1-2")
    assert list(rows_of(steps, claim.run_id)) == ["a-1", "a-1-1", "a-1-2"]


def test_a_task_that_ends_ends_everything_below_it(steps: Steps) -> None:
    claim, child, begun = nested(steps)
    running = take(steps, begun.ready[0])
    finished = steps.store.subwork.finish_caller(claim, steps.plan, DONE)
    assert finished is not None
    assert [dispatch.id for dispatch in finished.released] == [steps.id(claim.run_id, "b")]
    assert set(rows_of(steps, claim.run_id).values()) == {"cancelled"}
    assert state_of(steps, claim) is SubworkState.STOPPED
    assert state_of(steps, child) is SubworkState.STOPPED
    assert not steps.agent_runs.still_held(running)
    steps.do(claim.run_id, "b")
    assert steps.state(claim.run_id) is RunState.SUCCEEDED


@pytest.mark.parametrize("reason", ["asked", "failed among results", "failed late"])
def test_an_end_that_cancels_no_others_holds_none_of_them(
    steps: Steps, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "return_exceptions": reason == "failed among results",
        "fail_fast": reason != "failed late",
    }
    _, begun = waiting(steps, order(*range(20), **options))
    held: list[str] = []
    rows = Session.rows

    def counted(session: Session, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        found = rows(session, statement, **parameters)
        held.extend(row[0] for row in found if statement == "hold_agent_runs")
        return found

    claim = take(steps, begun.ready[0])
    monkeypatch.setattr(Session, "rows", counted)
    end(steps, claim, DONE if reason == "asked" else FAILED, asked=reason == "asked")
    assert set(held) == {claim.id, claim.parent_id}


def test_what_has_failed_and_was_not_looked_at_is_resumed_when_it_is_asked_for_again(steps: Steps) -> None:
    for ending in ("caller", "run"):
        claim, begun = waiting(steps, order(1))
        end(steps, begun.ready[0], FAILED)
        caller = steps.claim(claim.run_id, "a")
        if ending == "caller":
            steps.store.subwork.finish_caller(caller, steps.plan, FAILED)
        steps.store.runs.cancel(claim.run_id)
        steps.store.runs.reopen(claim.run_id)
        newer = steps.claim(claim.run_id, "a")
        assert state_of(steps, newer) is SubworkState.STOPPED
        assert [each.id for each in begin(steps, newer, order(1)).ready] == [begun.ready[0].id]


def test_an_agent_run_of_sub_work_that_ends_ends_what_it_has_asked_for(steps: Steps) -> None:
    claim, child, _ = nested(steps)
    end(steps, child, asked=True)
    assert rows_of(steps, claim.run_id) == {"a-1": "succeeded", "a-1-1": "cancelled", "a-1-2": "cancelled"}


@pytest.mark.parametrize("ending", ["cancel", "fail"])
def test_the_end_of_the_run_ends_all_of_it(steps: Steps, ending: str) -> None:
    claim, child, _ = nested(steps)
    if ending == "cancel":
        steps.store.runs.cancel(claim.run_id)
    else:
        steps.store.runs.fail(claim, FAILED)
    assert set(rows_of(steps, claim.run_id).values()) == {"cancelled"}
    assert state_of(steps, child) is SubworkState.STOPPED


# Once more ------------------------------------------------------------------------------------------------------------


def failed_run(steps: Steps, *, fail_fast: bool = False) -> tuple[Claim, Begun]:
    """Make a run that has failed since the second of three agent runs had."""
    claim, begun = waiting(steps, order(1, 2, 3, fail_fast=fail_fast))
    end(steps, begun.ready[0])
    if not fail_fast:
        end(steps, begun.ready[2])
    end(steps, begun.ready[1], FAILED)
    caller = steps.claim(claim.run_id, "a")
    void(steps, caller, FIRST)
    steps.store.runs.fail(caller, FAILED)
    return caller, begun


@pytest.mark.parametrize("fail_fast", [False, True])
def test_what_has_failed_goes_on_where_it_is_asked_for_again_and_what_has_succeeded_stays(
    steps: Steps, fail_fast: bool
) -> None:
    caller, begun = failed_run(steps, fail_fast=fail_fast)
    steps.store.runs.reopen(caller.run_id)
    claim = steps.claim(caller.run_id, "a")
    again = begin(steps, claim, order(1, 2, 3, fail_fast=fail_fast))
    assert again.standing == Standing(begun.standing.id, SubworkState.OPEN, "a-1 to a-3")
    left = [begun.ready[1].id, begun.ready[2].id] if fail_fast else [begun.ready[1].id]
    assert [dispatch.id for dispatch in again.ready] == left
    assert suspend(steps, claim, again.standing) is None
    [woken] = [each for dispatch in again.ready for each in end(steps, dispatch).released]
    assert woken.id == claim.id
    assert state_of(steps, claim) is SubworkState.DONE


def test_another_request_in_its_place_and_an_outcome_that_was_refused_are_made_anew(steps: Steps) -> None:
    caller, begun = failed_run(steps)
    steps.store.runs.reopen(caller.run_id)
    claim = steps.claim(caller.run_id, "a")
    other = begin(steps, claim, order(7), mark="1")
    assert other.standing.tasks == "a-4"
    assert stored(steps.store.database, subwork, begun.standing.id)["state"] == "void"
    end(steps, other.ready[0])
    void(steps, claim, FIRST)
    third = begin(steps, claim, order(7), mark="1")
    assert third.standing.tasks == "a-5"


def test_what_is_open_where_an_effect_is_void_is_stopped_and_goes_on_when_it_is_asked_for(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    begun = begin(steps, claim, order(1, 2))
    end(steps, begun.ready[0])
    void(steps, claim, SECOND)
    assert state_of(steps, claim) is SubworkState.OPEN
    void(steps, claim, FIRST)
    assert rows_of(steps, claim.run_id) == {"a-1": "succeeded", "a-2": "cancelled"}
    again = begin(steps, claim, order(1, 2))
    assert [dispatch.id for dispatch in again.ready] == [begun.ready[1].id]


def test_what_was_stopped_with_its_run_goes_on_with_it(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1, 2, 3, max_concurrency=1))
    [second] = end(steps, begun.ready[0]).released
    steps.store.runs.cancel(claim.run_id)
    steps.store.runs.reopen(claim.run_id)
    newer = steps.claim(claim.run_id, "a")
    assert state_of(steps, newer) is SubworkState.STOPPED
    again = begin(steps, newer, order(1, 2, 3, max_concurrency=1))
    assert [dispatch.id for dispatch in again.ready] == [second.id]
    [third] = end(steps, again.ready[0]).released
    assert end(steps, third).released == ()
    assert state_of(steps, newer) is SubworkState.DONE


def test_a_fallback_takes_up_nothing_that_was_asked_for_before(steps: Steps) -> None:
    claim, child, _ = nested(steps)
    assert steps.requeue(child, agent="other")
    assert rows_of(steps, claim.run_id) == {"a-1": "queued", "a-1-1": "cancelled", "a-1-2": "cancelled"}
    newer = steps.agent_runs.claim(child.id, WORKER)
    assert newer is not None
    assert state_of(steps, newer) is None


def test_of_a_fallback_nothing_is_left_when_its_work_is_resumed(steps: Steps) -> None:
    claim, begun = waiting(steps, order(1))
    child = take(steps, begun.ready[0])
    steps.requeue(child, agent="other")
    other = take(steps, begun.ready[0])
    with steps.store.database.connect() as connection:
        row = {"agent_run_id": other.id, "scope": "", "number": 0, "tenant_id": other.tenant_id, "kind": "step"}
        row |= {
            "fingerprint": "0" * 32,
            "state": "done",
            "epoch": other.epoch,
            "recorded_at": ago(steps.store.database, 0),
        }
        connection.execute(insert(journal).values(**row))
    end(steps, other, FAILED)
    caller = steps.claim(claim.run_id, "a")
    void(steps, caller, FIRST)
    assert [each.agent for each in begin(steps, caller, order(1)).ready] == ["sub"]
    with steps.store.database.connect() as connection:
        states = connection.execute(select(journal.c.state).where(journal.c.agent_run_id == other.id)).scalars().all()
    assert states == ["void"]


# Steps ----------------------------------------------------------------------------------------------------------------


def stepped(*inputs: Any, chosen: tuple[str, ...] = (), **fields: Any) -> Order:
    """Give an order for a step."""
    made = Order.of_step(TaskDefinition.model_validate({"id": "polish", **fields}))
    return made.asking(inputs=tuple(map(json.dumps, inputs)), chosen=chosen, able=tuple(sorted(set(chosen))))


def test_what_was_asked_for_is_kept_once_and_comes_with_each_claim(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    asked = stepped(1, 2, loop={"do": "sub", "until": "true"}, on_error="continue")
    begun = begin(steps, claim, asked)
    for dispatch in begun.ready:
        child = take(steps, dispatch)
        made = definition_of(steps.plan, child)
        assert (made.id, made.agent, made.on_error) == (child.task, "loop", "continue")
        assert made.loop is not None
        assert made.loop.do.agent == "sub"
        past = past_of(steps.store, child.id)
        assert past is not None
        assert past.claim.options == child.options
    with steps.store.database.connect() as connection:
        assert connection.execute(select(subwork.c.label)).scalars().all() == ["polish"]
    assert "options" not in agent_run.c
    assert claim.options is None


def test_a_call_by_name_has_no_label_and_its_policy_comes_with_the_claim(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    options = SubworkOptions(retry=RetryPolicy(retries=7)).stored()
    [plain] = begin(steps, claim, order(1)).ready
    [strict] = begin(steps, claim, order(1, options=options), SECOND, mark="1").ready
    assert take(steps, plain).options is None
    assert definition_of(steps.plan, take(steps, strict)).retry.retries == 7
    with steps.store.database.connect() as connection:
        assert connection.execute(select(subwork.c.label)).scalars().all() == [None, None]


def test_whoever_was_chosen_for_each_input_keeps_it_when_the_rest_is_resumed(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    asked = stepped(1, 2, 3, chosen=("one", "two", "one"), capability="can", on_error={"fallback": "spare"})
    begun = begin(steps, claim, replace(asked, fail_fast=False))
    assert [dispatch.agent for dispatch in begun.ready] == ["one", "two", "one"]
    children = [take(steps, dispatch) for dispatch in begun.ready]
    assert [definition_of(steps.plan, child).capability for child in children] == ["can"] * 3
    end(steps, children[0])
    end(steps, children[1], FAILED)
    steps.requeue(children[2], agent="spare")
    end(steps, take(steps, begun.ready[2]), FAILED)
    assert state_of(steps, claim) is SubworkState.FAILED
    void(steps, claim, FIRST)
    again = stepped(1, 2, 3, chosen=("two", "one", "two"), capability="can", on_error={"fallback": "spare"})
    ready = begin(steps, claim, replace(again, able=("one", "two"))).ready
    assert [(position_of(each.id), each.agent) for each in ready] == [(3, "two"), (4, "two")], (
        "what the fallback had done is begun anew by whoever is chosen now, the rest goes on where it was"
    )
    assert [take(steps, each).agent for each in ready] == ["two", "two"]


def test_results_of_single_calls_are_read_ahead_in_their_order(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    slots = [Slot("", number) for number in range(4)]
    asked = [order(0), order(1), order(2, 3), order(4)]
    begun = [begin(steps, claim, each, slot, mark=str(slot.number)) for each, slot in zip(asked, slots, strict=True)]
    for each in begun[:3]:
        for dispatch in each.ready:
            end(steps, dispatch)
    ids = [each.standing.id for each in begun]
    ahead = steps.store.subwork.ends_ahead(claim.id, ids[0], 10)
    assert list(ahead) == ids[:2], "those that are single, and done"
    assert ahead[ids[1]] == Ended("a-2", "succeeded", {"text": "done"}, None)
    assert list(steps.store.subwork.ends_ahead(claim.id, ids[1], 10)) == ids[1:2]
    assert list(steps.store.subwork.ends_ahead(claim.id, ids[0], 1)) == ids[:1]


# Compensations --------------------------------------------------------------------------------------------------------


def test_compensations_call_too_and_what_they_call_is_no_stage_of_theirs(store: Store) -> None:
    steps = Steps(store, plan_of(*(task(name, compensate=Compensation(agent="undo")) for name in ("a", "b"))))
    [run_id] = steps.start()
    steps.do(run_id, "a")
    claim = steps.claim(run_id, "b")
    begin(steps, claim, order(1, 2, max_concurrency=1))
    steps.store.runs.fail(claim, FAILED)
    assert rows_of(steps, run_id) == {"b-1": "cancelled", "b-2": "cancelled"}
    first = steps.plan.id_at(run_id, 2)
    change(store.database, agent_run, first, due_at=None)
    undo = steps.agent_runs.claim(first, WORKER)
    assert undo is not None
    assert undo.task == "undo_a"
    begun = begin(steps, undo, order(1, 2, max_concurrency=1))
    assert begun.standing.tasks == "undo_a-1 to undo_a-2"
    finished = finish_undo(store.database, undo, steps.plan, DONE, asked=True)
    assert finished is not None
    assert (finished.ended, finished.state) == (True, RunState.FAILED)
    assert rows_of(steps, run_id)["undo_a-2"] == "cancelled"


# The plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("finish_row", "pk_agent_run"),
        ("hold_caller", "pk_agent_run"),
        ("hold_agent_runs", "pk_agent_run"),
        ("wake_caller", "pk_agent_run"),
        ("subwork_at", "uq_subwork_slot"),
        ("count_ends", "pk_subwork"),
        ("release_subwork", "ix_agent_run_subwork"),
        ("subwork_ends", "ix_agent_run_subwork"),
        ("subwork_ends_ahead", "subwork"),
        ("open_of_subwork", "ix_agent_run_subwork"),
        ("open_of_callers", "ix_agent_run_parent"),
        ("queued_around", "ix_agent_run_subwork"),
        ("stop_subwork_of_run", "ix_subwork_run"),
    ],
)
def test_no_statement_reads_what_is_not_its_own(migrated: Database, statement: str, index: str) -> None:
    plan = plan_text(migrated, statement, without=("seqscan",))
    assert index in plan
    assert not any(other in plan for other in ("Seq Scan", "ix_agent_run_held", "ix_agent_run_wake", "ix_run_state")), (
        plan
    )


# Values ---------------------------------------------------------------------------------------------------------------


def test_arguments_of_the_same_shape_are_the_same_order() -> None:
    assert order(1, 2).digest != order(12).digest
    assert order(1, 2).first == 2
    assert order(1, 2, 3, max_concurrency=2).first == 2
