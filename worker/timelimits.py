"""The time limits of one execution, and its interruption."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.contracts.policy import Timeouts
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import AgentTimeout, ClaimLost
from worker.execution import Execution

_UNWIND_SECONDS = 0.5


async def bounded(execution: Execution, coroutine: Any, soft: float | None, hard: float | None) -> Any:
    """Await an agent within its limits; an interruption is told as what caused it."""
    execution.interrupt = _interrupter()
    execution.motion.unwind = _unwinder()
    hard_limit, soft_limit = asyncio.timeout(hard), asyncio.timeout(soft)
    execution.timed_out = lambda: hard_limit.expired() or soft_limit.expired()
    try:
        async with hard_limit:
            try:
                async with soft_limit:
                    return await coroutine
            except TimeoutError:
                if soft_limit.expired():
                    raise AgentTimeout(f"the soft time limit of {soft:g} s has passed") from None
                raise
    except TimeoutError as error:
        if isinstance(error, AgentTimeout) or hard is None:
            raise
        raise AgentTimeout(f"the hard time limit of {hard:g} s has passed") from None
    except asyncio.CancelledError:
        if execution.account.stopped is not None:
            raise execution.account.stopped from None
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise ClaimLost("the worker stops") from None
        raise  # the agent's own: something that it awaited was cancelled


def _interrupter() -> Any:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    return interrupt


def _unwinder() -> Any:
    """Give what interrupts this task a moment later: an agent may swallow what unwinds it, or await a task that has."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def unwind() -> None:
        if task is not None:
            loop.call_soon_threadsafe(loop.call_later, _UNWIND_SECONDS, task.cancel)

    return unwind


def stop_softly(execution: Execution, soft: float | None) -> None:
    """Stop a sync agent at its next effect, since its soft limit has passed."""
    if execution.account.stopped is None:
        execution.account.stopped = AgentTimeout(f"the soft time limit of {soft:g} s has passed")


def timeouts_of(task: TaskDefinition, of_agent: Timeouts) -> Timeouts:
    """Give the limits of one execution: the task's, and the agent's where they do not contradict those."""
    soft, hard = task.timeouts.soft, task.timeouts.hard
    if soft is None and of_agent.soft is not None and (hard is None or of_agent.soft < hard):
        soft = of_agent.soft
    if hard is None and of_agent.hard is not None and (soft is None or soft < of_agent.hard):
        hard = of_agent.hard
    return Timeouts(soft=soft, hard=hard)
