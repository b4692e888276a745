"""`AsyncOrchestrator` is `Orchestrator` with `await`: the same names, and no thread is held by waiting."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import PROOF_AGENTS, Fleet, fleet
from forks import in_a_fork

from orchestrator import (
    AsyncOrchestrator,
    AsyncRunHandle,
    BatchOptions,
    IdempotencyConflict,
    Orchestrator,
    RunCancelled,
    RunFailed,
    RunHandle,
    RunNotFound,
    RunStateConflict,
    Settings,
    UnknownAgent,
)
from orchestrator.agents import AgentPool, AgentRegistry
from orchestrator.aio_agents import AsyncAgentPool, AsyncAgentRegistry
from orchestrator.contracts.run import RunState
from orchestrator.endings import Endings
from orchestrator.errors import DatabaseUnavailable

#: What only the command line uses.
INTERNAL = {"service"}


def surface(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") and name not in INTERNAL}


def parameters(function: Any) -> list[tuple[str, Any, Any, str]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default, str(each.annotation).replace("AsyncRun", "Run")) for each in found]


@pytest.mark.parametrize(
    ("blocking", "mirror"),
    [
        (Orchestrator, AsyncOrchestrator),
        (RunHandle, AsyncRunHandle),
        (AgentRegistry, AsyncAgentRegistry),
        (AgentPool, AsyncAgentPool),
    ],
)
def test_both_surfaces_have_the_same_methods_with_the_same_parameters(blocking: type, mirror: type) -> None:
    ours, theirs = surface(blocking), surface(mirror)
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        function = value.fget if isinstance(value, property) else value
        mirrored = getattr(mirror, name)
        assert parameters(mirrored.fget if isinstance(mirrored, property) else mirrored) == parameters(
            function if inspect.isfunction(function) else getattr(blocking, name)
        ), name


def test_what_asks_a_service_is_awaited_and_the_rest_is_not() -> None:
    plain = {name for name, value in surface(AsyncOrchestrator).items() if not inspect.iscoroutinefunction(value)}
    assert plain == {"embedded", "run", "agents"}
    plain = {name for name, value in surface(AsyncRunHandle).items() if not inspect.iscoroutinefunction(value)}
    assert plain == {"events"}
    assert inspect.isasyncgenfunction(AsyncRunHandle.events)


# On a fleet -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    # A machine that is busy with a thousand of them may take its time to let one more connection in.
    with fleet(tmp_path_factory.mktemp("fleet"), connect_timeout=60) as made:
        made.start_worker()
        yield made


Main = Callable[[AsyncOrchestrator], Awaitable[None]]


@pytest.fixture
def run_with(installation: Fleet) -> Callable[[Main], None]:
    def run_with(main: Main) -> None:
        async def whole() -> None:
            async with AsyncOrchestrator(installation.kernel.settings) as nf:
                await main(nf)

        asyncio.run(whole())

    return run_with


def test_a_run_is_submitted_watched_and_read(run_with: Callable[[Main], None]) -> None:
    async def main(nf: AsyncOrchestrator) -> None:
        run = await nf.submit("a=branch | b=gather", {"n": 1}, project="press", idempotency_key="one")
        assert (await nf.submit("a=branch | b=gather", {"n": 1}, project="press", idempotency_key="one")).id == run.id
        with pytest.raises(IdempotencyConflict):
            await nf.submit("a=branch | b=gather", {"n": 2}, project="press", idempotency_key="one")
        events = [event async for event in run.events()]
        assert events[-1].state == "succeeded"
        assert [event.cursor async for event in run.events(after=events[-2].cursor)] == [events[-1].cursor]
        assert await run.state() == "succeeded"
        assert list((await run.result())["seen"]) == ["a"]
        assert (await run.snapshot()).project == "press"
        same = nf.run(run.id)
        assert (await same.wait(timeout=60)).id == run.id
        assert run.id in {each.id for each in await nf.runs(limit=5)}
        assert await nf.resume() == []

    run_with(main)


def test_errors_are_those_of_the_blocking_surface(run_with: Callable[[Main], None]) -> None:
    async def main(nf: AsyncOrchestrator) -> None:
        with pytest.raises(UnknownAgent):
            await nf.submit("no_such_agent")
        with pytest.raises(RunNotFound):
            await nf.run("01a1f8e6-864b-7e4e-96ea-000000000000").wait()
        with pytest.raises(RunNotFound):
            await anext(nf.run("no id").events())
        failed = await nf.submit("flaky", {"failures": "many"})
        with pytest.raises(RunFailed, match="task 'flaky'"):
            await failed.result(60)
        await failed.retry()
        assert (await failed.wait(60)).state == "failed"
        held = await nf.submit("held", {"seconds": 600})
        for timeout in (0.05, 0):
            with pytest.raises(TimeoutError, match="it goes on, and can be waited for again"):
                await held.wait(timeout)
        with pytest.raises(RunStateConflict):
            await held.retry()
        assert await held.cancel()
        with pytest.raises(RunCancelled):
            await held.result()
        assert not await held.cancel()
        assert (await held.wait(0)).state == "cancelled"

    run_with(main)


def test_a_thousand_waiting_handles_hold_a_few_threads_and_one_question(run_with: Callable[[Main], None]) -> None:
    async def main(nf: AsyncOrchestrator) -> None:
        # Threads of an orchestrator that was closed before may take a while to end.
        others = set(threading.enumerate())
        runs = await nf.submit_many("quiet", [{}] * 1000)
        most = 0

        async def wait(run: AsyncRunHandle) -> RunState:
            nonlocal most
            done = await run.wait(240)
            own = set(threading.enumerate()) - others
            most = max(most, sum(thread.name.startswith("nightfleet-async") for thread in own))
            return done.state

        assert set(await asyncio.gather(*map(wait, runs))) == {"succeeded"}
        assert 0 < most <= 8

    run_with(main)


def test_cancelling_a_task_that_awaits_leaves_the_run_alone(run_with: Callable[[Main], None]) -> None:
    async def main(nf: AsyncOrchestrator) -> None:
        run = await nf.submit("held", {"seconds": 0.5})
        other = asyncio.create_task(run.wait())
        waiting = asyncio.create_task(run.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await other).state == "succeeded"

    run_with(main)


def test_a_submit_that_is_cancelled_is_stored_whole_or_not_at_all(
    run_with: Callable[[Main], None], installation: Fleet
) -> None:
    async def main(nf: AsyncOrchestrator) -> None:
        await nf.submit("quiet")  # everything is connected
        for turns in range(12):
            submitting = asyncio.create_task(nf.submit("quiet", idempotency_key=f"cancelled {turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
        for turns in range(12):
            run = await nf.submit("quiet", idempotency_key=f"cancelled {turns}")
            assert (await run.wait(60)).state == "succeeded"

    run_with(main)
    assert installation.query("SELECT count(*) FROM run WHERE idempotency_key LIKE 'cancelled %%'") == [(12,)]


def test_joins_a_blocking_connections_transaction(run_with: Callable[[Main], None], installation: Fleet) -> None:
    import psycopg

    async def main(nf: AsyncOrchestrator) -> None:
        connection = psycopg.connect(installation.environment["NIGHTFLEET_DATABASE_URL"])
        run = await nf.submit("quiet", connection=connection)
        many = await nf.submit_many("quiet", [{}, {}], connection=connection)
        with pytest.raises(RunNotFound, match="wait for it after the commit"):
            await run.wait()
        connection.commit()
        await nf.publish(many)
        await run.publish()
        assert {(await each.wait(60)).state for each in (run, *many)} == {"succeeded"}
        connection.close()

    run_with(main)


def test_a_batch_tells_its_progress_on_the_event_loop(run_with: Callable[[Main], None], tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    data.write_text('{"n": 1}\n' * 20)
    told: set[str] = set()

    async def main(nf: AsyncOrchestrator) -> None:
        result = await nf.batch(data, "quiet", out=out, on_progress=lambda _: told.add(threading.current_thread().name))
        assert result.succeeded == 20

    run_with(main)
    assert told == {"MainThread"}


def test_a_cancelled_batch_stops_and_the_same_call_goes_on(run_with: Callable[[Main], None], tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    go = tmp_path / "go"
    data.write_text(f"{json.dumps({'until': str(go)})}\n" * 6)
    options = BatchOptions(window=2)

    async def main(nf: AsyncOrchestrator) -> None:
        begun = asyncio.Event()
        first = asyncio.create_task(
            nf.batch(data, "patient", out=out, options=options, on_progress=lambda _: begun.set())
        )
        await asyncio.wait_for(begun.wait(), 60)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(first, 60)
        go.touch()
        assert (await nf.batch(data, "patient", out=out, options=options)).succeeded == 6

    run_with(main)


def test_cancelling_a_batch_is_a_cancellation_whatever_becomes_of_the_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def batch(*_given: Any, **_named: Any) -> None:
        begun.set()
        go_on.wait(60)
        raise DatabaseUnavailable("the database is away")

    async def main() -> None:
        nf = AsyncOrchestrator()
        monkeypatch.setattr(Orchestrator, "batch", batch)
        task = asyncio.create_task(nf.batch("rows.jsonl", "quiet", out="out.jsonl"))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)

    with caplog.at_level(logging.WARNING, "nightfleet.aio"):
        asyncio.run(main())
    assert "the database is away" in caplog.text


# Event loops and processes --------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    return Settings(home=tmp_path / "home", agents_path=str(PROOF_AGENTS))


def test_one_instance_serves_one_event_loop_after_the_other_and_goes_on_after_close(settings: Settings) -> None:
    nf = AsyncOrchestrator.embedded(settings=settings)

    async def main() -> str:
        run = await nf.submit("held", {"seconds": 0.05})
        return (await run.wait(60)).state

    assert [asyncio.run(main()) for _ in range(2)] == ["succeeded"] * 2
    asyncio.run(nf.close())
    assert asyncio.run(main()) == "succeeded"
    asyncio.run(nf.close())


def test_an_event_loop_that_has_ended_is_not_kept(settings: Settings) -> None:
    nf = AsyncOrchestrator.embedded(settings=settings)
    loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    async def main() -> None:
        loops.add(asyncio.get_running_loop())
        await (await nf.submit("held", {"seconds": 0.02})).wait(60)

    for _ in range(5):
        asyncio.run(main())
    # A thread that has just told a loop of something may hold it for another moment.
    pause = threading.Event()
    assert any(gc.collect() < 0 or len(loops) == 0 or pause.wait(0.1) for _ in range(600))
    asyncio.run(nf.close())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_works_on_both_sides_of_a_fork(settings: Settings) -> None:
    nf = AsyncOrchestrator.embedded(settings=settings)

    async def main() -> bool:
        return (await (await nf.submit("quiet")).wait(60)).state == "succeeded"

    assert asyncio.run(main())
    assert in_a_fork(lambda: asyncio.run(main()))
    assert asyncio.run(main())
    asyncio.run(nf.close())


# Waiting --------------------------------------------------------------------------------------------------------------


class Asked:
    """Answers the question for states, and remembers what it was asked."""

    def __init__(self, *run_ids: str) -> None:
        self.states = dict.fromkeys(run_ids, RunState.PENDING)
        self.questions: list[list[str]] = []
        self.first = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, run_ids: list[str]) -> dict[str, RunState]:
        self.questions.append(run_ids)
        self.first.set()
        if self.error is not None:
            raise self.error
        return {run_id: self.states[run_id] for run_id in run_ids if run_id in self.states}

    def end(self) -> None:
        self.states = dict.fromkeys(self.states, RunState.SUCCEEDED)


def test_all_who_wait_share_one_question() -> None:
    async def main() -> None:
        asked = Asked(*map(str, range(50)))
        endings = Endings(asked)
        waiting = asyncio.gather(*(endings.wait_for(run_id) for run_id in (*asked.states, "0")))
        await asyncio.wait_for(asked.first.wait(), 60)
        assert sorted(asked.questions[0]) == sorted(asked.states)
        asked.end()
        await asyncio.wait_for(waiting, 60)

    asyncio.run(main())


def test_nobody_is_asked_when_nobody_waits() -> None:
    async def main() -> None:
        asked = Asked("one")
        endings = Endings(asked)
        waiting = asyncio.create_task(endings.wait_for("one"))
        await asyncio.wait_for(asked.first.wait(), 60)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(0)
        assert [each for each in asyncio.all_tasks() if each.get_name() == "nightfleet-endings"] == []
        asked.end()
        await asyncio.wait_for(endings.wait_for("one"), 60)

    asyncio.run(main())


def test_who_joins_in_the_very_turn_in_which_the_last_one_leaves_is_told() -> None:
    async def main() -> None:
        asked = Asked("one", "two")
        endings = Endings(asked)
        leaving = asyncio.create_task(endings.wait_for("one"))
        await asyncio.wait_for(asked.first.wait(), 60)
        asked.end()
        leaving.cancel()
        joining = asyncio.create_task(endings.wait_for("two"))
        await asyncio.wait_for(joining, 60)
        assert leaving.cancelled()

    asyncio.run(main())


def test_an_outage_reaches_all_who_wait_and_the_next_one_asks_again() -> None:
    async def main() -> None:
        asked = Asked("one", "two")
        endings = Endings(asked)
        asked.error = DatabaseUnavailable("the database is away")
        waiting = asyncio.gather(*map(endings.wait_for, asked.states), return_exceptions=True)
        assert await asyncio.wait_for(waiting, 60) == [asked.error] * 2
        asked.error = None
        asked.end()
        await asyncio.wait_for(endings.wait_for("one"), 60)

    asyncio.run(main())


def test_a_run_that_is_deleted_while_it_is_waited_for_is_not_found() -> None:
    async def main() -> None:
        with pytest.raises(RunNotFound):
            await asyncio.wait_for(Endings(Asked()).wait_for("run 0"), 60)

    asyncio.run(main())
