"""Claims and ends of one process share a transaction: each counts as it would alone, and none stands or falls with another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
import pytest
from plans import plan_text
from sqlalchemy import func, select, text
from steps import DONE, FAILED, OTHER_WORKER, WORKER, Steps, ago, change, join, plan_of, spread, task

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.usage import Usage
from orchestrator.group_commit import GroupCommit
from orchestrator.store.agent_runs import AgentRuns, Claim, Ending, Finish, Outcome, Wanted
from orchestrator.store.database import Database, Session
from orchestrator.store.store import Store
from orchestrator.store.tables import agent_run, run

T = TypeVar("T")


@pytest.fixture
def steps(store: Store) -> Steps:
    """A workflow of `a` and `b`, which meet in `end`."""
    return Steps(store, join_of("a", "b"))


def join_of(*members: str) -> Any:
    return plan_of(*map(task, members), task("end", *members))


def claim_all(steps: Steps, *wanted: tuple[str, str] | tuple[str, str, str]) -> list[Claim | None]:
    """Claim (run, task) or (run, task, worker) in one group."""
    group = [Wanted(steps.id(run_id, name), *(worker or [WORKER])) for run_id, name, *worker in wanted]
    return steps.store.agent_runs.claim_all(group)


def claimed(steps: Steps, *wanted: tuple[str, str]) -> list[Claim]:
    """Claim (run, task), each for itself."""
    return [steps.claim(run_id, name) for run_id, name in wanted]


def finish_all(steps: Steps, *claims: Claim, outcome: Outcome = DONE) -> list[Finish | None]:
    return steps.store.agent_runs.finish_all([Ending(claim, steps.plan, outcome) for claim in claims])


def set_free(*, ended: bool = False, undecided: bool = False, released: Iterable[Dispatch] = ()) -> Finish:
    return Finish(ended=ended, undecided=undecided, released=tuple(released))


NOTHING = set_free()


def effects(found: Iterable[Finish | None]) -> list[Finish]:
    """Give what the ends of a group brought about, in their order, without those that brought nothing about."""
    return [each for each in found if each is not None and each != NOTHING]


def end_of(steps: Steps, run_id: str) -> Dispatch:
    return Dispatch(steps.id(run_id, "end"), 1, "end", Priority.LATER)


# Claims ---------------------------------------------------------------------------------------------------------------


def test_of_two_requests_for_one_agent_run_the_first_gets_the_claim(steps: Steps) -> None:
    [run_id] = steps.start()
    first, other, second = claim_all(steps, (run_id, "a", OTHER_WORKER), (run_id, "b", WORKER), (run_id, "a", WORKER))
    assert second is None
    assert (first and first.id, other and other.id) == (steps.id(run_id, "a"), steps.id(run_id, "b"))
    row = steps.row(run_id, "a")
    assert (row["state"], row["epoch"], row["worker_id"]) == ("running", 1, OTHER_WORKER)


def test_each_claim_is_held_by_the_worker_that_asked_for_it_and_answers_come_in_the_order_of_the_requests(
    store: Store,
) -> None:
    steps = Steps(store, plan_of(*(task(f"t{number}") for number in range(6))))
    runs = steps.start(3)
    wanted = [(run_id, f"t{number}", ids.new()) for number in (5, 0, 3) for run_id in reversed(runs)]
    claims = claim_all(steps, *wanted)
    assert [claim and (claim.run_id, claim.task) for claim in claims] == [(run_id, name) for run_id, name, _ in wanted]
    assert [steps.row(run_id, name)["worker_id"] for run_id, name, _ in wanted] == [worker for *_, worker in wanted]


def test_what_cannot_be_claimed_is_none_and_the_others_of_the_group_are_claimed(steps: Steps) -> None:
    good, late, gone, running, cancelled = steps.start(5)
    steps.change(late, "a", due_at=ago(steps.store.database, -60))
    steps.claim(running, "a", OTHER_WORKER)
    steps.store.runs.cancel(cancelled)
    unknown = Wanted(ids.new()[:-5] + "00001", WORKER)
    group = [Wanted(steps.id(run_id, "a"), WORKER) for run_id in (late, good, running, cancelled)]
    claims = steps.store.agent_runs.claim_all(
        [*group, unknown, Wanted(steps.id(gone, "end"), WORKER), Wanted(steps.id(good, "b"), WORKER)]
    )
    assert [claim and claim.task for claim in claims] == [None, "a", None, None, None, None, "b"]
    assert [steps.state(run_id).value for run_id in (good, late, gone, running, cancelled)] == [
        "running",
        "pending",
        "pending",
        "running",
        "cancelled",
    ]
    assert steps.row(running, "a")["worker_id"] == OTHER_WORKER
    assert [steps.row(run_id, "a")["epoch"] for run_id in (late, cancelled)] == [0, 0]


def test_the_first_claims_of_several_runs_start_each_run_and_later_ones_leave_its_start_alone(steps: Steps) -> None:
    runs = steps.start(5)
    assert None not in claim_all(steps, *((run_id, "a") for run_id in runs[:4]))
    started = [steps.run_row(run_id)["started_at"] for run_id in runs]
    assert [steps.state(run_id) for run_id in runs] == [RunState.RUNNING] * 4 + [RunState.PENDING]
    assert None not in started[:4]
    assert started[4] is None
    assert None not in claim_all(steps, *((run_id, "b") for run_id in runs))
    assert [steps.run_row(run_id)["started_at"] for run_id in runs[:4]] == started[:4]
    assert steps.state(runs[4]) is RunState.RUNNING


def test_each_claim_of_a_group_knows_its_own_run_input_and_upstream(store: Store) -> None:
    steps = Steps(store, plan_of(task("z"), task("a", on_error="continue"), task("end", "a", "z"), task("other")))
    runs = steps.start(2)
    for number, run_id in enumerate(runs):
        steps.do(run_id, "z", outcome=Outcome(AgentRunState.SUCCEEDED, output=f'{{"of":{number}}}'))
        steps.do(run_id, "a", outcome=FAILED)
    found = claim_all(steps, (runs[1], "end"), (runs[0], "other"), (runs[0], "end"))
    error = ["a", "failed", None, {"code": "agent_failed", "message": "no"}]
    assert [json.loads(claim.upstream or "null") for claim in found if claim] == [
        [["z", "succeeded", {"of": 1}, None], error],
        None,
        [["z", "succeeded", {"of": 0}, None], error],
    ]
    assert [json.loads(claim.run_input) for claim in found if claim] == [{"text": "hello"}] * 3
    assert {store.runs.plan(claim.workflow_id).workflow.tasks for claim in found if claim} == {steps.plan.tasks}


def test_a_claim_of_a_group_carries_the_epoch_and_the_failures_of_its_own_agent_run(steps: Steps) -> None:
    [run_id] = steps.start()
    steps.requeue(steps.claim(run_id, "b"))
    steps.requeue(steps.claim(run_id, "b"))
    found = claim_all(steps, (run_id, "a"), (run_id, "b"))
    assert [claim and (claim.epoch, claim.failures) for claim in found] == [(1, 0), (3, 2)]


# Ends -----------------------------------------------------------------------------------------------------------------


def test_all_members_of_a_join_at_once_release_its_successor_once(store: Store) -> None:
    steps = Steps(store, join(5))
    [run_id] = steps.start()
    claims = claimed(steps, *((run_id, f"a{number}") for number in (3, 0, 4, 1, 2)))
    found = finish_all(steps, *claims)
    assert None not in found
    assert effects(found) == [set_free(released=[end_of(steps, run_id)])]
    row = steps.row(run_id, "end")
    assert (row["state"], row["dispatch"]) == ("queued", 1)
    assert steps.do(run_id, "end").ended


def test_what_members_of_a_group_set_free_together_is_the_first_ones_who_asked(postgres: Database) -> None:
    steps = Steps(
        Store(postgres),
        plan_of(task("a"), task("b"), task("c"), task("end", "a", "b"), task("if", "b", "a", when="a.go")),
    )
    one, other = steps.start(2)
    # Not in the order of their ids.
    found = finish_all(steps, *claimed(steps, (other, "b"), (one, "c"), (one, "b"), (one, "a"), (other, "a")))
    assert found == [
        set_free(released=[end_of(steps, other)], undecided=True),
        NOTHING,
        set_free(released=[end_of(steps, one)], undecided=True),
        NOTHING,
        NOTHING,
    ]


def test_a_part_of_a_joins_members_does_not_release_it_and_the_rest_does(store: Store) -> None:
    steps = Steps(store, join(5))
    [run_id] = steps.start()
    claims = claimed(steps, *((run_id, f"a{number}") for number in range(5)))
    assert finish_all(steps, *claims[:2]) == [NOTHING] * 2
    assert finish_all(steps, *claims[2:4]) == [NOTHING] * 2
    assert steps.states(run_id)["end"] == "blocked"
    assert finish_all(steps, claims[4]) == [set_free(released=[end_of(steps, run_id)])]


def test_members_of_two_runs_at_once_count_for_their_own_run(steps: Steps) -> None:
    one, other, third = steps.start(3)
    claims = claimed(steps, (one, "a"), (other, "b"), (other, "a"), (one, "b"), (third, "a"))
    found = finish_all(steps, *claims)
    assert None not in found
    # By one of its own members each.
    assert effects([found[0], found[3]]) == [set_free(released=[end_of(steps, one)])]
    assert effects([found[1], found[2]]) == [set_free(released=[end_of(steps, other)])]
    assert found[4] == NOTHING
    assert steps.states(third) == {"a": "succeeded", "b": "queued", "end": "blocked"}


def test_each_of_a_group_releases_all_that_waited_for_it_alone(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), *(task(f"{name}{n}", name) for name in "ab" for n in range(3))))
    [run_id] = steps.start()
    found = finish_all(steps, *claimed(steps, (run_id, "b"), (run_id, "a")))
    assert [sorted(dispatch.agent for dispatch in each.released) for each in found if each] == [
        ["b0", "b1", "b2"],
        ["a0", "a1", "a2"],
    ]


def test_a_lost_claim_in_a_group_is_none_and_the_others_are_done(steps: Steps) -> None:
    good, again, cancelled = steps.start(3)
    old = steps.claim(again, "a")
    steps.requeue(old, failed=False)
    current = steps.claim(again, "a", OTHER_WORKER)
    [dead] = claimed(steps, (cancelled, "a"))
    steps.store.runs.cancel(cancelled)
    claims = claimed(steps, (good, "a"), (good, "b"))
    found = finish_all(steps, claims[0], old, dead, claims[1])
    assert [each is None for each in found] == [False, True, True, False]
    assert effects(found) == [set_free(released=[end_of(steps, good)])]
    row = steps.row(again, "a")
    assert (row["state"], row["epoch"], row["worker_id"], row["output"]) == ("running", 2, OTHER_WORKER, None)
    assert steps.row(cancelled, "a")["state"] == "cancelled"
    # Nothing was counted for either.
    assert finish_all(steps, current) == [NOTHING]
    assert finish_all(steps, steps.claim(again, "b")) == [set_free(released=[end_of(steps, again)])]


def test_the_old_and_the_new_claim_of_an_agent_run_in_one_group_are_told_apart(steps: Steps) -> None:
    [run_id] = steps.start()
    old = steps.claim(run_id, "a")
    steps.requeue(old, failed=False)
    new = steps.claim(run_id, "a")
    endings = [
        Ending(old, steps.plan, Outcome(AgentRunState.SUCCEEDED, output='"old"')),
        Ending(new, steps.plan, Outcome(AgentRunState.SUCCEEDED, output='"new"')),
    ]
    assert steps.store.agent_runs.finish_all(endings) == [None, NOTHING]
    assert steps.row(run_id, "a")["output"] == "new"


def test_of_two_ends_of_one_claim_the_first_counts(steps: Steps) -> None:
    [run_id] = steps.start()
    claim, other = claimed(steps, (run_id, "a"), (run_id, "b"))
    endings = [
        Ending(claim, steps.plan, FAILED),
        Ending(other, steps.plan, DONE),
        Ending(claim, steps.plan, DONE),
    ]
    found = steps.store.agent_runs.finish_all(endings)
    assert [each is None for each in found] == [False, False, True]
    assert effects(found) == [set_free(released=[end_of(steps, run_id)])]
    row = steps.row(run_id, "a")
    assert (row["state"], row["output"], row["failures"]) == ("failed", None, 1)
    assert steps.row(run_id, "end")["dispatch"] == 1
    # Nor does an end count that comes with a later group.
    assert finish_all(steps, claim, other) == [None, None]
    assert steps.row(run_id, "a") == row


def test_an_end_in_a_run_that_has_ended_is_none_whatever_its_agent_run_says(steps: Steps) -> None:
    over, good = steps.start(2)
    claims = claimed(steps, (over, "a"), (good, "a"))
    change(steps.store.database, run, over, state="failed")
    assert finish_all(steps, *claims) == [None, NOTHING]
    assert steps.row(over, "a")["state"] == "running"


def test_the_end_of_a_run_in_a_group_is_reported_once_for_each_run(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c")))
    one, other, third = steps.start(3)
    claims = claimed(
        steps, (one, "c"), (other, "a"), (one, "a"), (other, "b"), (third, "a"), (one, "b"), (other, "c"), (third, "b")
    )
    found = finish_all(steps, *claims)
    assert None not in found
    assert effects(found) == [set_free(ended=True)] * 2
    assert {claim.run_id for claim, each in zip(claims, found, strict=True) if each and each.ended} == {one, other}
    assert [steps.state(run_id).value for run_id in (one, other, third)] == ["succeeded", "succeeded", "running"]
    assert [steps.run_row(run_id)["finished_at"] is None for run_id in (one, other, third)] == [False, False, True]


def test_a_successor_with_a_condition_is_reported_as_undecided_once(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c", "a", "b", when="a.go"), task("d", "b")))
    one, other = steps.start(2)
    found = finish_all(steps, *claimed(steps, (one, "b"), (one, "a"), (other, "a")))
    assert [each.undecided for each in effects(found)].count(True) == 1
    assert [each.released for each in found if each] == [
        (Dispatch(steps.id(one, "d"), 1, "d", Priority.LATER),),
        (),
        (),
    ]
    assert found[2] == NOTHING
    assert steps.states(one)["c"] == "blocked"
    assert store.repairs.stuck_runs() == [one]


def test_a_failed_and_a_succeeded_member_in_one_group_keep_their_own_outcomes(steps: Steps) -> None:
    [run_id] = steps.start()
    a, b = claimed(steps, (run_id, "a"), (run_id, "b"))
    usage = Usage(input_tokens=3, output_tokens=5)
    outcome = Outcome(AgentRunState.SUCCEEDED, output='{"text":"é \\" \\\\ \\n"}', usage=usage, model='m"1')
    steps.store.agent_runs.finish_all([Ending(a, steps.plan, FAILED), Ending(b, steps.plan, outcome)])
    failed, succeeded = steps.row(run_id, "a"), steps.row(run_id, "b")
    names = ("state", "output", "error", "usage", "model", "failures", "worker_id")
    assert [failed[name] for name in names] == [
        "failed",
        None,
        {"code": "agent_failed", "message": "no"},
        None,
        None,
        1,
        None,
    ]
    assert [succeeded[name] for name in names] == [
        "succeeded",
        {"text": 'é " \\ \n'},
        None,
        {"input_tokens": 3, "output_tokens": 5},
        'm"1',
        0,
        None,
    ]
    assert failed["finished_at"] is not None
    assert succeeded["finished_at"] is not None


@pytest.mark.parametrize("output", ["null", "0", "false", '""', "[]", '[null,{"a":null}]', '"a\\u2028b"'])
def test_an_output_is_stored_as_the_json_value_that_it_is_and_a_null_is_not_nothing(steps: Steps, output: str) -> None:
    [run_id] = steps.start()
    claims = claimed(steps, (run_id, "a"), (run_id, "b"))
    endings = [
        Ending(claims[0], steps.plan, Outcome(AgentRunState.SUCCEEDED, output=output)),
        Ending(claims[1], steps.plan, FAILED),
    ]
    steps.store.agent_runs.finish_all(endings)
    seen = [steps.store.agent_runs.peek(claim.id) for claim in claims]
    assert seen[0] is not None
    assert seen[0][1] is not None
    assert json.loads(seen[0][1]) == json.loads(output)
    assert seen[0][2] is None
    # What has no output has none.
    assert seen[1] is not None
    assert (seen[1][1], json.loads(seen[1][2])) == (None, {"code": "agent_failed", "message": "no"})
    is_null = select(func.count()).where(agent_run.c.run_id == run_id, text("output IS NULL")).select_from(agent_run)
    with steps.store.database.connect() as connection:
        assert connection.execute(is_null).scalar_one() == 2  # `b`, and `end`, which has not run
    upstream = json.loads(steps.claim(run_id, "end").upstream or "")
    assert upstream[0] == ["a", "succeeded", json.loads(output), None]


def test_a_group_is_done_or_not_as_a_whole(postgres: Database) -> None:
    steps = Steps(Store(postgres), join_of("a", "b"))
    [run_id] = steps.start()
    a, b = claimed(steps, (run_id, "a"), (run_id, "b"))
    refused = Outcome(AgentRunState.SUCCEEDED, output='"\\u0000"')
    with pytest.raises(psycopg.DataError):
        steps.store.agent_runs.finish_all([Ending(a, steps.plan, DONE), Ending(b, steps.plan, refused)])
    assert steps.states(run_id) == {"a": "running", "b": "running", "end": "blocked"}
    assert finish_all(steps, a, b) == [set_free(released=[end_of(steps, run_id)]), NOTHING]


# From several threads -------------------------------------------------------------------------------------------------


def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each statement that gives rows."""
    made: list[str] = []
    rows = Session.rows

    def noted(session: Session, statement: str, **parameters: Any) -> Any:
        made.append(statement)
        return rows(session, statement, **parameters)

    monkeypatch.setattr(Session, "rows", noted)
    return made


