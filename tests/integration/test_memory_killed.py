"""What is remembered when workers are killed in the middle of it: everything, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, fleet

from orchestrator.contracts.memory import MemoryScope, SessionRef
from orchestrator.contracts.run import RunState
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID

AGENT = """
from worker.agent import AsyncContext, BaseAgent, Context


class Keeper(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        session = ctx.memory.session("ada")
        for number in range(data["count"]):
            ctx.memory.remember(f"fact {number}", kind="episodic")
            session.append({"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "yes"})
        found = ctx.memory.recall("fact 1", limit=1)
        return {"found": found[0].text, "said": len(session.messages())}


class AsyncKeeper(BaseAgent):
    name = "async_keeper"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        session = ctx.memory.session("ada")
        for number in range(data["count"]):
            await ctx.memory.remember(f"fact {number}", kind="episodic")
            await session.append({"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "yes"})
        found = await ctx.memory.recall("fact 1", limit=1)
        return {"found": found[0].text, "said": len(await session.messages())}


class Alone(Keeper):
    isolation = "process"
"""
QUICK: dict[str, Any] = {"heartbeat": 0.5, "lease_ttl": 8, "idle_grace": 1}
COUNT = 4


def remembered(installation: Fleet, agent: str) -> tuple[list[str], list[str]]:
    """Give what an agent remembers, and what was said to it."""
    store = installation.kernel.store
    scope = MemoryScope.of_agent(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, agent)
    said = store.sessions.read(SessionRef(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, agent, "ada"), limit=1000)
    return sorted(item.text for item in store.memories.list(scope, limit=1000)), said


@pytest.mark.parametrize(
    ("agent", "point", "nth"),
    [
        ("keeper", "after_remember", 1),
        ("keeper", "after_remember", 4),
        ("async_keeper", "after_remember", 3),
        ("keeper", "after_record", 3),
        ("alone", "after_remember", 2),
    ],
)
def test_a_kill_between_the_write_and_its_record_writes_nothing_twice(
    tmp_path: Path, agent: str, point: str, nth: int
) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/keeper.py").write_text(AGENT)
    with fleet(tmp_path, "redis", agents_path=tmp_path / "agents", **QUICK) as installation:
        doomed = installation.start_worker(NIGHTFLEET_FAILPOINTS=f"{point}=kill:{nth}")
        run = installation.orchestrator.submit(agent, {"count": COUNT})
        doomed.wait(60)
        installation.start_worker()
        done = run.wait(90)
        assert done.state is RunState.SUCCEEDED, done.error
        assert done.output == {"found": "fact 1", "said": 2 * COUNT}
        assert done.agent_runs[0].epoch == 2
        facts, said = remembered(installation, agent)
        assert facts == [f"fact {number}" for number in range(COUNT)]
        assert len(said) == 2 * COUNT
        assert [each for each in said if "question" in each] == [
            f'{{"role":"user","content":"question {number}"}}' for number in range(COUNT)
        ]
