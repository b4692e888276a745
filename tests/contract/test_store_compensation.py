"""A run that fails or is cancelled is undone: stage by stage, each once, and only then has it ended."""

from __future__ import annotations

import json
import random
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from steps import DONE, FAILED, WORKER, Steps, ago, change, plan_of, race, task, wait_for_lock

from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.dead import DeadLetters
from orchestrator.errors import RunStateConflict
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim, Finish, Outcome
from orchestrator.store.compensation import finish_undo
from orchestrator.store.database import Database
from orchestrator.store.repairs import Orphan
from orchestrator.store.store import Store
from orchestrator.store.tables import agent_run, run


class Undoing(Steps):
    """Steps that know compensations by name too."""

    def id(self, run_id: str, name: str) -> str:
        names = [self.plan.task_at(position).id for position in range(len(self.plan.tasks) + len(self.plan.undos))]
        return self.plan.id_at(run_id, names.index(name))

    def end(self, claim: Claim, outcome: Outcome = DONE) -> Finish | None:
        return finish_undo(self.store.database, claim, self.plan, outcome)

    def undo(self, run_id: str, *names: str, outcome: Outcome = DONE) -> Finish:
        finished = None
        for name in names:
            finished = self.end(self.claim(run_id, name), outcome)
        assert finished is not None
        return finished

    def fail(self, run_id: str, name: str) -> RunState | None:
        return self.store.runs.fail(self.claim(run_id, name), FAILED)

    def settle(self, run_id: str) -> None:
        """Let the time pass that what was running gets to stop."""
        for name, state in self.states(run_id).items():
            if state == "queued" and name.startswith("undo_"):
                self.change(run_id, name, due_at=ago(self.store.database, 1))


def undoable(identity: str, *after: str, **fields: object) -> TaskDefinition:
    return task(identity, *after, compensate={"agent": "undoer", **fields})


@pytest.fixture
def trip(store: Store) -> Undoing:
    """Three bookings one after the other, of which two can be undone."""
    return Undoing(store, plan_of(undoable("flight"), undoable("hotel", "flight"), task("car", "hotel")))


# Beginning ------------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_goes_on_until_what_succeeded_is_undone_from_its_end_on(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    assert trip.fail(run_id, "car") is RunState.RUNNING
    assert trip.states(run_id) == {
        "flight": "succeeded", "hotel": "succeeded", "car": "failed", "undo_hotel": "queued", "undo_flight": "blocked",
    }  # fmt: skip
    assert trip.state(run_id) is RunState.RUNNING
    [released] = trip.undo(run_id, "undo_hotel").released
    assert (released.id, released.number, released.agent) == (trip.id(run_id, "undo_flight"), 1, "undoer")
    assert trip.undo(run_id, "undo_flight") == Finish(ended=True, undecided=False, released=(), state=RunState.FAILED)
    assert trip.state(run_id) is RunState.FAILED
    row = trip.run_row(run_id)
    assert row["error"] == {"code": "agent_failed", "message": "no"}
    assert row["finished_at"] is not None


