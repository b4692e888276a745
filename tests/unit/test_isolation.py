"""Agents in processes of their own: what they get, what they cannot do to their worker, and who is charged with what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from types import MappingProxyType
from typing import Any, cast

import pytest
from steps import WORKER, Steps, plan_of

from orchestrator.advance import Advancer
from orchestrator.contracts.effect import Entry, EntryState, EventLine, Slot
from orchestrator.contracts.run import RunState
from orchestrator.contracts.usage import Usage
from orchestrator.contracts.workflow import CeleryTask, TaskDefinition
from orchestrator.errors import ClaimLost
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.waits import Answering
from worker.effects.base import Account
from worker.execution import Done, Execution, Failed, Ignored, Retrying, Verdict, Waiting
from worker.isolation import alone, wire
from worker.isolation.processes import ForkServer, ForkServerLost
from worker.llm.providers import Providers
from worker.loader import AgentLoader, LoadedAgents
from worker.nodes.builtin import BUILT_IN
from worker.runtime import Runtime
from worker.testing import MockLLM

AGENTS = '''
import asyncio, contextlib, logging, os, signal, socket, subprocess, sys, threading
from datetime import timedelta
from worker.agent import AsyncContext, BaseAgent, Context, Limits, RetryableError, Timeouts


def note(data, text):
    with open(data["ledger"], "a") as ledger:
        ledger.write(f"{text}\\n")
    return text


class Speaker(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.log("said", fields=object)
        logging.getLogger("a.library").warning("a library %s", "warns")
        ctx.progress("half", 0.5)
        return {"pid": os.getpid(), "step": ctx.step(os.getpid), "said": ctx.llm("hello"), "calls": ctx.usage.model_calls}


class AsyncSpeaker(BaseAgent):
    isolation = "process"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        first, second = await asyncio.gather(ctx.llm("one"), ctx.llm("two"))
        return {"said": sorted([first, second]), "pid": await ctx.step(os.getpid), "own": os.getpid()}


class Killer(BaseAgent):
    """Ends its process as its input says, after a step."""

    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, data, "step")
        if data["how"] == "exits":
            os._exit(3)
        if data["how"] == "leaves a daemon":
            read, write = os.pipe()
            if os.fork():
                os.read(read, 1)
                os._exit(3)
            os.setsid()
            note(data, os.getpid())
            os.write(write, b"x")
            threading.Event().wait(300)
        if data["how"] == "hangs up":
            for handle in range(3, 64):
                with contextlib.suppress(OSError), socket.socket(fileno=handle) as found:
                    found.shutdown(socket.SHUT_RDWR)
            threading.Event().wait(60)
        os.kill(os.getpid(), signal.SIGKILL)


class Mourner(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        return {"after": ctx.upstream["t"].error.code} if "t" in ctx.upstream else {"pid": os.getpid()}


class Spinner(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        note(data, f"{os.getpid()}")
        while True:
            pass


class Starter(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        note(data, f"{subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait(300)']).pid}")
        if data["how"] == "returns":
            return {}
        while True:
            pass


class Asker(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        note(data, "begun")
        while True:
            ctx.step(threading.Event().wait, 0.01)


class Sleeper(BaseAgent):
    isolation = "process"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        note(data, "begun")
        await asyncio.sleep(60)


class LateSleeper(Sleeper):
    """Is told to stop while it is still being made."""

    def __init__(self) -> None:
        threading.Event().wait(0.5)


class Hog(BaseAgent):
    isolation = "process"
    limits = Limits(memory_mb=96)

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"size": len(bytearray(300_000_000))}


class Retried(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        raise RetryableError("later", retry_after=7.0)


class Breaker(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        return data["missing"]


class Leaver(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        sys.exit(4)


class Patient(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        note(data, ctx.step(str, "once"))
        return {"answer": ctx.ask("Shall it?", choices=["yes", "no"], about={"what": "it"}), "at": str(ctx.now())}


class AsyncPatient(BaseAgent):
    isolation = "process"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        try:
            await asyncio.gather(ctx.sleep(3600), ctx.ask("Shall it?", choices=["yes", "no"]))
        except Exception:
            note(data, "caught")
        return {}


class Impatient(BaseAgent):
    """Asks for this and that until it is refused, and does not wait for what it has asked a model."""
    isolation = "process"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        thought = asyncio.ensure_future(ctx.llm("think"))
        try:
            while True:
                await ctx.now()
        finally:
            note(data, "refused")


class Thinker(BaseAgent):
    """Not isolated unless it is a suspect."""

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"pid": os.getpid(), "said": ctx.llm("think")}
'''


class Nobody:
    """A broker that takes everything."""

    def publish(self, messages: Any) -> None:
        del messages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("agents")
    (made / "probes.py").write_text(AGENTS)
    return made


@pytest.fixture(scope="module")
def agents(folder: Path) -> LoadedAgents:
    found = AgentLoader(str(folder), base=folder).load()
    assert found.problems == ()
    return replace(found, agents=MappingProxyType({**found.agents, **BUILT_IN}))


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """One fork server for all: it takes most of a second to start."""
    made = ForkServer()
    yield made
    made.close()


class World:
    """One worker process on a database of its own."""

    def __init__(self, runtime: Runtime, ledger: Path) -> None:
        self.runtime = runtime
        self.ledger = ledger
        self.steps = Steps(runtime.store, plan_of(TaskDefinition(id="none", agent="none")))
        self.run_id = ""

    def begin(self, agent: str, *others: TaskDefinition, suspect: bool = False, **fields: Any) -> str:
        """Create a run whose task `t` is of that agent; gives its agent run."""
        first = TaskDefinition.model_validate({"id": "t", "agent": agent, "retry": {"retries": 0}, **fields})
        return self.begin_with(first, *others, suspect=suspect)

    def begin_with(self, *tasks: TaskDefinition, suspect: bool = False) -> str:
        self.steps = Steps(self.runtime.store, plan_of(*tasks))
        [self.run_id] = self.steps.start()
        if suspect:
            self.steps.change(self.run_id, tasks[0].id, suspect=True)
        return self.steps.id(self.run_id, tasks[0].id)

    def execute(
        self, agent: str, how: str = "", *, suspect: bool = False, **fields: Any
    ) -> tuple[Verdict, dict[str, Any]]:
        """Execute one agent run once; gives the verdict and its row."""
        given = {"ledger": str(self.ledger), "how": how}
        identity = self.begin(agent, suspect=suspect, **{"input": given, **fields})
        return self.again(identity)

    def again(self, identity: str) -> tuple[Verdict, dict[str, Any]]:
        verdict = self.runtime.run(identity, frozenset())
        return verdict, self.steps.row(self.run_id, "t")

    def lines(self) -> list[str]:
        return self.ledger.read_text().split() if self.ledger.exists() else []

    def until(self, condition: Callable[[], Any]) -> Any:
        pause = threading.Event()
        for _ in range(6_000):
            if found := condition():
                return found
            pause.wait(0.01)
        raise AssertionError("not within 60 s")


@pytest.fixture
def world(
    sqlite: Database,
    agents: LoadedAgents,
    folder: Path,
    server: ForkServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    # How a process has ended tells the fork server, which may take its time.
    monkeypatch.setattr(alone, "_LAST_SECONDS", 60.0)
    store = Store(sqlite)
    runtime = Runtime(
        store=store,
        advancer=Advancer(store, cast("Any", Nobody())),
        agents=agents,
        providers=Providers({}),
        settings=Settings(agents_path=str(folder)),
        worker_id=WORKER,
    )
    runtime.isolation = replace(runtime.isolation, _server=server)
    yield World(runtime, tmp_path / "ledger")
    runtime.loop.close()
    runtime.nodes.close()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def model(world: World, monkeypatch: pytest.MonkeyPatch) -> MockLLM:
    """Answers in the worker: a child could not know its script."""
    made = MockLLM(*["answer"] * 5)
    monkeypatch.setattr(world.runtime.providers, "providers_for", {"offline": (made,)}.__getitem__)
    return made


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# The pipe -------------------------------------------------------------------------------------------------------------


def test_every_field_of_an_entry_crosses_as_it_is() -> None:
    entry = Entry(
        Slot("0.3", 7),
        "model",
        "f" * 32,
        EntryState.DONE,
        request="what\u2028was asked",
        outcome={"z": 1, "a": [10**30, 0.1, None, "\ud800"]},
        error={"code": "agent_failed"},
        usage=Usage(model_calls=1, input_tokens=3),
        model="m",
        digest="d",
        milliseconds=12,
        conversation=[{"role": "user"}],
        event=EventLine("half", {"fraction": 0.5}),
        head="h",
        epoch=4,
        recorded_at=datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC),
    )
    assert all(getattr(entry, field.name) for field in fields(Entry)), "every field is set"
    assert wire.entry_in(json.loads(json.dumps(wire.entry_out(entry)))) == entry


# What it gets ---------------------------------------------------------------------------------------------------------


def test_an_isolated_agent_and_its_steps_run_in_a_process_of_their_own_and_model_calls_in_the_worker(
    world: World, model: MockLLM, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    verdict, row = world.execute("speaker")
    assert isinstance(verdict, Done)
    assert row["output"]["pid"] == row["output"]["step"] != os.getpid()
    assert (row["output"]["said"], row["output"]["calls"], row["usage"]["model_calls"]) == ("answer", 1, 1)
    assert [call.messages[0].content for call in model.calls] == ["hello"]
    assert ("a.library", "a library warns") in [(record.name, record.getMessage()) for record in caplog.records]
    assert "said" in caplog.text
    assert [event[2] for event in world.runtime.store.runs.events_after(world.run_id, world.run_id)] == ["half"]


def test_an_async_agent_asks_for_several_things_at_the_same_time(world: World, model: MockLLM) -> None:
    _, row = world.execute("async_speaker")
    assert row["output"]["said"] == ["answer", "answer"]
    assert row["output"]["pid"] == row["output"]["own"] != os.getpid()
    assert len(model.calls) == 2


def test_a_suspect_is_isolated_and_what_is_none_is_not(world: World, model: MockLLM) -> None:
    _, row = world.execute("thinker")
    assert row["output"]["pid"] == os.getpid()
    verdict, row = world.execute("thinker", suspect=True)
    assert isinstance(verdict, Done)
    assert row["output"]["pid"] != os.getpid()
    assert (row["suspect"], row["crashes"]) == (False, 0)


def test_a_function_of_a_suspect_is_imported_and_called_in_a_process_of_its_own(world: World) -> None:
    task = TaskDefinition.model_validate({"id": "t", "function": "os:getpid", "input": {}})
    _, row = world.again(world.begin_with(task, suspect=True))
    assert row["state"] == "succeeded"
    assert row["output"] != os.getpid()


def test_a_celery_task_runs_elsewhere_already_and_is_not_isolated(world: World) -> None:
    task = TaskDefinition(id="t", celery=CeleryTask(task="images.resize"))
    world.begin_with(task, suspect=True)
    claim = world.steps.claim(world.run_id, "t")
    execution = Execution(claim, world.steps.plan, Account("m"), task, began=0.0)
    assert not world.runtime.isolation.wants(execution, BUILT_IN["celery"])


def test_an_error_crosses_with_its_kind_and_its_wish_for_a_retry(world: World) -> None:
    verdict, row = world.execute("retried", retry={"retries": 1, "jitter": 0})
    assert isinstance(verdict, Retrying)
    assert (verdict.error.code, verdict.delay_seconds) == ("retryable", 7.0)
    assert (row["state"], row["failures"], row["crashes"], row["suspect"]) == ("queued", 1, 0, False)


def test_an_error_names_the_line_that_it_came_from(world: World) -> None:
    _, row = world.execute("breaker")
    place, _, line = row["error"]["details"]["at"].rpartition(":")
    assert Path(place).read_text().splitlines()[int(line) - 1].strip() == 'return data["missing"]'


def test_a_regular_exit_is_a_failure_and_no_crash(world: World) -> None:
    verdict, row = world.execute("leaver")
    assert isinstance(verdict, Failed)
    assert (row["error"]["code"], row["crashes"]) == ("agent_failed", 0)


# Waiting --------------------------------------------------------------------------------------------------------------


def test_an_isolated_agent_waits_without_its_process_and_goes_on_in_another(world: World) -> None:
    verdict, row = world.execute("patient")
    assert isinstance(verdict, Waiting)
    assert (row["state"], row["waiting_for"]) == ("suspended", "waits for an answer: Shall it?")
    waits = world.runtime.store.waits
    [question] = waits.open_questions(run_id=world.run_id, project=None, limit=9)
    assert question.about == {"what": "it"}
    waits.answer(Answering(question.id, '"yes"', "somebody", question.digest))
    verdict, row = world.again(row["id"])
    assert isinstance(verdict, Done)
    assert row["output"]["answer"] == "yes"
    assert world.lines() == ["once", "once"]


def test_branches_that_all_wait_suspend_an_isolated_async_agent_as_a_whole(world: World) -> None:
    verdict, row = world.execute("async_patient")
    assert isinstance(verdict, Waiting)
    assert row["state"] == "suspended"
    assert 3500 < (verdict.seconds or 0) <= 3600
    assert world.lines() == []


# Limits ---------------------------------------------------------------------------------------------------------------


def test_the_hard_limit_kills_what_never_looks_up_and_all_that_it_has_started(
    world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing: list[Callable[[], None]] = []

    def after(_seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        passing.append(action)
        return lambda: passing.remove(action)

    # It passes when something is started, however long that takes.
    monkeypatch.setattr(world.runtime.deadlines, "after", after)
    running = thread.submit(world.execute, "starter", timeouts={"hard": 1.5})
    world.until(world.lines)
    [passes] = passing
    passes()
    verdict, row = running.result(60)
    assert isinstance(verdict, Failed)
    assert (row["error"]["code"], row["crashes"]) == ("agent_timeout", 0)
    [started] = world.lines()
    assert world.until(lambda: is_gone(int(started)))


def test_what_an_agent_has_started_and_left_behind_ends_with_it(world: World) -> None:
    verdict, _ = world.execute("starter", "returns")
    assert isinstance(verdict, Done)
    [started] = world.lines()
    assert world.until(lambda: is_gone(int(started)))


@pytest.mark.parametrize(("agent", "soft"), [("asker", 0.3), ("sleeper", 0.3), ("late_sleeper", 0.01)])
def test_the_soft_limit_stops_a_sync_agent_at_its_next_effect_and_an_async_one_at_its_await(
    agent: str, soft: float, world: World
) -> None:
    _, row = world.execute(agent, timeouts={"soft": soft, "hard": 30})
    assert row["error"]["code"] == "agent_timeout"
    assert "soft" in row["error"]["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no such limit")
def test_an_agent_gets_no_more_memory_than_its_limit(world: World) -> None:
    verdict, row = world.execute("hog")
    assert isinstance(verdict, Failed)
    assert (row["error"]["code"], row["crashes"]) == ("agent_out_of_memory", 0)
    assert "96 MB" in row["error"]["message"]


# Stopping -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["asker", "sleeper", "spinner"])
def test_a_cancel_stops_it_at_its_next_effect_and_kills_what_makes_none(
    agent: str, world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "GRACE_SECONDS", 0.3 if agent == "spinner" else 60.0)
    running = thread.submit(world.execute, agent)
    world.until(world.lines)
    # Before the cancel: one that asks for something finds that out by itself, and has ended then.
    [execution] = world.runtime.executions.all()
    world.runtime.store.runs.cancel(world.run_id)
    world.runtime.stop(execution, ClaimLost("cancelled"))
    verdict, row = running.result(60)
    assert verdict == Ignored()
    assert (row["state"], row["crashes"]) == ("cancelled", 0)


def test_what_was_under_way_when_it_was_stopped_is_recorded_before_its_process_is_killed(
    world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go, looks = threading.Event(), threading.Event(), threading.Semaphore(0)

    def answer(_: object) -> str:
        asked.set()
        go.wait(60)
        return "paid for"

    model, look = MockLLM(answer), alone._Session._kill_what_goes_on  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(alone, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(alone._Session, "_kill_what_goes_on", lambda self: looks.release() or look(self))  # pyright: ignore[reportPrivateUsage, reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(world.runtime.providers, "providers_for", {"offline": (model,)}.__getitem__)
    running = thread.submit(world.execute, "thinker", suspect=True)
    assert asked.wait(60)
    [execution] = world.runtime.executions.all()
    world.runtime.stop(execution, ClaimLost("no heartbeat for a lease"))
    assert all(looks.acquire(timeout=60) for _ in range(3))
    go.set()
    running.result(60)
    [entry] = world.runtime.store.journal.entries(execution.claim.id)
    assert entry.outcome["text"] == "paid for"


def test_what_is_under_way_when_its_worker_leaves_is_recorded_before_it_is_handed_back(
    world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = threading.Event(), threading.Event()

    def answer(_: object) -> str:
        asked.set()
        go.wait(60)
        return "paid for"

    monkeypatch.setattr(world.runtime.providers, "providers_for", {"offline": (MockLLM(answer),)}.__getitem__)
    running = thread.submit(world.execute, "impatient")
    assert asked.wait(60)
    [execution] = world.runtime.executions.all()
    world.runtime.leave()
    world.until(world.lines)
    with pytest.raises(TimeoutError):
        running.result(0.3)
    go.set()
    verdict, row = running.result(60)
    assert (verdict, row["state"], row["crashes"]) == (Ignored(), "queued", 0)
    said = [entry.outcome for entry in world.runtime.store.journal.entries(execution.claim.id) if entry.kind == "model"]
    assert [outcome["text"] for outcome in said] == ["paid for"]


def test_what_one_agent_records_does_not_wait_for_the_model_of_another(
    world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go = threading.Event(), threading.Event()

    def answer(_: object) -> str:
        asked.set()
        go.wait(60)
        return "at last"

    monkeypatch.setattr(world.runtime.providers, "providers_for", {"offline": (MockLLM(answer),)}.__getitem__)
    world.runtime.isolation = replace(world.runtime.isolation, _threads=alone.Threads(calls=1, asks=1))
    running = thread.submit(world.execute, "thinker", suspect=True)
    try:
        assert asked.wait(60)
        steps, run_id = world.steps, world.run_id
        assert isinstance(world.execute("patient")[0], Waiting)
        assert world.lines() == ["once"]
        world.steps, world.run_id = steps, run_id
    finally:
        go.set()
    assert isinstance(running.result(60)[0], Done)


def test_suspects_beyond_so_many_wait_for_their_turn_and_can_be_stopped_there(
    world: World, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.runtime.isolation = replace(world.runtime.isolation, _suspects=alone.Turns(0))
    running = thread.submit(world.execute, "mourner", suspect=True)
    execution = world.until(lambda: next(iter(world.runtime.executions.all()), None))
    world.until(lambda: execution.interrupt)
    world.runtime.hand_back([execution])
    verdict, _ = running.result(60)
    assert verdict == Ignored()
    # Read here: the thread may have read it before it was handed back.
    row = world.steps.row(world.run_id, "t")
    assert (row["state"], row["suspect"], row["crashes"]) == ("queued", True, 0)


# Deaths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"),
    [("is killed", "signal 9 (SIGKILL)"), ("exits", "exit code 3"), ("hangs up", "exit code 1")],
)
def test_a_process_that_ends_without_an_outcome_is_a_crash_of_its_agent_and_the_worker_lives(
    how: str, reason: str, world: World
) -> None:
    verdict, row = world.execute("killer", how, suspect=True)
    assert isinstance(verdict, Retrying)
    assert reason in verdict.error.message
    assert (row["state"], row["crashes"], row["suspect"], row["failures"]) == ("queued", 1, True, 0)


def test_an_agent_that_dies_alone_as_often_as_it_may_is_quarantined_with_its_reason(world: World) -> None:
    identity = world.begin("killer", suspect=True, input={"ledger": str(world.ledger), "how": "is killed"})
    verdicts = [type(world.again(identity)[0]) for _ in range(3)]
    assert verdicts == [Retrying, Retrying, Failed]
    row = world.steps.row(world.run_id, "t")
    # Three deaths are three tries: the last one is not a failure beside.
    assert (row["state"], row["crashes"], row["suspect"], row["failures"]) == ("failed", 3, False, 0)
    assert row["error"]["code"] == "agent_crashed"
    assert "3 times" in row["error"]["message"]
    assert world.steps.state(world.run_id) is RunState.FAILED


def test_what_is_recorded_before_a_death_is_not_repeated_after_it(world: World) -> None:
    identity = world.begin("killer", suspect=True, input={"ledger": str(world.ledger), "how": "is killed"})
    for _ in range(3):
        world.again(identity)
    assert world.lines() == ["step"]


def test_a_quarantine_goes_on_as_the_task_says_of_failures(world: World) -> None:
    given = {"ledger": str(world.ledger), "how": "is killed"}
    after = TaskDefinition(id="after", agent="mourner", after=("t",))
    identity = world.begin("killer", after, suspect=True, input=given, on_error="continue")
    for _ in range(3):
        world.again(identity)
    assert world.steps.states(world.run_id) == {"t": "failed", "after": "queued"}
    assert isinstance(world.runtime.run(world.steps.id(world.run_id, "after"), frozenset()), Done)
    assert world.steps.row(world.run_id, "after")["output"] == {"after": "agent_crashed"}


def test_a_fallback_takes_over_from_the_quarantined_and_is_no_suspect(world: World) -> None:
    given = {"ledger": str(world.ledger), "how": "is killed"}
    identity = world.begin("killer", suspect=True, input=given, on_error={"fallback": "mourner"})
    for _ in range(3):
        world.again(identity)
    verdict, row = world.again(identity)
    assert isinstance(verdict, Done)
    assert (row["agent"], row["output"], row["crashes"]) == ("mourner", {"pid": os.getpid()}, 0)


def test_a_daemon_that_an_agent_leaves_behind_does_not_hide_its_death(world: World) -> None:
    verdict, _ = world.execute("killer", "leaves a daemon", suspect=True)
    assert isinstance(verdict, Retrying)
    assert "exit code 3" in verdict.error.message
    [_, daemon] = world.lines()
    os.kill(int(daemon), signal.SIGKILL)


# The fork server ------------------------------------------------------------------------------------------------------


def test_the_death_of_the_fork_server_is_nobodys_fault_and_the_next_child_has_another_one(
    world: World, thread: ThreadPoolExecutor
) -> None:
    own = ForkServer()
    world.runtime.isolation = replace(world.runtime.isolation, _server=own)
    try:
        running = thread.submit(world.execute, "spinner", suspect=True)
        child = int(world.until(world.lines)[0])
        server = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(server, signal.SIGKILL)
        verdict, row = running.result(60)
        assert isinstance(verdict, Retrying)
        assert isinstance(verdict.error, ForkServerLost)
        assert (row["state"], row["suspect"], row["crashes"], row["failures"]) == ("queued", True, 0, 0)
        assert world.until(lambda: is_gone(child))
        assert isinstance(world.execute("mourner", suspect=True)[0], Done)
    finally:
        own.close()


def test_children_and_fork_server_end_with_their_worker(folder: Path, tmp_path: Path) -> None:
    script = f"""
        import sys
        from pathlib import Path
        sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
        import test_isolation as here
        from orchestrator.store import schema
        from orchestrator.store.database import Database
        from datetime import timedelta
        database = Database("sqlite:///{tmp_path}/other.db", schema="x", pool_size=4,
                            connect_timeout=timedelta(seconds=4), prepare=True)
        schema.upgrade(database)
        store = here.Store(database)
        runtime = here.Runtime(store=store, advancer=here.Advancer(store, here.Nobody()),
                               agents=here.AgentLoader("{folder}", base=Path("/")).load(), providers=here.Providers({{}}),
                               settings=here.Settings(agents_path="{folder}"), worker_id=here.WORKER)
        here.World(runtime, Path("{tmp_path}/ledger")).execute("spinner")
    """
    worker = subprocess.Popen([sys.executable, "-c", dedent(script)])
    pause = threading.Event()
    try:
        ledger = tmp_path / "ledger"
        while worker.poll() is None and not (ledger.exists() and ledger.read_text().strip()):
            pause.wait(0.02)
        child = int(ledger.read_text())
        server = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    finally:
        worker.kill()
        worker.wait()
    while not (is_gone(child) and is_gone(server)):
        pause.wait(0.02)
