"""A tool in the place of an agent, and a tool that an agent calls itself: found, checked, permitted, and what it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.contracts.kinds import ToolUse
from orchestrator.errors import InputInvalid, OutputInvalid, PermissionDenied, PluginInvalid, ToolError
from orchestrator.planning.files import workflow_from_data
from worker.agent import AsyncContext, BaseAgent, Calculator, Context, Files, Needs, Toolkit, tool
from worker.loader import AgentLoader
from worker.nodes.builtin import BUILT_IN
from worker.nodes.tool import faults_of, tool_agent
from worker.plugin import LoadedAgent
from worker.testing import run_agent
from worker.tools.registry import Registered, ToolRegistry
from worker.tools.tool import Tool
from worker.tools.toolkit import ListedTools, RemoteToolkit


class Tide(BaseModel):
    port: str
    on: date


@tool
def tide(port: str, days: int = 1) -> Tide:
    """Tell the tide."""
    return Tide(port=port * days, on=date(2026, 5, 1))


@tool
async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


@tool
def refusing(why: str) -> str:
    raise ToolError(f"no: {why}")


@tool
def unstorable(size: int) -> Any:
    return object() if size == 0 else "x" * size


@tool(needs=Needs(env=("TIDES_KEY",)))
def keyed(ctx: Context) -> str:
    return ctx.env("TIDES_KEY")


class Box(Toolkit):
    @property
    def tools(self) -> Sequence[Tool]:
        return (tool(name="box_read")(lookup), tool(name="box_write")(lookup))


def lookup(key: str) -> str:
    return f"<{key}>"


class Far(RemoteToolkit):
    @property
    def name(self) -> str:
        return "far"

    def listed(self) -> ListedTools:
        return ListedTools()

    def tools_of(self, listed: ListedTools) -> Sequence[Tool]:
        del listed
        return (tool(name="far_greet")(lookup),)


def giving(value: Any) -> Any:
    return lambda: value


TOOLS = (tide, later, refusing, unstorable, keyed)
REGISTRY = ToolRegistry(
    [
        *(Registered(each.name, "tests", giving(each), "d1") for each in TOOLS),
        Registered("box", "tests", giving(Box())),
        Registered("far", "tests", giving(Far())),
    ]
)


def loaded(use: str | dict[str, Any], limit_bytes: int = 1000) -> LoadedAgent:
    named = workflow_from_data({"tasks": {"t": {"tool": use}}}, "data").tasks[0].tool
    assert named is not None
    return tool_agent(named, BUILT_IN["tool"].card, REGISTRY, limit_bytes=limit_bytes)


def given(use: str | dict[str, Any], data: Any, **options: Any) -> Any:
    """Run the agent that a tool becomes."""
    made = loaded(use, **options)
    granted = {"name": "stand", "tools": made.granted.tools, "permissions": made.granted.permissions}
    return run_agent(type("Stand", (made.agent_class,), granted), data)


def test_a_tool_gets_its_arguments_by_name_and_gives_its_result_as_json() -> None:
    assert given("tide", {"port": "Rye", "days": 2}) == {"port": "RyeRye", "on": "2026-05-01"}
    assert given("calculator.calculate", {"expression": "4.50 * 12"}) == "54"


def test_a_coroutine_function_is_awaited_on_the_loop() -> None:
    assert loaded("later").is_async
    assert given("later", {"text": "a"}) == "A"


@pytest.mark.parametrize("name", ["box.box_read", "box.read"])
def test_a_tool_of_a_kit_has_its_own_name_or_what_follows_the_kits_in_it(name: str) -> None:
    assert given(name, {"key": "a"}) == "<a>"


def test_a_kit_with_one_tool_is_enough_and_options_go_to_the_kit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ships.")
    assert given("calculator", {"expression": "1 + 1"}) == "2"
    assert given({"name": "files.read", "options": {"root": str(tmp_path)}}, {"path": "a.txt"}) == "Ships."


def test_a_tool_of_a_server_is_found_when_it_runs() -> None:
    assert given("far.greet", {"key": "a"}) == "<a>"
    with pytest.raises(PluginInvalid, match="the agent has no tool 'gret'"):
        given("far.gret", {"key": "a"})


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ("tid", "there is no tool 'tid', did you mean 'tide'?"),
        ("tide.low", "'tide' has no tool 'low': there are tide"),
        ("box", "'box' has several tools: say which one, box_read, box_write"),
        ("box.raed", "'box' has no tool 'raed'"),
        ("far", "tool 'far' is a server's, which has several: write `tool: far.name`"),
        ({"name": "calculator.calculate", "options": {"digits": 3}}, "calculator"),
        ({"name": "tide", "options": {"port": "x"}}, "takes no options: name it alone"),
    ],
)
def test_a_tool_that_there_is_not_is_refused_with_those_that_there_are(use: Any, words: str) -> None:
    with pytest.raises(PluginInvalid) as caught:
        loaded(use)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"prot": "a"}, "the arguments do not fit tide: port: Field required; prot: Extra inputs are not permitted"),
        ({"port": "a", "days": "many"}, "days: Input should be a valid integer"),
        ([1], "tool 'tide' takes its arguments by name (port, days?) and was given a list: say with `input`"),
        ("a", "and was given a str"),
    ],
)
def test_arguments_that_do_not_fit_are_told_with_what_the_tool_takes(data: Any, words: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        given("tide", data)
    assert words in caught.value.message


def test_what_a_tool_raises_fails_the_task_and_what_is_no_json_or_too_long_too() -> None:
    with pytest.raises(ToolError, match="no: rain"):
        given("refusing", {"why": "rain"})
    with pytest.raises(OutputInvalid):
        given("unstorable", {"size": 0})
    assert len(given("unstorable", {"size": 30_000}, limit_bytes=100_000)) == 30_000, "no model is told it: it is whole"
    with pytest.raises(Exception, match="the limit is 1,000"):
        given("unstorable", {"size": 2000})


def test_what_a_tool_needs_is_permitted_by_naming_it_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDES_KEY", "k1")
    assert given("keyed", {}) == "k1"
    assert loaded("tide").granted.permissions.env == ()
    more = loaded({"name": "tide", "permissions": {"env": ["TIDES_KEY"]}})
    assert more.granted.permissions.env == ("TIDES_KEY",)


def test_the_file_of_a_tool_is_its_version() -> None:
    assert loaded("tide").card.digest == "d1"
    assert loaded("calculator").card.digest == "built in"


@pytest.mark.parametrize(
    ("use", "said", "found"),
    [
        ("tide", None, []),
        ("tide", {"port": "${input.p}"}, []),
        ("tide", {}, [("input", "tide needs port: say with `input`")]),
        ("tide", {"port": "a", "dys": 1}, [("input", "tide takes no 'dys', did you mean 'days'?")]),
        ("tdie", {}, [("tool", "there is no tool 'tdie'")]),
        ("far.anything", {"x": 1}, []),
    ],
)
def test_what_is_wrong_with_a_use_shows_before_it_runs(use: str, said: Any, found: list[tuple[str, str]]) -> None:
    faults = list(faults_of(ToolUse(name=use), said, REGISTRY))
    assert [field for field, _ in faults] == [field for field, _ in found]
    assert all(words in fault for (_, fault), (_, words) in zip(faults, found, strict=True))


def test_a_file_of_tools_that_breaks_keeps_what_it_had(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / "tools"
    folder.mkdir(parents=True)
    source = "from worker.agent import tool\n@tool\ndef ebb(port: str) -> str:\n    return port\n"
    (folder / "tides.py").write_text(source)
    loader = AgentLoader("agents", base=tmp_path)
    before = loader.load().tools
    (folder / "tides.py").write_text(f"{source}\nthis is no Python")
    after = loader.load().tools
    assert "ebb" in before.names
    assert "ebb" not in after.names
    assert "ebb" in after.keeping(before).names


# ctx.tool -------------------------------------------------------------------------------------------------------------


class Clerk(BaseAgent):
    tools = (Calculator(), tide)

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        return ctx.tool(data["tool"], **data["given"])


class AsyncClerk(BaseAgent):
    tools = (Calculator(), later)

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        return [await ctx.tool(later, text="a"), await ctx.tool("calculate", expression="2 * 3")]


class Nosy(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        return ctx.tool(Files(".").tools[0])


def test_an_agent_calls_a_tool_of_its_own_by_name_or_as_it_is() -> None:
    found = run_agent(Clerk, {"tool": "calculate", "given": {"expression": "1 + 1"}})
    assert found == "2"
    assert run_agent(AsyncClerk, {}) == ["A", "6"]


def test_a_tool_that_an_agent_does_not_have_is_refused() -> None:
    with pytest.raises(PluginInvalid, match=r"the agent has no tool 'calcualte', did you mean 'calculate'\?"):
        run_agent(Clerk, {"tool": "calcualte", "given": {}})
    with pytest.raises(PermissionDenied, match=r"add permissions = Permissions\(folders="):
        run_agent(Nosy, {})


def test_arguments_of_an_agents_own_call_are_checked() -> None:
    with pytest.raises(
        InputInvalid, match=r"the arguments do not fit tide: port: Field required \(it takes port, days\?\)"
    ):
        run_agent(Clerk, {"tool": "tide", "given": {}})
