"""Agents whose model calls tools that add: what is measured is what the loop around that costs."""

from __future__ import annotations

from typing import Any

from worker.agent import Answered, AsyncContext, BaseAgent, Context, tool


@tool
def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: A number.
        second: Another one.
    """
    return first + second


@tool(name="add")
async def add_async(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: A number.
        second: Another one.
    """
    return first + second


class Adder(BaseAgent):
    """Tells how many tools its model has called; in a thread."""

    tools = (add,)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return _told(ctx.converse(data["text"], max_iterations=data["most"], max_output_tokens=60))


class AsyncAdder(BaseAgent):
    """The same, on the event loop."""

    tools = (add_async,)

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        return _told(await ctx.converse(data["text"], max_iterations=data["most"], max_output_tokens=60))


def _told(answered: Answered) -> dict[str, Any]:
    return {"n": sum(message.role == "tool" for message in answered.messages), "said": answered.text}
