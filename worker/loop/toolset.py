"""Which tools a conversation has: those that are named, those of kits, and those that servers tell of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.errors import PluginInvalid
from worker.effects.base import RunStep, step_flow
from worker.loop.calling import READ_RESULT
from worker.loop.options import Tools
from worker.loop.steps import Perform, Steps
from worker.tools.tool import Tool, as_tool
from worker.tools.toolkit import ListedTools, RemoteToolkit, Toolkit


def all_tools(given: Tools) -> Steps[dict[str, Tool]]:
    """Give the tools by name; raises `PluginInvalid` for two of one name. What servers tell is recorded."""
    found: dict[str, Tool] = {}
    for each in given:
        for one in (yield from _of(each)):
            if one.name in found or one.name == READ_RESULT.name:
                raise PluginInvalid(f"two tools are named {one.name!r}: say tool(name=...) for one of them")
            found[one.name] = one
    return found


def _of(given: Any) -> Steps[Iterable[Tool]]:
    match given:
        case Toolkit():
            return given.tools
        case RemoteToolkit():
            listed: ListedTools = yield Perform(step_flow(RunStep(_list_tools, (given.name,), {"kit": given})))
            return given.tools_of(listed)
        case _:
            return [as_tool(given)]


def _list_tools(name: str, kit: RemoteToolkit) -> ListedTools:
    del name  # it tells the kit from others where the step is recorded
    return kit.listed()
