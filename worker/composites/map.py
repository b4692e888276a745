"""A task that does its step for each item of a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import kind_of
from orchestrator.planning.inputs import mapped
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import called, executor, input_of
from worker.plugin import LoadedAgent


def map_agent(task: TaskDefinition, card: AgentCard, describe: Callable[[TaskDefinition], str]) -> LoadedAgent:
    """Give a map as an agent that can run: its output is a list of what its step gives, in the order of the items."""
    del describe
    plan = task.map
    assert plan is not None, "validated with the definition"
    step = called(plan.do)

    class MapTask(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            items = _items(data, plan.over)
            inputs = (
                input_of(
                    plan.do, f"the map's step for item {index}", {"input": data, "item": item, "index": index}, item
                )
                for index, item in enumerate(items)
            )
            return await ctx.map(step, inputs, max_concurrency=plan.max_concurrency)

    return executor(task, card, MapTask)


def _items(data: Any, over: str | None) -> list[Any]:
    items = data if over is None else mapped(f"${{input.{over}}}", "`over`", {"input": data})
    if not isinstance(items, list):
        where = "the input of the map" if over is None else f"`over: {over}`"
        raise InputInvalid(
            f"{where} is {kind_of(items)}, and a map is over a list: say with `over` which field of its input has that"
        )
    return items  # pyright: ignore[reportUnknownVariableType]
