"""Finish, join and release are one transaction: no join is lost, none fires twice, and a run ends exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from steps import FAILED, Steps, join, plan_of, race, spread, task

from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.run import RunState
from orchestrator.store.agent_runs import Finish
from orchestrator.store.database import Database, Session
from orchestrator.store.store import Store

T = TypeVar("T")


@pytest.fixture
def attempts(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the database has been asked to do: with one entry more for each transaction that it broke to end a deadlock."""
    made: list[str] = []

    def counting(original: Callable[[Callable[[Session], T]], T]) -> Callable[[Callable[[Session], T]], T]:
        def asked(work: Callable[[Session], T]) -> T:
            def once(session: Session) -> T:
                made.append(threading.current_thread().name)
                return work(session)

            return original(once)

        return asked

    for name in ("execute", "transact"):
        monkeypatch.setattr(database, name, counting(getattr(database, name)))
    return made


def lockstep(steps: Steps, runs: Sequence[str], *names: str) -> list[list[Finish | None]]:
    """Finish claimed tasks of each run at the same moment, run after run; gives what each run's tasks set free."""
    claims = {name: [steps.claim(run_id, name) for run_id in runs] for name in names}
    together = threading.Barrier(len(names))

    def finish_all(name: str) -> list[Finish | None]:
        found: list[Finish | None] = []
        for claim in claims[name]:
            together.wait(60)
            found.append(steps.finish(claim))
        return found

    return [list(each) for each in zip(*race(*(lambda name=name: finish_all(name) for name in names)), strict=True)]


def released_in(finishes: Sequence[Finish | None]) -> list[str]:
    return [dispatch.agent for finish in finishes if finish is not None for dispatch in finish.released]


# One after the other --------------------------------------------------------------------------------------------------


def test_the_end_of_a_task_releases_its_one_successor(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader"), task("editor", "reader")))
    [run_id] = steps.start()
    finished = steps.do(run_id, "reader")
    assert finished == Finish(
        ended=False, undecided=False, released=(Dispatch(steps.id(run_id, "editor"), 1, "editor", Priority.LATER),)
    )
    row = steps.row(run_id, "editor")
    assert row["state"] == "queued"
    assert row["published_at"] == row["queued_at"] or row["published_at"] > row["queued_at"]


def test_a_join_is_released_by_its_last_member_alone(store: Store) -> None:
    steps = Steps(store, join(3))
    [run_id] = steps.start()
    assert steps.do(run_id, "a2", "a0").released == ()
    assert steps.states(run_id)["end"] == "blocked"
    assert [dispatch.agent for dispatch in steps.do(run_id, "a1").released] == ["end"]
    assert steps.states(run_id)["end"] == "queued"


def test_one_task_can_release_many(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), *(task(f"b{number}", "a") for number in range(20))))
    [run_id] = steps.start()
    finished = steps.do(run_id, "a")
    assert sorted(dispatch.agent for dispatch in finished.released) == sorted(f"b{number}" for number in range(20))
    assert set(steps.states(run_id).values()) == {"succeeded", "queued"}


def test_a_failure_that_the_workflow_lives_with_counts_at_the_join_like_a_success(store: Store) -> None:
    steps = Steps(store, join(2))
    [run_id] = steps.start()
    steps.do(run_id, "a0", outcome=FAILED)
    assert len(steps.do(run_id, "a1").released) == 1
    assert steps.states(run_id) == {"a0": "failed", "a1": "succeeded", "end": "queued"}
    assert steps.row(run_id, "a0")["failures"] == 1


