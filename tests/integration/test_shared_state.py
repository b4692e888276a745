"""What runs share on a fleet: nothing twice and nothing lost whatever is killed, and nobody asleep who waits for a change."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, fleet

from orchestrator import Orchestrator, RunHandle, Settings, TaskDefinition, WorkflowDefinition, parallel
from orchestrator.clock import system_clock
from orchestrator.contracts.run import RunState

AGENTS = """
import asyncio

from worker.agent import AsyncContext, BaseAgent, Context


class Writer(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        for number in range(data["count"]):
            ctx.state.update("total", lambda old: (old or 0) + 1)
            ctx.state.set(f"{ctx.task}/{number}", "text " * 100)
            ctx.state.own.set("last", number)
        return {"total": ctx.state.get("total"), "last": ctx.state.own.get("last")}


class AsyncWriter(BaseAgent):
    name = "async_writer"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        for number in range(data["count"]):
            await ctx.state.update("total", lambda old: (old or 0) + 1)
            await ctx.state.set(f"{ctx.task}/{number}", "text " * 100)
            await ctx.state.own.set("last", number)
        return {"total": await ctx.state.get("total"), "last": await ctx.state.own.get("last")}


class Alone(Writer):
    isolation = "process"


class Ping(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        since, mine, theirs = 0, *data["keys"]
        for number in range(data["count"]):
            if data["first"]:
                ctx.state.set(mine, number)
            found = ctx.state.watch(theirs, since=since)
            since = found.version
            if not data["first"]:
                ctx.state.set(mine, number)
        return {"since": since}


class PingAlone(Ping):
    name = "ping_alone"
    isolation = "process"


class Late(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        found = ctx.state.watch("never", timeout=data["timeout"])
        return {"found": found is not None}


class Collector(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        found, since = {}, 0
        while len(found) < data["count"]:
            for each in ctx.state.watch_prefix("found/", since=since):
                found[each.key], since = each.value, each.number
        return found


class Finder(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.state.set(f"found/{ctx.task}", ctx.task)
        return {}
"""
QUICK: dict[str, Any] = {"heartbeat": 0.5, "lease_ttl": 5, "idle_grace": 1, "suspend_after": 0.1}
COUNT = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/sharers.py").write_text(AGENTS)
    return tmp_path


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline, pause = system_clock.monotonic() + 90, threading.Event()
    while not (found := condition()):
        assert system_clock.monotonic() < deadline, what
        pause.wait(0.02)
    return found


def states(run: RunHandle) -> Counter[str]:
    return Counter(str(part.state) for part in run.snapshot().agent_runs)


def check_total(run: RunHandle, writers: int) -> None:
    """Check that each writer's updates are all there, once, with no version left out."""
    history = run.shared("total").values
    assert [each.value for each in history] == [each.version for each in history] == list(range(1, writers * COUNT + 1))
    assert set(Counter(each.task for each in history).values()) == {COUNT}
    values = run.shared().values
    assert len(values) == 1 + writers * (COUNT + 1)
    assert all(each.version == COUNT for each in values if each.namespace)
    assert all(each.version == 1 for each in values if "/" in each.key)


# Kills ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "broker", "point", "nth"),
    [
        ("writer", "redis", "before_change", 2),
        ("writer", "rabbitmq", "amid_change", 1),
        ("writer", "redis", "amid_change", 4),
        ("writer", "rabbitmq", "after_change", 1),
        ("async_writer", "redis", "after_change", 5),
        ("alone", "rabbitmq", "after_change", 3),
        ("alone", "redis", "amid_change", 2),
    ],
)
def test_a_kill_around_a_change_and_its_record_changes_nothing_twice(
    folder: Path, agent: str, broker: str, point: str, nth: int
) -> None:
    with fleet(folder, broker, agents_path=folder / "agents", **QUICK) as installation:
        doomed = installation.start_worker(NIGHTFLEET_FAILPOINTS=f"{point}=kill:{nth}")
        run = installation.orchestrator.submit(agent, {"count": COUNT})
        doomed.wait(60)
        installation.start_worker()
        done = run.wait(90)
        assert done.state is RunState.SUCCEEDED, done.error
        assert done.output == {"total": COUNT, "last": COUNT - 1}
        assert done.agent_runs[0].epoch == 2
        check_total(run, 1)


def test_whom_a_killed_writer_has_woken_is_published_by_others(folder: Path) -> None:
    with fleet(folder, "redis", agents_path=folder / "agents", **QUICK) as installation:
        waiting = installation.start_worker(NIGHTFLEET_QUEUES="collector")
        run = installation.orchestrator.submit(parallel("collector", "finder"), {"count": 1})
        until(lambda: states(run)["suspended"] == 1, "one waits")
        doomed = installation.start_worker(NIGHTFLEET_QUEUES="finder", NIGHTFLEET_FAILPOINTS="after_change=kill:1")
        doomed.wait(60)
        assert waiting.poll() is None
        until(lambda: states(run)["succeeded"] == 1, "it goes on though nobody has published it")
        installation.start_worker(NIGHTFLEET_QUEUES="finder")
        done = run.wait(90)
        assert done.output == {"collector": {"found/finder": "finder"}, "finder": {}}
        [value] = run.shared().values
        assert value.version == 1


# Waiting --------------------------------------------------------------------------------------------------------------


def ping(first: str, second: str, count: int) -> Any:
    def side(name: str, agent: str, *, begins: bool, keys: list[str]) -> TaskDefinition:
        return TaskDefinition.model_validate(
            {"id": name, "agent": agent, "input": {"first": begins, "keys": keys, "count": count}}
        )

    tasks = (
        side("one", first, begins=True, keys=["a", "b"]),
        side("two", second, begins=False, keys=["b", "a"]),
    )
    return WorkflowDefinition(tasks=tasks)


@pytest.mark.parametrize(
    ("broker", "sides"),
    [("rabbitmq", ("ping", "ping")), ("redis", ("ping", "ping")), ("redis", ("ping", "ping_alone"))],
)
def test_two_agents_wait_for_each_other_in_turn_on_one_slot(folder: Path, broker: str, sides: tuple[str, str]) -> None:
    count = 10
    with fleet(folder, broker, agents_path=folder / "agents", concurrency=1, **QUICK) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(ping(*sides, count))
        done = run.wait(120)
        assert done.state is RunState.SUCCEEDED, done.error
        assert {name: output["since"] for name, output in done.output.items()} == {"one": count, "two": count}
        assert [len(run.shared(key).values) for key in "ab"] == [count, count]


@pytest.mark.parametrize("broker", BROKERS)
def test_one_collects_what_many_on_several_workers_find(folder: Path, broker: str) -> None:
    finders = [TaskDefinition(id=f"f{number}", agent="finder") for number in range(20)]
    collector = TaskDefinition.model_validate({"id": "collector", "agent": "collector", "input": {"count": 20}})
    with fleet(folder, broker, agents_path=folder / "agents", **QUICK) as installation:
        for _ in range(2):
            installation.start_worker()
        runs = [installation.orchestrator.submit(WorkflowDefinition(tasks=(collector, *finders))) for _ in range(5)]
        for run in runs:
            done = run.wait(120)
            assert done.state is RunState.SUCCEEDED, done.error
            assert done.output["collector"] == {f"found/f{number}": f"f{number}" for number in range(20)}


def test_32_writers_in_four_processes_lose_nothing(folder: Path) -> None:
    agents = ("writer", "async_writer")
    tasks = [
        TaskDefinition.model_validate({"id": f"w{number}", "agent": agents[number % 2], "input": {"count": COUNT}})
        for number in range(32)
    ]
    with fleet(folder, "redis", agents_path=folder / "agents", **QUICK) as installation:
        for _ in range(4):
            installation.start_worker()
        run = installation.orchestrator.submit(WorkflowDefinition(tasks=tuple(tasks)))
        done = run.wait(180)
        assert done.state is RunState.SUCCEEDED, done.error
        check_total(run, 32)


# Embedded -------------------------------------------------------------------------------------------------------------


def embedded(folder: Path) -> Orchestrator:
    values: dict[str, Any] = {
        "suspend_after": 0.1,
        "home": folder / "home",
        "agents_path": str(folder / "agents"),
        "shared_keys": 40,
    }
    return Orchestrator.embedded(settings=Settings(**values))


def test_an_embedded_installation_shares_and_waits_too(folder: Path) -> None:
    with embedded(folder) as nf:
        run = nf.submit(ping("ping", "ping_alone", 3))
        late = nf.submit("late", {"timeout": 0.3})
        assert run.wait(90).state is RunState.SUCCEEDED
        assert late.result(60) == {"found": False}
        writers = nf.submit("[a=writer, b=async_writer, c=alone]", {"count": COUNT})
        assert writers.wait(90).state is RunState.SUCCEEDED
        check_total(writers, 3)


def test_who_waits_for_a_change_is_suspended_and_a_bound_is_an_error_of_the_agent(folder: Path) -> None:
    with embedded(folder) as nf:
        run = nf.submit("collector", {"count": 1})
        until(lambda: states(run)["suspended"] == 1, "it waits")
        [part] = run.snapshot().agent_runs
        assert part.waiting_for == "waits for a change of found/* since 0"
        run.cancel()
        full = nf.submit("writer", {"count": 41})
        error = full.wait(60).error
        assert error is not None
        assert (error.code, error.retryable) == ("value_too_large", False)
        assert "NIGHTFLEET_SHARED_KEYS" in error.message


def test_a_fork_goes_on_with_what_its_run_has_shared(folder: Path) -> None:
    with embedded(folder) as nf:
        first = TaskDefinition.model_validate({"id": "a", "agent": "writer", "input": {"count": COUNT}})
        second = TaskDefinition.model_validate(
            {"id": "b", "agent": "writer", "after": ["a"], "input": {"count": COUNT}}
        )
        run = nf.submit(WorkflowDefinition(tasks=(first, second)), {})
        run.wait(60)
        forked = nf.fork(run, from_task="b", input={"count": 1})
        assert forked.wait(60).output == {"total": COUNT + 1, "last": 0}
        assert [each.task for each in forked.shared("total").values] == ["a"] * COUNT + ["b"]
        assert [each.version for each in run.shared("last", task="b").values] == [1, 2, 3]


def test_a_stored_run_is_replayed_with_what_it_has_seen(folder: Path) -> None:
    from worker.testing import replay

    with embedded(folder) as nf:
        run = nf.submit("writer", {"count": COUNT})
        run.wait(60)
        settings = nf.service.kernel.settings
        again = replay(run.id, settings=settings)
    assert (again.verdict, [effect.kind for effect in again.effects]) == ("same", ["state"] * (3 * COUNT + 2))
