"""An agent with a tool that nobody can make a schema for."""

# pyright: reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

from typing import Any

from worker.agent import BaseAgent, Context


def guess(number):
    """Guess."""
    return number


class Untyped(BaseAgent):
    tools = (guess,)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"said": ctx.llm(data["text"])}
