"""An agent with a long conversation: what is measured is the room that it takes."""

from __future__ import annotations

from typing import Any

from worker.agent import AsyncContext, BaseAgent, Message


class Rememberer(BaseAgent):
    """Asks its model so often, each time with so many messages of history before, and all that was said since."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        messages = tuple(_said(number, data["characters"]) for number in range(data["messages"]))
        for call in range(data["calls"]):
            asked = Message(role="user", content=f"What is {call} in {ctx.run_id}?")
            messages = (await ctx.converse((*messages, asked), max_output_tokens=50)).messages
        return {"n": len(messages)}


def _said(number: int, characters: int) -> Message:
    text = f"What was said at {number}, " * (characters // 20)
    return Message(role="assistant" if number % 2 else "user", content=text[:characters])