def test_a_cancelled_run_is_undone_too_and_ends_as_cancelled(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    assert trip.store.runs.cancel(run_id)
    assert trip.states(run_id) == {
        "flight": "succeeded", "hotel": "cancelled", "car": "cancelled", "undo_flight": "queued",
    }  # fmt: skip
    assert trip.undo(run_id, "undo_flight").state is RunState.CANCELLED
    assert (trip.state(run_id), trip.run_row(run_id)["error"]) == (RunState.CANCELLED, None)


def test_a_run_that_has_done_nothing_that_can_be_undone_ends_at_once(trip: Undoing) -> None:
    failed, cancelled = trip.start(2)
    assert trip.fail(failed, "flight") is RunState.FAILED
    trip.store.runs.cancel(cancelled)
    assert (trip.state(failed), trip.state(cancelled)) == (RunState.FAILED, RunState.CANCELLED)
    assert set(trip.states(failed)) == {"flight", "hotel", "car"}
    assert trip.run_row(failed)["ending"] is None


def test_a_run_that_succeeds_has_no_compensations_at_all(trip: Undoing) -> None:
    [run_id] = trip.start()
    assert trip.do(run_id, "flight", "hotel", "car").ended
    assert set(trip.states(run_id)) == {"flight", "hotel", "car"}


def test_the_first_compensations_are_published_by_the_next_sweep(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    trip.store.runs.cancel(run_id)
    [taken] = trip.store.repairs.take_due()
    assert (taken.id, taken.number, taken.agent) == (trip.id(run_id, "undo_flight"), 1, "undoer")


def test_what_was_running_gets_time_to_stop_before_anything_is_undone(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    running = trip.claim(run_id, "hotel")
    trip.store.runs.cancel(run_id)
    assert trip.store.repairs.take_due() == []
    assert trip.try_claim(run_id, "undo_flight") is None
    assert 8 < (trip.store.repairs.seconds_to_next_due() or 0) <= 10
    assert trip.finish(running) is None
    trip.settle(run_id)
    assert trip.undo(run_id, "undo_flight").ended


def test_what_began_and_did_not_succeed_is_undone_if_it_says_so(store: Store) -> None:
    trip = Undoing(store, plan_of(undoable("flight", partial=True), undoable("hotel", partial=True), undoable("car")))
    [run_id] = trip.start()
    trip.claim(run_id, "car")
    assert trip.fail(run_id, "flight") is RunState.RUNNING
    assert {name for name in trip.states(run_id) if name.startswith("undo")} == {"undo_flight"}


# What a compensation gets, and how it is tried ------------------------------------------------------------------------


def test_a_compensation_is_claimed_with_its_task_and_what_that_waited_for(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    trip.fail(run_id, "car")
    claim = trip.claim(run_id, "undo_hotel")
    assert (claim.task, claim.position, claim.agent, claim.epoch) == ("undo_hotel", 3, "undoer", 1)
    assert [(name, state, output) for name, state, output, _ in json.loads(claim.upstream or "[]")] == [
        ("flight", "succeeded", {"text": "done"}),
        ("hotel", "succeeded", {"text": "done"}),
    ]


def test_a_compensation_is_tried_again_and_taken_over_like_any_agent_run(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    trip.store.runs.cancel(run_id)
    first = trip.claim(run_id, "undo_flight")
    assert trip.requeue(first)
    assert trip.end(first) is None
    second = trip.claim(run_id, "undo_flight")
    assert (second.epoch, second.failures) == (2, 1)
    trip.change(run_id, "undo_flight", state="queued", epoch=3, worker_id=None)
    assert trip.end(second) is None
    assert trip.state(run_id) is RunState.RUNNING
    assert trip.undo(run_id, "undo_flight").ended


def test_a_compensation_that_fails_for_good_keeps_the_others_from_nothing(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    trip.fail(run_id, "car")
    assert trip.undo(run_id, "undo_hotel", outcome=FAILED).released
    assert trip.undo(run_id, "undo_flight").ended
    assert trip.states(run_id)["undo_hotel"] == "failed"
    assert trip.row(run_id, "undo_hotel")["error"] == {"code": "agent_failed", "message": "no"}
    assert trip.state(run_id) is RunState.FAILED


def test_a_quarantined_compensation_keeps_the_others_from_nothing_either(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    trip.fail(run_id, "car")

    def quarantine(name: str) -> RunState | None:
        claim = trip.claim(run_id, name)
        change(trip.store.database, agent_run, claim.id, suspect=True)
        orphan = Orphan(claim.id, run_id, claim.epoch, 2, WORKER)
        return trip.store.repairs.quarantine(orphan, FAILED.error or "")

    assert quarantine("undo_hotel") is RunState.RUNNING
    [taken] = trip.store.repairs.take_due()
    assert taken.id == trip.id(run_id, "undo_flight")
    assert quarantine("undo_flight") is RunState.FAILED
    assert trip.state(run_id) is RunState.FAILED


def test_a_quarantined_task_has_its_run_undone(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    claim = trip.claim(run_id, "hotel")
    trip.change(run_id, "hotel", suspect=True)
    orphan = Orphan(claim.id, run_id, claim.epoch, 2, WORKER)
    assert trip.store.repairs.quarantine(orphan, FAILED.error or "") is RunState.RUNNING
    assert trip.undo(run_id, "undo_flight").state is RunState.FAILED


# Once -----------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_being_undone_cannot_be_cancelled_or_failed_again(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    running = trip.claim(run_id, "hotel")
    trip.store.runs.cancel(run_id)
    before = trip.states(run_id)
    assert not trip.store.runs.cancel(run_id)
    assert trip.store.runs.fail(running, FAILED) is None
    assert trip.states(run_id) == before


def test_a_run_that_was_undone_cannot_be_retried_but_one_that_had_nothing_to_undo_can(trip: Undoing) -> None:
    undone, nothing = trip.start(2)
    trip.do(undone, "flight")
    trip.store.runs.cancel(undone)
    with pytest.raises(RunStateConflict, match="is running"):
        trip.store.runs.reopen(undone)
    trip.undo(undone, "undo_flight")
    with pytest.raises(RunStateConflict, match="has been undone"):
        trip.store.runs.reopen(undone)
    trip.fail(nothing, "flight")
    assert trip.store.runs.reopen(nothing)


def test_a_retry_tries_the_compensations_again_that_failed_and_nothing_else(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    trip.fail(run_id, "car")
    trip.undo(run_id, "undo_hotel", "undo_flight", outcome=FAILED)
    [ready] = trip.store.runs.reopen(run_id)
    assert ready.id == trip.id(run_id, "undo_hotel")
    assert trip.states(run_id) == {
        "flight": "succeeded", "hotel": "succeeded", "car": "failed", "undo_hotel": "queued", "undo_flight": "blocked",
    }  # fmt: skip
    assert not trip.store.runs.cancel(run_id)
    assert trip.undo(run_id, "undo_hotel", outcome=FAILED).released
    assert trip.undo(run_id, "undo_flight").state is RunState.FAILED
    assert trip.run_row(run_id)["error"] == {"code": "agent_failed", "message": "no"}
    assert [dispatch.id for dispatch in trip.store.runs.reopen(run_id)] == [trip.id(run_id, "undo_hotel")]
    assert trip.undo(run_id, "undo_hotel").ended
    with pytest.raises(RunStateConflict, match="has been undone"):
        trip.store.runs.reopen(run_id)


def test_a_compensation_gets_the_input_that_its_task_was_given_later(store: Store) -> None:
    declared = undoable("hotel", "flight", input={"id": "${hotel.text}"})
    trip = Undoing(store, plan_of(undoable("flight"), declared, task("car", "hotel")))
    [run_id] = trip.start()
    trip.change(run_id, "flight", input={"seat": "1A"})
    trip.change(run_id, "hotel", input={"room": 7})
    trip.do(run_id, "flight", "hotel")
    trip.fail(run_id, "car")
    assert trip.claim(run_id, "undo_hotel").own_input is None
    trip.change(run_id, "undo_hotel", state="succeeded")
    trip.change(run_id, "undo_flight", state="queued")
    own = trip.claim(run_id, "undo_flight").own_input
    assert json.loads(own or "") == {"input": {"seat": "1A"}, "output": {"text": "done"}}


def test_compensations_that_are_given_up_end_the_run_and_can_be_taken_up_again(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    assert not trip.store.runs.abandon(run_id)
    trip.fail(run_id, "car")
    running = trip.claim(run_id, "undo_hotel")
    assert trip.store.runs.abandon(run_id)
    assert not trip.store.runs.abandon(run_id)
    assert (trip.state(run_id), trip.run_row(run_id)["error"]) == (RunState.FAILED, json.loads(FAILED.error or ""))
    assert trip.states(run_id)["undo_flight"] == "cancelled"
    assert trip.end(running) is None
    [ready] = trip.store.runs.reopen(run_id)
    assert ready.id == trip.id(run_id, "undo_hotel")
    trip.undo(run_id, "undo_hotel", "undo_flight")
    assert trip.state(run_id) is RunState.FAILED


def test_a_fork_leaves_alone_what_it_has_copied_from_another_run(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    trip.change(run_id, "flight", epoch=0)
    trip.fail(run_id, "car")
    assert trip.undo(run_id, "undo_hotel").ended
    assert "undo_flight" not in trip.states(run_id)


def test_two_compensations_that_end_together_release_the_stage_before_once(store: Store) -> None:
    trip = Undoing(store, plan_of(undoable("a"), undoable("b", "a"), undoable("c", "a"), task("end", "b", "c")))
    for run_id in trip.start(40):
        trip.do(run_id, "a", "b", "c")
        trip.fail(run_id, "end")
        claims = [trip.claim(run_id, name) for name in ("undo_b", "undo_c")]
        finishes = race(*(lambda claim=claim: trip.end(claim) for claim in claims))
        assert sorted(len(finish.released) for finish in finishes if finish is not None) == [0, 1]
        assert trip.undo(run_id, "undo_a").ended


def test_what_needed_nothing_of_each_other_is_undone_at_the_same_time(store: Store) -> None:
    trip = Undoing(store, plan_of(undoable("a"), undoable("b"), undoable("c", "a", "b"), task("end", "c")))
    [run_id] = trip.start()
    trip.do(run_id, "a", "b", "c")
    trip.fail(run_id, "end")
    released = trip.undo(run_id, "undo_c").released
    assert {dispatch.id for dispatch in released} == {trip.id(run_id, "undo_a"), trip.id(run_id, "undo_b")}
    assert not trip.undo(run_id, "undo_b").ended
    assert trip.undo(run_id, "undo_a").ended


def test_a_run_whose_deadline_passes_is_undone_and_passes_it_once(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight")
    change(trip.store.database, run, run_id, deadline_at=ago(trip.store.database, 1))
    assert trip.store.runs.expire(run_id, FAILED.error or "") is RunState.RUNNING
    assert trip.store.runs.overdue() == []
    assert trip.store.runs.expire(run_id, FAILED.error or "") is None
    assert trip.undo(run_id, "undo_flight").state is RunState.FAILED


def test_a_cancel_and_a_failure_at_the_same_time_begin_one_undoing(trip: Undoing) -> None:
    for run_id in trip.start(40):
        trip.do(run_id, "flight")
        claim = trip.claim(run_id, "hotel")
        begun = race(
            lambda run_id=run_id: trip.store.runs.cancel(run_id),
            lambda claim=claim: trip.store.runs.fail(claim, FAILED) is not None,
        )
        assert sorted(begun) == [False, True]
        trip.settle(run_id)
        expected = RunState.CANCELLED if begun[0] else RunState.FAILED
        assert trip.undo(run_id, "undo_flight").state is expected


def test_events_tell_of_compensations_when_they_appear(trip: Undoing) -> None:
    from orchestrator.stream import events_of

    [run_id] = trip.start()
    trip.do(run_id, "flight")
    *_, last = events_of(trip.store, run_id)
    trip.store.runs.cancel(run_id)
    trip.undo(run_id, "undo_flight")
    told = [(event.task, event.state) for event in events_of(trip.store, run_id, last.cursor)]
    assert told == [
        ("hotel", "cancelled"), ("car", "cancelled"), ("undo_flight", "succeeded"), (None, "cancelled"),
    ]  # fmt: skip


# Any workflow ---------------------------------------------------------------------------------------------------------


def random_plan(chance: random.Random) -> Plan:
    tasks: list[TaskDefinition] = []
    for number in range(chance.randint(2, 9)):
        before = sorted(chance.sample(range(number), chance.randint(0, min(3, number))))
        make = undoable if chance.random() < 0.6 else task
        tasks.append(make(f"t{number}", *(f"t{index}" for index in before)))
    return plan_of(*tasks)


def drive(steps: Undoing, run_id: str, chance: random.Random, until: int) -> list[str]:
    """Do what is queued in any order, at most so many; gives what was done."""
    done: list[str] = []
    while len(done) < until:
        ready = [name for name, state in steps.states(run_id).items() if state == "queued"]
        if not ready:
            break
        name = chance.choice(ready)
        claim = steps.claim(run_id, name)
        finished = steps.end(claim) if name.startswith("undo_") else steps.finish(claim)
        assert finished is not None
        done.append(name)
    return done


def ancestors(plan: Plan, name: str) -> set[str]:
    before = {plan.tasks[index].id for index in plan.predecessors[plan.position[name]]}
    return before.union(*(ancestors(plan, each) for each in before))


def test_of_any_workflow_that_stops_anywhere_exactly_what_succeeded_is_undone_once_and_in_reverse(
    database: Database,
) -> None:
    for seed in range(40):
        chance = random.Random(seed)
        plan = random_plan(chance)
        steps = Undoing(Store(database), plan)
        [run_id] = steps.start()
        done = drive(steps, run_id, chance, until=chance.randint(0, len(plan.tasks) - 1))
        steps.store.runs.cancel(run_id)
        undone = drive(steps, run_id, chance, until=99)
        wanted = {f"undo_{name}" for name in done if plan.workflow.by_id[name].compensate is not None}
        assert sorted(undone) == sorted(wanted), seed
        for index, name in enumerate(undone):
            needed = ancestors(plan, name.removeprefix("undo_"))
            assert needed.isdisjoint(each.removeprefix("undo_") for each in undone[:index]), seed
        assert steps.state(run_id) is RunState.CANCELLED, seed
        assert all(AgentRunState(state).final for state in steps.states(run_id).values())


def test_what_is_claimed_at_the_moment_of_a_cancellation_counts_as_begun(postgres: Database) -> None:
    """The one order in which the claim comes first: it is held until it is known."""
    trip = Undoing(Store(postgres), plan_of(undoable("flight", partial=True), task("car", "flight")))
    [run_id] = trip.start()
    postgres.execute(lambda session: session.run("start_run", id=trip.id(run_id, "flight"), run_id=run_id))
    cancelling = threading.Thread(target=trip.store.runs.cancel, args=[run_id])
    with postgres.transaction() as session:
        assert session.row("claim_row", id=trip.id(run_id, "flight"), worker_id=WORKER)
        cancelling.start()
        wait_for_lock(postgres)
    cancelling.join(60)
    assert trip.states(run_id) == {"flight": "cancelled", "car": "cancelled", "undo_flight": "queued"}


def test_a_task_of_a_run_that_was_undone_is_not_put_on_its_way_again(trip: Undoing) -> None:
    [run_id] = trip.start()
    trip.do(run_id, "flight", "hotel")
    trip.fail(run_id, "car")
    trip.undo(run_id, "undo_hotel", "undo_flight", outcome=FAILED)
    before = trip.states(run_id)
    letters = DeadLetters(cast("Any", SimpleNamespace(store=trip.store)))
    with pytest.raises(RunStateConflict, match=rf"nightfleet runs fork {run_id} --from car"):
        letters.redrive(trip.id(run_id, "car"), {"text": "mended"})
    assert (trip.states(run_id), trip.row(run_id, "car")["input"]) == (before, None)
