"""What a worker process does when it is stopped, runs out of time, or ends a run: on SQLite, without a fleet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from steps import OTHER_WORKER, WORKER, Steps, plan_of, task

from orchestrator.advance import Advancer
from orchestrator.contracts.run import RunState
from orchestrator.contracts.workflow import CeleryTask, TaskDefinition
from orchestrator.errors import ClaimLost, DatabaseUnavailable
from orchestrator.recovery import Sweep
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.heartbeat import Sign
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.store import Store
from worker.effects.base import Account
from worker.execution import Execution, Failed, Ignored, Verdict
from worker.lifecycle import CeleryDecisions, Pulse, Slots
from worker.llm.providers import Providers
from worker.loader import LoadedAgents
from worker.nodes import foreign_app
from worker.nodes.builtin import BUILT_IN
from worker.nodes.foreign_app import Phase, Seen, Sending
from worker.runtime import Runtime
from worker.settlement import Settlement


class Nobody:
    """A broker that takes everything."""

    def publish(self, messages: Any) -> None:
        del messages

    def depth(self, name: str) -> int | None:
        del name


class Remote(foreign_app.ForeignApp):
    """An app whose tasks are never begun; `revoked` holds what each wish to revoke came to."""

    sent: threading.Event
    revoked: Future[bool]

    async def open(self, name: str) -> None:
        del name

    async def look(self, task_id: str) -> Seen:
        del task_id
        return Seen(Phase.UNKNOWN)

    async def send(self, sending: Sending) -> None:
        del sending
        self.sent.set()

    def revoke(self, task_id: str, if_still: Callable[[], bool]) -> None:
        del task_id
        self.revoked.set_result(if_still())


class Counted:
    """A meter that notes which runs have ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, RunState]] = []

    def executed(self, agent: str, verdict: Verdict, seconds: float) -> None: ...

    def run_ended(self, run_id: str, state: RunState) -> None:
        self.ended.append((run_id, state))


@pytest.fixture
def store(sqlite: Database) -> Store:
    return Store(sqlite)


def made(store: Store) -> Runtime:
    return Runtime(
        store=store,
        advancer=Advancer(store, cast("Any", Nobody())),
        agents=LoadedAgents(BUILT_IN),
        providers=Providers({}),
        settings=Settings(celery_app="shop:app"),
        worker_id=WORKER,
    )


@pytest.fixture
def runtime(store: Store) -> Iterator[Runtime]:
    built = made(store)
    yield built
    built.loop.close()
    built.nodes.close()