def test_a_successor_with_a_condition_is_not_released_but_reported_as_undecided(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b", "a", when="a.go"), task("c", "a")))
    [run_id] = steps.start()
    finished = steps.do(run_id, "a")
    assert finished.undecided
    assert [dispatch.agent for dispatch in finished.released] == ["c"]
    assert steps.states(run_id)["b"] == "blocked"
    assert store.repairs.stuck_runs() == [run_id]


def test_a_condition_behind_a_join_is_undecided_only_when_all_members_have_ended(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c", "a", "b", when="a.go")))
    [run_id] = steps.start()
    assert not steps.do(run_id, "a").undecided
    assert store.repairs.stuck_runs() == []
    assert steps.do(run_id, "b").undecided
    assert store.repairs.stuck_runs() == [run_id]


def test_a_run_ends_with_its_last_end_and_not_before(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c", "b")))
    [run_id] = steps.start()
    assert not steps.do(run_id, "a").ended
    assert not steps.do(run_id, "b").ended
    assert (steps.state(run_id), steps.run_row(run_id)["finished_at"]) == (RunState.RUNNING, None)
    assert steps.do(run_id, "c").ended
    assert steps.state(run_id) is RunState.SUCCEEDED
    assert steps.run_row(run_id)["finished_at"] is not None


def test_other_runs_of_the_workflow_are_left_alone(store: Store) -> None:
    steps = Steps(store, join(2))
    one, other = steps.start(2)
    steps.do(one, "a0", "a1", "end")
    assert steps.states(other) == {"a0": "queued", "a1": "queued", "end": "blocked"}
    assert steps.state(other) is RunState.PENDING


# At the same time -----------------------------------------------------------------------------------------------------


def test_of_two_hundred_joins_whose_two_members_finish_together_none_is_lost_and_each_is_released_once(
    store: Store,
) -> None:
    steps = Steps(store, join(2))
    runs = steps.start(200)
    finishes = lockstep(steps, runs, "a0", "a1")
    assert [released_in(each) for each in finishes] == [["end"]] * 200
    assert {steps.states(run_id)["end"] for run_id in runs} == {"queued"}
    assert {steps.row(run_id, "end")["dispatch"] for run_id in runs} == {1}


def test_of_a_hundred_runs_whose_ends_finish_together_each_ends_once(store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b"), task("c")))
    runs = steps.start(100)
    finishes = lockstep(steps, runs, "a", "b", "c")
    assert [sum(finish is not None and finish.ended for finish in each) for each in finishes] == [1] * 100
    assert {steps.state(run_id) for run_id in runs} == {RunState.SUCCEEDED}


def test_a_join_of_a_thousand_is_released_once(store: Store) -> None:
    steps = Steps(store, join(1000))
    [run_id] = steps.start()
    finishes = spread(lambda number: steps.do(run_id, f"a{number}"), range(1000), threads=8)
    assert released_in(finishes) == ["end"]
    assert steps.do(run_id, "end").ended


def test_a_stage_of_which_each_task_waits_for_each_of_the_stage_before_never_deadlocks(
    store: Store, attempts: list[str]
) -> None:
    first, second = ([f"{stage}{number}" for number in range(5)] for stage in "ab")
    steps = Steps(store, plan_of(*map(task, first), *(task(name, *first) for name in second)))
    runs = steps.start(20)
    claims = [steps.claim(run_id, name) for run_id in runs for name in first]
    attempts.clear()
    finishes = spread(steps.finish, claims, threads=8)
    assert len(attempts) == len(claims)
    assert sorted(released_in(finishes)) == sorted(second * 20)
    assert {steps.states(run_id)[name] for run_id in runs for name in second} == {"queued"}


def test_any_interleaving_of_a_wide_graph_ends_every_run(store: Store) -> None:
    steps = Steps(
        store,
        plan_of(
            task("a"),
            task("b"),
            task("c", "a", "b"),
            task("d", "a"),
            task("e", "c", "d"),
            task("f", "d"),
            task("g", "b", "f"),
        ),
    )
    waiting: list[Dispatch] = []
    lock = threading.Lock()
    names = {position: each.id for position, each in enumerate(steps.plan.tasks)}
    runs = steps.start(30)
    waiting.extend(Dispatch(steps.id(run_id, name), 1, name, 0) for run_id in runs for name in "ab")

    def work(_: Any) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                dispatch = waiting.pop(0)
            finished = steps.do(dispatch.run_id, names[int(dispatch.id[-5:], 16) - 1])
            with lock:
                waiting.extend(finished.released)

    while waiting:
        spread(work, range(8), threads=8)
    assert {steps.state(run_id) for run_id in runs} == {RunState.SUCCEEDED}
    assert {row[4] for run_id in runs for row in store.runs.states(run_id)} == {1}
