"""From every state, every operation of the store leads to the same state or along an allowed transition."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import pytest
from sqlalchemy import update
from steps import DONE, FAILED, WORKER, Steps, ago, change, plan_of, task

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import AGENT_RUN_TRANSITIONS, RUN_TRANSITIONS, AgentRunState, RunState
from orchestrator.errors import AnswerRefused, ClaimLost, RunStateConflict
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.repairs import Lane, Loss, Orphan
from orchestrator.store.store import Store
from orchestrator.store.tables import journal, question, run, worker, worker_queue
from orchestrator.store.waits import Answering

#: The task under test stands between another one and an end, so that it can be queued, released, joined and skipped.
TASK, EPOCH = "b", 3
LANE = Lane("agent.b", 0)
Operation = Callable[[Steps, Claim], object]


def reopen(steps: Steps, claim: Claim) -> None:
    with contextlib.suppress(RunStateConflict):
        steps.store.runs.reopen(claim.run_id)


def try_to(work: Callable[[], object]) -> None:
    with contextlib.suppress(ClaimLost, AnswerRefused):
        work()


def wake(steps: Steps, claim: Claim) -> None:
    steps.change(claim.run_id, TASK, wake_at=ago(steps.store.database, 5))
    steps.store.waits.wake_due()


def answer(steps: Steps, claim: Claim) -> None:
    identity, database = ids.new(), steps.store.database
    place = {"tenant_id": DEFAULT_TENANT_ID, "agent_run_id": claim.id, "scope": "", "number": 0}
    with database.connect() as connection:
        effect = {"kind": "ask", "fingerprint": "0" * 32, "state": "begun", "epoch": 1, "recorded_at": ago(database, 0)}
        connection.execute(journal.insert().values(**place, **effect))
        asked = {"state": "open", "text": "Send it?", "request": {}, "digest": "0", "created_at": ago(database, 0)}
        connection.execute(question.insert().values(id=identity, run_id=claim.run_id, **place, **asked))
    try_to(lambda: steps.store.waits.answer(Answering(identity, '"yes"')))


def in_session(statement: str, **parameters: object) -> Operation:
    """One of the decisions that `advance` takes under the run's lock."""

    def operation(steps: Steps, claim: Claim) -> None:
        with steps.store.database.transaction() as session:
            if session.row("run_for_advance", run_id=claim.run_id):
                session.run(statement, id=claim.id, **parameters)

    return operation


def expire(steps: Steps, claim: Claim) -> None:
    change(steps.store.database, run, claim.run_id, deadline_at=ago(steps.store.database, 1))
    steps.store.runs.expire(claim.run_id, FAILED.error or "")


def orphan(claim: Claim) -> Orphan:
    return Orphan(claim.id, claim.run_id, claim.epoch, 0, WORKER)


OPERATIONS: dict[str, Operation] = {
    "claim": lambda steps, claim: steps.try_claim(claim.run_id, TASK),
    "finish as succeeded": lambda steps, claim: steps.finish(claim, DONE),
    "finish as failed": lambda steps, claim: steps.finish(claim, FAILED),
    "finish the predecessor": lambda steps, claim: steps.finish(claim_of(steps, claim.run_id, "a")),
    "requeue": lambda steps, claim: steps.requeue(claim),
    "hand over to a fallback": lambda steps, claim: steps.requeue(claim, agent="other"),
    "note a failed publication": lambda steps, claim: steps.store.agent_runs.unpublished(
        [Dispatch(claim.id, 1, "b", 0)]
    ),
    "fail the run": lambda steps, claim: steps.store.runs.fail(claim, FAILED),
    "cancel": lambda steps, claim: steps.store.runs.cancel(claim.run_id),
    "end at the deadline": expire,
    "reopen": reopen,
    "release as crashed": lambda steps, claim: steps.store.repairs.release(orphan(claim), Loss.DIED_ALONE),
    "hand back": lambda steps, claim: steps.store.repairs.release(orphan(claim), Loss.HANDED_BACK),
    "quarantine": lambda steps, claim: steps.store.repairs.quarantine(orphan(claim), FAILED.error or ""),
    "take due": lambda steps, claim: steps.store.repairs.take_due(),
    "take over the run": lambda steps, claim: steps.store.repairs.take_over_run(claim.run_id, lease_ttl_seconds=15),
    "take overtaken": lambda steps, claim: steps.store.repairs.take_overtaken(LANE, grace_seconds=10),
    "take unclaimed": lambda steps, claim: steps.store.repairs.take_unclaimed_by_idle(
        LANE, grace_seconds=10, lease_ttl_seconds=15
    ),
    "take older": lambda steps, claim: steps.store.repairs.take_older(LANE, age_seconds=60, most=9),
    "suspend": lambda steps, claim: try_to(
        lambda: steps.store.waits.suspend(claim, left_seconds=5, waiting_for="sleeps")
    ),
    "wake what is due": wake,
    "answer": answer,
    "release by a decision": in_session("release_row", decided=True),
    "skip by a decision": in_session("skip_row"),
    "fail by a decision": in_session("fail_undecided", error=FAILED.error),
}

