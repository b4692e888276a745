"""Agents that ask models, one after the other or all at once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context, Limits


class Chain(BaseAgent):
    """Asks so many times, each time about the last answer; says how often, and what that cost."""

    model = "openai:emulated-small"

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        said = data["word"]
        for number in range(data["calls"]):
            said = ctx.llm(f"{number} {data['word']}: {said[:20]}", max_output_tokens=data.get("most", 60))
        return {"said": said, "usd": ctx.usage.usd}


class Fan(BaseAgent):
    """Asks all at once."""

    model = "openai:emulated-small"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        asked = (ctx.llm(f"{number} {data['word']}", max_output_tokens=60) for number in range(data["calls"]))
        return {"said": len(await ctx.gather(*asked)), "usd": ctx.usage.usd}


class Alone(Chain):
    """Asks from a process of its own."""

    isolation = "process"


class Poor(Chain):
    """Has next to no money."""

    limits = Limits(usd=Decimal("0.0001"))
