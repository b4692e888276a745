"""A tool that code calls rather than a model: found, checked, permitted, limited and recorded in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from orchestrator.errors import InputInvalid, PluginInvalid, ToolError
from orchestrator.planning.hints import did_you_mean
from worker.llm.message import ToolCall
from worker.loop.calling import performed
from worker.loop.granted import Granted
from worker.loop.steps import Steps
from worker.loop.toolset import all_tools
from worker.tools.tool import Tool, as_tool
from worker.tools.toolkit import RemoteToolkit, Toolkit


def used(granted: Granted, named: str | Tool | Callable[..., Any], arguments: Mapping[str, Any]) -> Steps[Any]:
    """Call a tool that an agent has, by its name, or one that needs no more than the agent declares; gives its result.

    Raises `InputInvalid` for arguments that do not fit, `PluginInvalid` for a name that none of its tools has,
    `PermissionDenied`, and what the tool raises.
    """
    tool = (yield from _found(granted, named)) if isinstance(named, str) else as_tool(granted.allowed(named))
    call = ToolCall(id=tool.name, name=tool.name, arguments=_as_json(tool, arguments))
    try:
        tool.arguments_of(call)
    except ToolError as error:
        raise InputInvalid(f"{error.message} (it takes {', '.join(names_of_arguments(tool)) or 'nothing'})") from None
    return (yield from performed(tool, call))


def one_of(tools: Mapping[str, Tool], name: str | None, what: str) -> Tool:
    """Give the tool of a kit that is meant: by its name, by what follows the kit's in it, or the only one without a name.

    Raises `PluginInvalid` naming those that there are.
    """
    if name is not None and name in tools:
        return tools[name]
    meant = [tool for key, tool in tools.items() if name is None or key.endswith(f"_{name}")]
    if len(meant) == 1:
        return meant[0]
    there = ", ".join(tools) or "none"
    if name is None:
        raise PluginInvalid(f"{what} has several tools: say which one, {there}")
    hint = did_you_mean(name, tools) or f": there are {there}"
    raise PluginInvalid(f"{what} has no tool {name!r}{hint}")


def names_of_arguments(tool: Tool) -> tuple[str, ...]:
    """Give the names of what a tool takes, those that may be left out with a question mark."""
    required = tool.parameters.get("required", ())
    return tuple(name if name in required else f"{name}?" for name in tool.parameters.get("properties", {}))


def _found(granted: Granted, name: str) -> Steps[Tool]:
    given = granted.usable
    # No server is asked for what is known without it.
    here = yield from all_tools([each for each in given if not isinstance(each, RemoteToolkit)])
    if name in here:
        return here[name]
    return one_of((yield from all_tools(given)), name, "the agent")


def _as_json(tool: Tool, arguments: Mapping[str, Any]) -> str:
    try:
        return to_json(arguments, by_alias=True, bytes_mode="base64").decode()
    except PydanticSerializationError as error:
        raise InputInvalid(f"an argument of {tool.name} is no JSON: {error}") from None


def tools_known_of(kit: Tool | Toolkit | RemoteToolkit) -> Mapping[str, Tool] | None:
    """Give the tools of a kit by name, None where a server has to be asked."""
    match kit:
        case RemoteToolkit():
            return None
        case Toolkit():
            return {tool.name: tool for tool in kit.tools}
        case Tool():
            return {kit.name: kit}