#: What an invariant of the store excludes is no place to start from: in a run that has ended nothing is open.
CONDITIONS = [
    (run_state, state)
    for run_state, state in itertools.product(RunState, AgentRunState)
    if state.final or not run_state.final
]


def claim_of(steps: Steps, run_id: str, name: str) -> Claim:
    position = steps.plan.position[name]
    return Claim(steps.id(run_id, name), name, position, name, EPOCH, 0, 0, "", "", "{}", None)


@pytest.fixture
def steps(store: Store) -> Steps:
    made = Steps(store, plan_of(task("a"), task("b", "a"), task("c"), task("end", "b", "c")))
    plant_an_idle_worker(store.database)
    return made


def plant_an_idle_worker(database: Database) -> None:
    """Let every rule for lost publications find that this lane has lost some."""
    store = Store(database)
    store.fleet.join("0199c0de-0000-7000-8000-00000000000f", name="idle", pid=1, slots=1, cards=[])
    with database.connect() as connection:
        row = {"worker_id": "0199c0de-0000-7000-8000-00000000000f", "queue": LANE.queue, "idle_from": ago(database, 60)}
        connection.execute(worker_queue.insert().values(**row))
        connection.execute(update(worker).values(beat_at=ago(database, 1)))
    other = Steps(store, plan_of(task("b")))
    [run_id] = other.start()
    other.claim(run_id, "b")
    other.change(run_id, "b", claimed_at=ago(database, 40), published_at=ago(database, 45))


def put(steps: Steps, run_id: str, run_state: RunState, state: AgentRunState) -> None:
    """Put a run, the task under test and its neighbours into a state, as if they had been claimed often before."""
    database = steps.store.database
    change(database, run, run_id, state=run_state)
    others = AgentRunState.CANCELLED if run_state.final else AgentRunState.RUNNING
    for name, value in (("a", others), ("b", state), ("c", others)):
        published_at = None if name == "b" and run_state is RunState.PENDING else ago(database, 1000)
        values = {"state": value, "epoch": EPOCH, "dispatch": 1, "published_at": published_at, "priority": 0}
        steps.change(run_id, name, **values, worker_id=WORKER if value is AgentRunState.RUNNING else None)
    steps.change(run_id, TASK, suspect=True)  # or nothing puts it into quarantine
    if run_state.final:
        steps.change(run_id, "end", state=AgentRunState.CANCELLED)


def forbidden(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{name}: {old} -> {after[name]}"
        for name, old in before.items()
        if after[name] != old and after[name] not in AGENT_RUN_TRANSITIONS[AgentRunState(old)]
    ]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_keeps_to_the_tables_of_transitions_from_every_state(steps: Steps, operation: str) -> None:
    effects = 0
    for run_state, state in CONDITIONS:
        [run_id] = steps.start()
        put(steps, run_id, run_state, state)
        before, row = steps.states(run_id), steps.row(run_id, TASK)
        OPERATIONS[operation](steps, claim_of(steps, run_id, TASK))
        after, run_after = steps.states(run_id), steps.state(run_id)
        assert forbidden(before, after) == [], f"in a run that is {run_state}"
        assert run_after is run_state or run_after in RUN_TRANSITIONS[run_state], f"{run_state} -> {run_after}"
        assert not run_after.final or all(AgentRunState(each).final for each in after.values()), after
        effects += after != before or steps.row(run_id, TASK) != row
        steps.store.runs.cancel(run_id)
    assert effects, "the operation did nothing in any state: this test has not tried it"


def test_the_tables_name_every_state_and_only_a_retry_leaves_a_final_one() -> None:
    assert set(AGENT_RUN_TRANSITIONS) == set(AgentRunState)
    assert set(RUN_TRANSITIONS) == set(RunState)
    again = {AgentRunState.BLOCKED, AgentRunState.QUEUED}
    assert all(AGENT_RUN_TRANSITIONS[state] in (frozenset(), again) for state in AgentRunState if state.final)
    assert all(RUN_TRANSITIONS[state] in (frozenset(), {RunState.PENDING}) for state in RunState if state.final)
