"""A task that names a tool: the tool in the place of an agent, with its checks, permissions, limits and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.kinds import ToolUse
from orchestrator.errors import InputInvalid, OutputInvalid, PluginInvalid
from orchestrator.planning.hints import did_you_mean
from worker.agent import AsyncContext, BaseAgent, Context
from worker.loop.granted import Granted
from worker.loop.using import names_of_arguments, one_of, tools_known_of
from worker.plugin import LoadedAgent, Shape
from worker.tools.registry import AnyTool, Named, ToolRegistry
from worker.tools.tool import Tool

_SAY = 'say with `input` what it gets, such as `input: {name: "${task.field}"}`'


def tool_agent(use: ToolUse, card: AgentCard, registry: ToolRegistry, *, limit_bytes: int) -> LoadedAgent:
    """Give a tool as an agent that can run: its input is the arguments by name, its output the tool's result as JSON.

    A plain function runs in the thread of its slot, a coroutine function on the event loop. Raises `PluginInvalid`.
    """
    kit, tool = _meant(use, registry)
    granted = Granted.to(use.permissions, (_named(use),), None, registry)
    granted = replace(granted, tools=(kit,))
    what = f"tool {use.name!r}"
    # A kit that a server tells of says only there which tools it has.
    name = use.wanted or use.kit if tool is None else tool.name

    class ToolTask(BaseAgent):
        def execute(self, data: Any, ctx: Context) -> Any:
            return _plain(ctx.tool(name, **_arguments(data, what, tool)), what, limit_bytes)

    class AsyncToolTask(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            return _plain(await ctx.tool(name, **_arguments(data, what, tool)), what, limit_bytes)

    is_async = tool is not None and tool.is_async
    digest = registry.digest_of(_named(use)) or card.digest
    card = card.model_copy(update={"digest": digest, "permissions": granted.permissions})
    agent_class = AsyncToolTask if is_async else ToolTask
    return LoadedAgent(card, agent_class, is_async=is_async, takes=Shape(), gives=Shape(), granted=granted)


def faults_of(use: ToolUse, given: Mapping[str, Any] | None, registry: ToolRegistry) -> Iterator[tuple[str, str]]:
    """Name what is wrong with a use of a tool, as far as it shows without calling it: the field of the task, and what.

    `given` is what the task says that the tool gets, None where that shows only when it runs.
    """
    try:
        _, tool = _meant(use, registry)
        Granted.to(use.permissions, (_named(use),), None, registry)
    except PluginInvalid as error:
        yield "tool", error.message
        return
    if given is None or tool is None:
        return
    known = tool.parameters.get("properties", {})
    if missing := [name for name in tool.parameters.get("required", ()) if name not in given]:
        yield "input", f"{tool.name} needs {', '.join(missing)}: {_SAY}"
    if tool.parameters.get("additionalProperties") is False:
        for name in given:
            if name not in known:
                takes = ", ".join(names_of_arguments(tool)) or "nothing"
                yield "input", f"{tool.name} takes no {name!r}{did_you_mean(name, known) or f', it takes {takes}'}"


def _meant(use: ToolUse, registry: ToolRegistry) -> tuple[AnyTool, Tool | None]:
    """Give the kit, and the tool of it that is meant, where that is known without asking a server."""
    kit = registry.resolve(_named(use))
    tools = tools_known_of(kit)
    if tools is None:
        if use.wanted is None:
            raise PluginInvalid(f"tool {use.kit!r} is a server's, which has several: write `tool: {use.kit}.name`")
        return kit, None
    return kit, one_of(tools, use.wanted, f"{use.kit!r}")


def _named(use: ToolUse) -> Named:
    return {use.kit: use.options} if use.options else use.kit


def _arguments(data: Any, what: str, tool: Tool | None) -> dict[str, Any]:
    if not isinstance(data, dict):
        takes = "" if tool is None else f" ({', '.join(names_of_arguments(tool)) or 'none'})"
        raise InputInvalid(f"{what} takes its arguments by name{takes} and was given a {type(data).__name__}: {_SAY}")
    return {str(name): value for name, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _plain(result: Any, what: str, limit_bytes: int) -> Any:
    """Give a result as JSON values, whole: it is told to no model."""
    try:
        plain = to_jsonable_python(result, by_alias=True, bytes_mode="base64")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise OutputInvalid(f"the result of {what} cannot be written as JSON: {error}") from None
    dump(plain, what=f"the result of {what}", limit_bytes=limit_bytes, error=OutputInvalid)
    return plain
