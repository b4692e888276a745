"""What an agent declares holds in a worker too, in its threads and in a process of an agent's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from orchestrator import Orchestrator, RunFailed, Settings

AGENTS = """
    from worker.agent import BaseAgent, Permissions, PermissionDenied

    class {name}(BaseAgent):
        isolation = "{isolation}"
        tools = ("shout", "calculator")
        permissions = Permissions(env=("TEAM_NAME",), models=("openai:*",))

        def execute(self, data, ctx):
            if "env" in data:
                return {{"value": ctx.env(data["env"])}}
            return {{"text": ctx.llm("Hello.", fallback=data["fallback"], tools=["http"])}}
"""
TOOLS = """
    from worker.agent import tool

    @tool
    def shout(text: str) -> str:
        '''Shout.'''
        return text.upper()
"""


@pytest.fixture
def nf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    (tmp_path / "agents" / "tools").mkdir(parents=True)
    for name, isolation in (("Inside", "thread"), ("Apart", "process")):
        source = AGENTS.format(name=name, isolation=isolation)
        (tmp_path / "agents" / f"{name.lower()}.py").write_text(dedent(source))
    (tmp_path / "agents" / "tools" / "own.py").write_text(dedent(TOOLS))
    monkeypatch.setenv("TEAM_NAME", "harbour")
    monkeypatch.setenv("OTHER_NAME", "nobody's business")
    settings = Settings(home=tmp_path / "home", agents_path=str(tmp_path / "agents"))
    with Orchestrator.embedded(settings=settings) as made:
        yield made


@pytest.mark.parametrize("agent", ["inside", "apart"])
def test_an_agent_reads_the_variables_that_it_declares_and_no_others(nf: Orchestrator, agent: str) -> None:
    assert nf.submit(agent, {"env": "TEAM_NAME"}).result(timeout=60) == {"value": "harbour"}
    with pytest.raises(RunFailed, match=r"Permissions\(env=\('OTHER_NAME',\)\)") as raised:
        nf.submit(agent, {"env": "OTHER_NAME"}).result(timeout=60)
    assert "nobody's business" not in str(raised.value)


@pytest.mark.parametrize("agent", ["inside", "apart"])
def test_a_call_has_neither_models_nor_tools_that_are_not_declared(nf: Orchestrator, agent: str) -> None:
    with pytest.raises(RunFailed, match=r"Permissions\(models=\('anthropic:x',\)\)"):
        nf.submit(agent, {"fallback": "anthropic:x"}).result(timeout=60)
    with pytest.raises(RunFailed, match=r"the agent does not declare the tool 'http'"):
        nf.submit(agent, {"fallback": "openai:x"}).result(timeout=60)