@pytest.fixture
def passing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens at the time limits of what runs in threads: they pass when the test says so, and not by themselves."""
    found: list[Callable[[], None]] = []

    def after(_seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        found.append(action)
        return lambda: found.remove(action)

    monkeypatch.setattr(runtime.deadlines, "after", after)
    return found


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def settled(condition: Callable[[], Any]) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(6_000))


# Handing back ---------------------------------------------------------------------------------------------------------


def holding(runtime: Runtime, steps: Steps, *names: str) -> list[Execution]:
    [run_id] = steps.start()
    claims = [steps.claim(run_id, name) for name in names]
    return [Execution(claim, steps.plan, Account("m"), steps.plan.tasks[claim.position], began=0.0) for claim in claims]


def test_a_drain_without_a_database_stops_everything_that_runs(
    runtime: Runtime, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    executions = holding(runtime, Steps(store, plan_of(task("a"), task("b"), task("c"))), *"abc")
    interrupted: list[str] = []
    for execution in executions:
        execution.interrupt = lambda name=execution.claim.task: interrupted.append(name)
    away = Database(
        "postgresql://nobody@127.0.0.1:1/none",
        schema="none",
        pool_size=1,
        connect_timeout=timedelta(seconds=1),
        prepare=False,
    )
    made(Store(away)).hand_back(executions)
    assert [type(execution.account.stopped) for execution in executions] == [ClaimLost] * 3
    assert interrupted == ["a", "b", "c"]
    assert caplog.text.count("not handed back, another worker takes it over") == 3


def test_what_is_handed_back_is_free_for_the_next_worker(runtime: Runtime, store: Store) -> None:
    steps = Steps(store, plan_of(task("a"), task("b")))
    executions = holding(runtime, steps, "a", "b")
    runtime.hand_back(executions)
    for execution in executions:
        again = steps.claim(execution.claim.run_id, execution.claim.task, OTHER_WORKER)
        assert (again.epoch, again.crashes, again.failures) == (2, 0, 0)


# A Celery task whose execution is stopped -----------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> type[Remote]:
    Remote.sent, Remote.revoked = threading.Event(), Future()
    monkeypatch.setattr(foreign_app, "ForeignApp", Remote)
    return Remote


def celery(**fields: Any) -> TaskDefinition:
    return TaskDefinition(id="resize", celery=CeleryTask(task="images.resize"), **fields)


def start(runtime: Runtime, store: Store, thread: ThreadPoolExecutor, of: TaskDefinition) -> tuple[str, Future[Any]]:
    """Begin to execute the one task of a run; gives the run."""
    steps = Steps(store, plan_of(of))
    [run_id] = steps.start()
    return run_id, thread.submit(runtime.run, steps.id(run_id, of.id), frozenset())


def test_a_worker_that_ends_leaves_the_celery_task_to_who_takes_over(
    runtime: Runtime, store: Store, thread: ThreadPoolExecutor, remote: type[Remote]
) -> None:
    _, running = start(runtime, store, thread, celery())
    assert remote.sent.wait(60)
    runtime.loop.close()
    assert running.result(60) == Ignored()
    assert remote.revoked.result(60) is False


# That of its loop passes: the one for finding out what is to be executed could pass before that is known.
@pytest.mark.usefixtures("passing")
@pytest.mark.parametrize("limit", ["hard", "soft"])
def test_a_time_limit_revokes_the_celery_task(
    limit: str, runtime: Runtime, store: Store, thread: ThreadPoolExecutor, remote: type[Remote]
) -> None:
    start(runtime, store, thread, celery(timeouts={limit: 0.05}))
    assert remote.revoked.result(60) is True


def test_a_cancel_of_the_run_revokes_the_celery_task(
    runtime: Runtime, store: Store, thread: ThreadPoolExecutor, remote: type[Remote]
) -> None:
    run_id, _ = start(runtime, store, thread, celery())
    assert remote.sent.wait(60)
    store.runs.cancel(run_id)
    [execution] = runtime.executions.all()
    runtime.stop(execution, ClaimLost("cancelled"))
    assert remote.revoked.result(60) is True


async def cancelled() -> None:
    """A function that awaits something that was cancelled."""
    mine = asyncio.ensure_future(asyncio.sleep(60))
    mine.cancel()
    await mine


def test_a_cancellation_of_the_agents_own_is_its_failure(
    runtime: Runtime, store: Store, thread: ThreadPoolExecutor
) -> None:
    of = TaskDefinition.model_validate({"id": "f", "function": f"{__name__}:cancelled", "retry": {"retries": 0}})
    _, running = start(runtime, store, thread, of)
    assert isinstance(running.result(60), Failed)


# The import of a function ---------------------------------------------------------------------------------------------


def test_a_module_that_hangs_while_it_is_imported_fails_at_the_hard_limit(
    runtime: Runtime, store: Store, thread: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    (tmp_path / "nf_hangs.py").write_text(
        "import pathlib, threading\n"
        f"while not pathlib.Path({str(go)!r}).exists(): threading.Event().wait(0.01)\n"
        "def clean(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    of = TaskDefinition.model_validate(
        {"id": "f", "function": "nf_hangs:clean", "timeouts": {"hard": 0.05}, "retry": {"retries": 0}}
    )
    run_id, running = start(runtime, store, thread, of)
    try:
        assert settled(lambda: store.runs.states_of([run_id])[run_id] is RunState.FAILED)
        row = store.agent_runs.peek(plan_of(of).id_at(run_id, 0))
        assert row is not None
        assert "the hard time limit of 0.05 s has passed" in row[2]
        assert not running.done()
    finally:
        go.touch()
    assert running.result(60) == Ignored()


def test_an_agent_that_is_stuck_while_the_database_is_away_is_executed_by_nobody_any_more(
    runtime: Runtime,
    store: Store,
    thread: ThreadPoolExecutor,
    passing: list[Callable[[], None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("no route to it")

    begun, go = tmp_path / "begun", tmp_path / "go"
    (tmp_path / "nf_stuck.py").write_text(
        "import pathlib, threading\n"
        "def work(text):\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        f"    while not pathlib.Path({str(go)!r}).exists(): threading.Event().wait(0.01)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Settlement, "failure", away)
    of = TaskDefinition.model_validate({"id": "f", "function": "nf_stuck:work", "timeouts": {"hard": 0.05}})
    _, running = start(runtime, store, thread, of)
    try:
        assert settled(begun.exists)
        [passes] = passing
        passes()
        # So a later beat finds that nobody executes what this process holds.
        assert settled(lambda: not runtime.executions.all())
        assert not running.done()
    finally:
        go.touch()
    assert running.result(60) == Ignored()


# Slots ----------------------------------------------------------------------------------------------------------------


def test_a_beat_tells_the_fleet_how_many_slots_there_are_now(runtime: Runtime, store: Store) -> None:
    slots = SimpleNamespace(slots=4)
    pulse = Pulse(runtime, "host-1", cast("Slots", slots))
    pulse.join()
    slots.slots = 7
    pulse.beat(Sign(slots.slots, idle=True, draining=False))
    assert [row.slots for row in store.fleet.workers(lease_ttl_seconds=15)] == [7]


# Runs that end otherwise than by their last agent run -----------------------------------------------------------------


@pytest.fixture
def ended(runtime: Runtime) -> list[tuple[str, RunState]]:
    meter = runtime.meter = Counted()
    runtime.advancer.on_run_ended = meter.run_ended
    return meter.ended


@pytest.mark.parametrize(
    ("condition", "state"),
    [("a.nothing == 1", RunState.FAILED), ("false", RunState.SUCCEEDED), ("true", None)],
)
def test_a_run_that_a_condition_ends_is_counted(
    condition: str, state: RunState | None, runtime: Runtime, store: Store, ended: list[tuple[str, RunState]]
) -> None:
    steps = Steps(store, plan_of(task("a"), task("b", "a", when=condition)))
    [run_id] = steps.start()
    steps.do(run_id, "a")
    for _ in range(2):
        runtime.advancer.advance(run_id)
    assert ended == ([] if state is None else [(run_id, state)])
    assert store.runs.states_of([run_id])[run_id] is (state or RunState.RUNNING)


def test_a_run_that_is_given_up_after_too_many_crashes_is_counted(
    runtime: Runtime, store: Store, ended: list[tuple[str, RunState]]
) -> None:
    steps = Steps(store, plan_of(task("a")))
    [run_id] = steps.start()
    steps.change(run_id, "a", suspect=True)
    claim = steps.claim(run_id, "a")
    sweep = Sweep(store, runtime.advancer, Nobody(), Settings(max_crashes=1))
    orphan = Orphan(claim.id, run_id, claim.epoch, claim.crashes, WORKER)
    assert [sweep.release(orphan, Loss.FORGOTTEN), sweep.release(orphan, Loss.FORGOTTEN)] == [1, 0]
    assert ended == [(run_id, RunState.FAILED)]


def test_a_run_that_celerys_tools_revoke_is_counted_once(
    runtime: Runtime, store: Store, ended: list[tuple[str, RunState]]
) -> None:
    steps = Steps(store, plan_of(task("a")))
    [run_id] = steps.start()
    for _ in range(2):
        CeleryDecisions(runtime).revoked(f"{steps.id(run_id, 'a')}.1")
    assert ended == [(run_id, RunState.CANCELLED)]
