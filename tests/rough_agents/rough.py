"""Agents to which models, servers and tools are as bad as they can be, and one that has nothing to do with them."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from worker.agent import (
    AsyncContext,
    BaseAgent,
    Context,
    MCPToolkit,
    OpenAPI,
    OpenAPIToolkit,
    Permissions,
    Stdio,
    ToolRules,
    tool,
)

SERVER = Path(__file__).parents[1] / "mcp_servers" / "raw.py"


class Sum(BaseModel):
    total: int


@tool
def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@tool(name="add")
async def add_async(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


@tool(timeout=0.5)
def hang() -> str:
    """Never return."""
    threading.Event().wait()
    return "never"


@tool
def flood() -> str:
    """Tell too much for any record."""
    return "x" * 20_000_000


class Asker(BaseAgent):
    model = "openai:emulated-small"

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        answered = ctx.converse(data["text"], tools=self.given(), cache=False, max_output_tokens=16_000)
        told = [message.text for message in answered.messages if message.role == "tool"]
        return {"said": answered.text, "told": told[:10], "results": len(told)}

    def given(self) -> list[Any]:
        return [add, hang, flood]


class AsyncAsker(BaseAgent):
    model = "openai:emulated-small"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        answered = await ctx.converse(data["text"], tools=[add_async], cache=False, max_output_tokens=16_000)
        told = [message.text for message in answered.messages if message.role == "tool"]
        return {"said": answered.text, "told": told[:10], "results": len(told)}


class ShopAsker(Asker):
    """Has the tools of a server that dies and lies."""

    def given(self) -> list[Any]:
        spec = os.environ["NIGHTFLEET_TEST_SERVER"]
        return [MCPToolkit("raw", Stdio(command=(sys.executable, str(SERVER), spec)), ToolRules(timeout_seconds=60))]


class ServiceAsker(Asker):
    """Has the operations of a document that leads to itself."""

    permissions = Permissions(network=("127.0.0.1:9",))

    def given(self) -> list[Any]:
        document = os.environ["NIGHTFLEET_TEST_DOCUMENT"]
        return [OpenAPIToolkit("odd", OpenAPI(document=document, base_url="http://127.0.0.1:9"))]


class Counter(BaseAgent):
    model = "openai:emulated-small"

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"total": ctx.llm(data["text"], output=Sum, cache=False, max_output_tokens=16_000).total}
