"""Agents whose model calls tools of services that may be asked only so often; each call is a line of a ledger outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from worker.agent import (
    AsyncContext,
    BaseAgent,
    Context,
    MCPToolkit,
    Permissions,
    ServiceLimit,
    Stdio,
    ToolRules,
    adapter,
    tool,
)

MAPS = ServiceLimit(service="maps", requests_per_minute=120, burst_seconds=1)
SERVER = Path(__file__).parents[1] / "mcp_servers" / "shop.py"


def note(event: str) -> None:
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, f"{event}\n".encode())
    finally:
        os.close(handle)


@tool(limit=MAPS, at_most_once=True)
def locate(place: str) -> str:
    """Find a place."""
    note(f"locate {place}")
    return f"{place} is here"


class Mapper(BaseAgent):
    model = "openai:emulated-small"

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"said": ctx.llm(data["text"], tools=[locate], cache=False)}


class AsyncMapper(BaseAgent):
    model = "openai:emulated-small"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        return {"said": await ctx.llm(data["text"], tools=[locate], cache=False)}


class AloneMapper(Mapper):
    """Asks from a process of its own."""

    isolation = "process"


class Shopper(BaseAgent):
    """Has the tools of a server of MCP, and of an adapter that the installation names."""

    model = "openai:emulated-small"
    permissions = Permissions(env=("LEDGER",))

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        shop = MCPToolkit(
            "shop", Stdio(command=(sys.executable, str(SERVER)), env=("LEDGER",)), ToolRules(only=("buy",))
        )
        answered = ctx.converse(data["text"], tools=[shop, adapter("crm")], cache=False)
        return {"told": [message.text for message in answered.messages if message.role == "tool"]}


class AloneShopper(Shopper):
    """Has them in a process of its own."""

    isolation = "process"
