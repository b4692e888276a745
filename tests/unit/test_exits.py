"""Agents that want to end more than themselves: their process, their event loop, their thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from steps import WORKER, Steps, plan_of

from orchestrator.advance import Advancer
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from worker.execution import Done, Failed, Verdict, Waiting
from worker.llm.providers import Providers
from worker.loader import AgentLoader
from worker.runtime import Runtime

AGENTS = '''
import asyncio, sys
from pathlib import Path
from worker.agent import AsyncContext, BaseAgent, Context


class Exits(BaseAgent):
    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        sys.exit(3)


class ExitsInATask(BaseAgent):
    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        async def work():
            sys.exit(3)

        await asyncio.create_task(work())
        return {}


class ExitsInAStep(BaseAgent):
    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        async def work():
            sys.exit(3)

        await ctx.step(work)
        return {}


class Interrupts(BaseAgent):
    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        raise KeyboardInterrupt


class SyncInterrupts(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        raise KeyboardInterrupt


class SyncCancels(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        raise asyncio.CancelledError


class IsolatedInterrupts(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        raise KeyboardInterrupt


class Lingers(BaseAgent):
    """Leaves tasks behind: one of its own code, and one that a step has made."""

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        begun = asyncio.Event()

        async def linger(name):
            try:
                begun.set()
                await asyncio.sleep(3600)
            finally:
                (Path(data["folder"]) / name).touch()

        async def step():
            KEPT.append(asyncio.create_task(linger("of a step")))

        KEPT.append(asyncio.create_task(linger("own")))
        await begun.wait()
        await ctx.step(step)
        if data["how"] == "waits":
            await ctx.sleep(3600)
        if data["how"] == "fails":
            raise ValueError("no")
        return {}


KEPT = []


class Innocent(BaseAgent):
    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        return {"length": await ctx.step(len, "four")}
'''


class Nobody:
    """A broker that takes everything."""

    def publish(self, messages: Any) -> None:
        del messages


@pytest.fixture
def runtime(sqlite: Database, tmp_path: Path) -> Iterator[Runtime]:
    (tmp_path / "exits.py").write_text(AGENTS)
    agents = AgentLoader(str(tmp_path), base=tmp_path).load()
    assert agents.problems == ()
    store = Store(sqlite)
    made = Runtime(
        store=store,
        advancer=Advancer(store, cast("Any", Nobody())),
        agents=agents,
        providers=Providers({}),
        settings=Settings(agents_path=str(tmp_path)),
        worker_id=WORKER,
    )
    yield made
    made.loop.close()
    made.isolation.close()


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("exits", "SystemExit: 3"),
        ("exits_in_a_task", "SystemExit: 3"),
        ("exits_in_a_step", "SystemExit: 3"),
        ("interrupts", "KeyboardInterrupt"),
        ("sync_interrupts", "KeyboardInterrupt"),
        ("sync_cancels", "CancelledError"),
        ("isolated_interrupts", "KeyboardInterrupt"),
    ],
)
def test_what_ends_a_process_elsewhere_ends_this_agent_alone(runtime: Runtime, agent: str, message: str) -> None:
    tasks = [TaskDefinition.model_validate({"id": name, "agent": name}) for name in (agent, "innocent")]
    steps = Steps(runtime.store, plan_of(*tasks))
    [run_id] = steps.start()
    verdict = runtime.run(steps.id(run_id, agent), frozenset())
    assert isinstance(verdict, Failed)
    assert verdict.error.message == message
    assert steps.row(run_id, agent)["crashes"] == 0
    [other] = steps.start()
    assert isinstance(runtime.run(steps.id(other, "innocent"), frozenset()), Done)
    assert steps.states(other)["innocent"] == AgentRunState.SUCCEEDED


@pytest.mark.parametrize(("how", "verdict"), [("returns", Done), ("waits", Waiting), ("fails", Failed)])
def test_tasks_of_an_agents_own_code_end_with_it_and_those_of_its_steps_do_not(
    runtime: Runtime, tmp_path: Path, how: str, verdict: type[Verdict]
) -> None:
    given = {"folder": str(tmp_path), "how": how}
    steps = Steps(
        runtime.store, plan_of(TaskDefinition.model_validate({"id": "t", "agent": "lingers", "input": given}))
    )
    [run_id] = steps.start()
    assert isinstance(runtime.run(steps.id(run_id, "t"), frozenset()), verdict)
    pause = threading.Event()
    assert any((tmp_path / "own").exists() or pause.wait(0.01) for _ in range(6_000))
    assert not (tmp_path / "of a step").exists()
