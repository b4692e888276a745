"""What the loop asks of its driver, and the two drivers: for a thread and for an event loop."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from orchestrator.contracts.effect import fingerprint
from orchestrator.errors import InputInvalid
from worker.effects.base import Flow, drive, drive_async
from worker.effects.gather import gather_tasks, gather_threads
from worker.effects.scopes import Scopes
from worker.effects.steps import KEY, plain, takes_key
from worker.tools.tool import Tool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Perform:
    """Perform effects, one after the other, each recorded."""

    flow: Flow[Any]


@dataclass(frozen=True, slots=True)
class Call:
    """Call a tool that works with the agent's context: the effects that it has are recorded, and not the call."""

    tool: Tool
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Do several things at the same time; gives their results in order."""

    all: Sequence[Steps[Any]]


Step = Perform | Call | Together
Steps = Generator[Step, Any, T]


class Driver(Protocol):
    """Who drives the flows of effects."""

    @property
    def scopes(self) -> Scopes: ...

    def run(self, flow: Flow[T]) -> T: ...

    async def run_async(self, flow: Flow[T]) -> T: ...


def run(steps: Steps[T], driver: Driver, context: Any) -> T:
    """Run steps to their end in a thread; each of several things has a thread of its own."""

    def do(step: Step) -> Any:
        match step:
            case Perform(flow):
                return driver.run(flow)
            case Call(tool, arguments):
                return _called(tool, context, arguments)
            case Together([only]):
                return [run(only, driver, context)]
            case Together(several):
                branches = [partial(run, each, driver, context) for each in several]
                return gather_threads(driver.scopes.here(), branches, return_exceptions=False)

    return drive(steps, do)


async def run_async(steps: Steps[T], driver: Driver, context: Any) -> T:
    """Run steps to their end on an event loop; each of several things is a task."""

    async def do(step: Step) -> Any:
        match step:
            case Perform(flow):
                return await driver.run_async(flow)
            case Call(tool, arguments):
                return await _called_async(tool, context, arguments)
            case Together([only]):
                return [await run_async(only, driver, context)]
            case Together(several):
                branches = [partial(run_async, each, driver, context) for each in several]
                return await gather_tasks(branches, return_exceptions=False)

    return await drive_async(steps, do)


def _called(tool: Tool, context: Any, arguments: Mapping[str, Any]) -> Any:
    if tool.is_async:
        raise InputInvalid(
            f"tool {tool.name!r} is a coroutine function: make the agent's `execute` async, or the tool plain"
        )
    return tool.function(ctx=context, **_given(tool, context, arguments))


async def _called_async(tool: Tool, context: Any, arguments: Mapping[str, Any]) -> Any:
    result = tool.function(ctx=context, **_given(tool, context, arguments))
    return await result if inspect.isawaitable(result) else result


def _given(tool: Tool, context: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the key of a tool that wants one: no effect gives it, and the context gives the same at every repetition."""
    if not takes_key(tool.function, arguments):
        return arguments
    given = {name: plain(value) for name, value in arguments.items()}
    return {**arguments, KEY: f"{context.uuid()}:{fingerprint(tool.name, given)[:12]}"}