def until(condition: Callable[[], Any], what: str) -> None:
    pause = threading.Event()
    for _ in range(6_000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError(f"not within 30 s: {what}")


def held_up(postgres: Database, run_id: str, group: GroupCommit[Any, Any], *works: Callable[[], T]) -> list[Future[T]]:
    """Hold a run's row while the first of `works` waits for it; the others come meanwhile, and then all of them end."""
    waits = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position(:schema IN query) > 0")

    def blocked() -> bool:
        with postgres.connect() as connection:
            return connection.execute(waits, {"schema": postgres.schema}).first() is not None

    with ThreadPoolExecutor(len(works)) as pool:
        with postgres.transaction() as holder:
            assert holder.row("lock_run", run_id=run_id)
            futures = [pool.submit(works[0])]
            until(blocked, "the first waits for the lock")
            for number, work in enumerate(works[1:], 1):
                futures.append(pool.submit(work))
                until(lambda number=number: len(group._waiting) == number, "it waits for the first")  # pyright: ignore[reportPrivateUsage]
        return futures


def test_what_the_database_refuses_fails_its_own_caller_and_nobody_elses(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(Store(postgres), join_of("a", "b", "c"))
    first, run_id = steps.start(2)
    leader, a, bad, c = claimed(steps, (first, "a"), (run_id, "a"), (run_id, "b"), (run_id, "c"))
    agent_runs = AgentRuns(postgres)
    made = statements(monkeypatch)
    refused = Outcome(AgentRunState.SUCCEEDED, output='{"text":"\\u0000"}')

    def finish(claim: Claim, outcome: Outcome = DONE) -> Callable[[], Finish | None]:
        return lambda: agent_runs.finish(claim, steps.plan, outcome)

    group = agent_runs._finish  # pyright: ignore[reportPrivateUsage]
    futures = held_up(postgres, first, group, finish(leader), finish(a), finish(bad, refused), finish(c))
    assert [future.result(60) for future in (futures[0], futures[1], futures[3])] == [NOTHING] * 3
    assert isinstance(futures[2].exception(30), psycopg.DataError)
    assert made.count("finish") == 5, "the first, the three together, and each of them alone"
    assert steps.states(run_id) == {"a": "succeeded", "b": "running", "c": "succeeded", "end": "blocked"}
    assert agent_runs.finish(bad, steps.plan, FAILED) == set_free(released=[end_of(steps, run_id)])


def test_claims_and_ends_of_threads_that_come_together_share_one_statement(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(Store(postgres), join(6))
    first, run_id = steps.start(2)
    agent_runs = AgentRuns(postgres)
    made = statements(monkeypatch)

    def claim(run_id: str, name: str, worker: str) -> Callable[[], Claim | None]:
        return lambda: agent_runs.claim(steps.id(run_id, name), worker)

    workers = [ids.new() for _ in range(6)]
    claims = held_up(
        postgres,
        first,
        agent_runs._claim,  # pyright: ignore[reportPrivateUsage]
        claim(first, "a0", WORKER),
        *(claim(run_id, f"a{number}", worker) for number, worker in enumerate(workers)),
    )
    assert made == ["lock_run", "claim", "claim"]
    found = [future.result(60) for future in claims]
    assert [each and (each.run_id, each.task) for each in found] == [
        (first, "a0"),
        *((run_id, f"a{number}") for number in range(6)),
    ]
    assert [steps.row(run_id, f"a{number}")["worker_id"] for number in range(6)] == workers

    made.clear()

    def finish(claim: Claim | None) -> Callable[[], Finish | None]:
        assert claim is not None
        return lambda: agent_runs.finish(claim, steps.plan, DONE)

    ends = held_up(postgres, first, agent_runs._finish, *map(finish, found))  # pyright: ignore[reportPrivateUsage]
    assert made == ["lock_run", "finish", "finish"]
    assert [future.result(60) for future in ends] == [
        NOTHING,
        set_free(released=[end_of(steps, run_id)]),
        *[NOTHING] * 5,
    ]


def test_of_twenty_wide_joins_that_threads_of_one_process_work_on_each_is_released_once(store: Store) -> None:
    steps = Steps(store, join(10))
    runs = steps.start(20)
    # By stage, not by run: what threads do at one moment is of many runs and of many joins.
    todo = [(run_id, f"a{number}") for number in range(10) for run_id in runs]

    def do(one: tuple[str, str]) -> Finish:
        claim = store.agent_runs.claim(steps.id(*one), WORKER)
        assert claim is not None
        assert (claim.run_id, claim.task) == one
        finished = store.agent_runs.finish(claim, steps.plan, DONE)
        assert finished is not None
        return finished

    finishes = spread(do, todo, threads=8)
    released = [dispatch for finished in finishes for dispatch in finished.released]
    assert sorted(dispatch.id for dispatch in released) == sorted(steps.id(run_id, "end") for run_id in runs)
    assert {dispatch.number for dispatch in released} == {1}
    assert {steps.states(run_id)["end"] for run_id in runs} == {"queued"}
    assert [finished.ended for finished in spread(do, [(run_id, "end") for run_id in runs], threads=8)] == [True] * 20
    assert {steps.state(run_id) for run_id in runs} == {RunState.SUCCEEDED}


# The plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analysed", [True, False], ids=["analysed", "never analysed"])
@pytest.mark.parametrize("name", ["claim", "finish"])
def test_neither_a_claim_nor_an_end_reads_by_an_index_on_the_state(
    migrated: Database, name: str, analysed: bool
) -> None:
    steps = Steps(Store(migrated), join(2))
    steps.start(300)
    if analysed:
        for table in ("run", "agent_run", "countdown"):
            with migrated.connect() as connection:
                connection.exec_driver_sql(f"ANALYZE {migrated.qualify(table)}")
    plan = plan_text(migrated, name)
    assert "pk_agent_run" in plan, plan
    assert "pk_run" in plan, plan
    forbidden = ["ix_agent_run_lost", "ix_agent_run_due", "ix_agent_run_claimed", "ix_agent_run_held", "ix_run_"]
    assert [index for index in forbidden if index in plan] == [], plan
    assert "Seq Scan" not in plan, plan
