"""A task that does its step again until a condition holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import BoundReached, InputInvalid
from orchestrator.planning.decide import decide
from orchestrator.planning.inputs import mapped
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import called, executor, input_of
from worker.plugin import LoadedAgent


def loop_agent(task: TaskDefinition, card: AgentCard, describe: Callable[[TaskDefinition], str]) -> LoadedAgent:
    """Give a loop as an agent that can run: its output is the last one of its step."""
    del describe
    loop = task.loop
    assert loop is not None, "validated with the definition"
    step = called(loop.do)

    def next_input(known: dict[str, Any]) -> Any:
        """Give what the step gets next: its own mapping each time, or what `next` says once there is an output."""
        first = known["iteration"] == 1
        if loop.do.input is not None:
            return input_of(loop.do, "the loop's step", known, None, _missing(known))
        if first or loop.next is None:
            return known["input"] if first else known["output"]
        return mapped(loop.next, "`next`", known, _missing(known))

    class LoopTask(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            known = {"input": data, "output": None, "iteration": 1}
            for iteration in range(1, loop.max_iterations + 1):
                known["iteration"] = iteration
                known["output"] = await ctx.call(step, next_input(known))
                if _holds(loop.until, known):
                    return known["output"]
            if loop.unmet == "last":
                return known["output"]
            raise BoundReached(
                f"`until: {loop.until}` has not held after {loop.max_iterations:,} iterations: give the loop more "
                "`max_iterations`, or say `unmet: last` for what was given last"
            )

    return executor(task, card, LoopTask)


def _missing(known: dict[str, Any]) -> tuple[str, ...]:
    """Name the output where there is none: the first time, and after a step that was done without."""
    return ("output",) if known["output"] is None else ()


def _holds(until: str, known: dict[str, Any]) -> bool:
    try:
        return decide(until, known["input"], {"output": known["output"], "iteration": known["iteration"]})
    except InputInvalid as error:
        raise InputInvalid(
            f"`until` cannot be decided after iteration {known['iteration']:,}: {error.message}"
        ) from None
