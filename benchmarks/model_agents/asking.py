"""Agents that ask a model: what is measured is what that costs beside the SDK."""

from functools import partial
from typing import Any

from worker.agent import AsyncContext, BaseAgent


class Asker(BaseAgent):
    """Asks on so many lanes at the same time, on each of them one question after the other."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        async def lane(number: int) -> None:
            for call in range(data["calls"]):
                await ctx.llm(f"What is {number} times {call} in {ctx.run_id}?", max_output_tokens=50)

        await ctx.gather(*(partial(lane, number) for number in range(data["lanes"])))
        return {"n": data["lanes"] * data["calls"]}
