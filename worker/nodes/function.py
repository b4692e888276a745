"""A task that names a Python function: the function in the place of an agent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.jsonvalue import dump
from orchestrator.errors import OutputInvalid, PluginInvalid
from worker.agent import BaseAgent
from worker.nodes.arguments import fitting
from worker.nodes.dotted import find
from worker.plugin import LoadedAgent, Shape


def function_agent(path: str, card: AgentCard, *, limit_bytes: int) -> LoadedAgent:
    """Give a function as an agent that can run; its module is imported when it is first asked for.

    A plain function runs in the thread of its slot, a coroutine function on the event loop. Raises `PluginInvalid`.
    """
    function = _callable_at(path)
    what = f"function {path!r}"

    def checked(value: Any) -> Any:
        plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
        dump(plain, what=f"the output of {what}", limit_bytes=limit_bytes, error=OutputInvalid)
        return plain

    class Function(BaseAgent):
        def execute(self, data: Any, ctx: Any) -> Any:
            del ctx
            args, kwargs = fitting(function, what, data)
            value = function(*args, **kwargs)
            if inspect.isawaitable(value):
                if inspect.iscoroutine(value):
                    value.close()
                raise OutputInvalid(
                    f"{what} gave something to await, and is no coroutine function: make it `async def`"
                )
            return checked(value)

    class AsyncFunction(BaseAgent):
        async def execute(self, data: Any, ctx: Any) -> Any:
            del ctx
            args, kwargs = fitting(function, what, data)
            return checked(await function(*args, **kwargs))

    is_async = any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None))))  # noqa: B004 - objects
    return LoadedAgent(card, AsyncFunction if is_async else Function, is_async=is_async, takes=Shape(), gives=Shape())


def _callable_at(path: str) -> Callable[..., Any]:
    found = find(path, "function")
    if not callable(found):
        raise PluginInvalid(f"function {path!r} is a {type(found).__name__}, which cannot be called: name a function")
    return found
