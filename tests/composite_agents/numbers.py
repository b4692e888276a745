"""Agents that count, choose and fail, as steps of what is made of others; and some that call such tasks themselves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from worker.agent import AgentError, AsyncContext, BaseAgent, Context, Permissions, TaskDefinition

NUMBERS = Permissions(agents=("plus", "total", "spare", "function", "capability:counting"))


class Plus(BaseAgent):
    """Gives a number and one more."""

    CAPABILITIES = ("counting",)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        if data.get("until"):
            while not Path(data["until"]).exists():
                threading.Event().wait(0.02)
        if data.get("fails") or not Path(data.get("needs", "/")).exists():
            raise AgentError(f"{data['n']} is refused")
        return {**data, "n": data["n"] + 1}


class Total(BaseAgent):
    """Gives the sum of all numbers that it is given, however deep."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"n": sum(_numbers(data))}


class Spare(BaseAgent):
    """Gives a number, negative."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"n": -sum(_numbers(data))}


class Chooser(BaseAgent):
    """Chooses what its input says."""

    name = "pick"

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"choice": data.get("to"), "n": data.get("n", 0)}


class Caller(BaseAgent):
    """Calls the task that its input is, or runs a workflow."""

    permissions = NUMBERS

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        if "run" in data:
            return ctx.run(data["run"], data["input"])
        task = TaskDefinition.model_validate({"id": "step", **data["task"]})
        return ctx.map(task, data["items"]) if "items" in data else ctx.call(task, data["input"])


class AsyncCaller(BaseAgent):
    """The same, awaited."""

    permissions = NUMBERS

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        if "run" in data:
            return await ctx.run(data["run"], data["input"])
        task = TaskDefinition.model_validate({"id": "step", **data["task"]})
        return await (ctx.map(task, data["items"]) if "items" in data else ctx.call(task, data["input"]))


class AnyCaller(Caller):
    """The same, whoever is asked for."""

    name = "any_caller"
    permissions = Permissions(agents=("*",))


class BothCaller(BaseAgent):
    """Calls two at the same time, the second one after another."""

    permissions = NUMBERS

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        async def twice() -> Any:
            return await ctx.call("plus", await ctx.call("plus", data))

        return await ctx.gather(ctx.call("plus", data), twice())


class AloneCaller(Caller):
    """The same in a process of its own."""

    name = "alone_caller"
    isolation = "process"


def _numbers(value: Any) -> list[int]:
    match value:
        case bool() | str() | None:
            return []
        case int():
            return [value]
        case dict():
            return [number for each in value.values() for number in _numbers(each)]  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [number for each in value for number in _numbers(each)]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return []
