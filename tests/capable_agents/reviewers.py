"""Agents of which several can do the same; each execution says who it was."""

from __future__ import annotations

from typing import Any

from worker.agent import BaseAgent, Context, Limits


class Strict(BaseAgent):
    """Review without mercy."""

    CAPABILITIES = ("review", "reject")
    limits = Limits(model_calls=5)

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        return {"by": "strict", "read": data.get("text")}


class Kind(BaseAgent):
    """Review with patience."""

    CAPABILITIES = ("review",)

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        return {"by": "kind", "read": data.get("text")}


class Reader(BaseAgent):
    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        return {"text": data["text"]}


class Picky(BaseAgent):
    """Fail; what is left of it is the fallback's."""

    CAPABILITIES = ("doubt",)

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        raise ValueError("no")
