"""Agents that do nothing: what is left is what a run costs."""

from typing import Any

from worker.agent import BaseAgent, Context


class NoopA(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del ctx
        return {"n": data["n"] + 1}


class NoopB(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del ctx
        return {"n": data["n"] + 1}


class NoopC(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del ctx
        return {"n": data["n"] + 1}


class NoopJoin(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del ctx
        return {"n": sum(part["n"] for part in data.values())}
