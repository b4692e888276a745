"""A tool within its time: the model is told when it takes too long."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from orchestrator.errors import ToolError
from worker.tools.tool import Tool


def bounded(tool: Tool) -> Callable[..., Any]:
    """Give the function of a tool; after its time it raises `ToolError`.

    A plain function cannot be ended: it goes on in a thread of its own, and what it gives is thrown away.
    """
    seconds = tool.timeout_seconds
    if seconds is None:
        return tool.function
    return _in_loop(tool, seconds) if tool.is_async else _in_thread(tool, seconds)


def _in_loop(tool: Tool, seconds: float) -> Callable[..., Any]:
    @functools.wraps(tool.function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await tool.function(*args, **kwargs)
        except TimeoutError:
            if limit.expired():
                raise _too_long(tool) from None
            raise

    return call


def _in_thread(tool: Tool, seconds: float) -> Callable[..., Any]:
    @functools.wraps(tool.function)
    def call(*args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(tool.function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - it is what the call comes to
                future.set_exception(error)

        threading.Thread(
            target=copy_context().run, args=(work,), name=f"nightfleet-tool-{tool.name}", daemon=True
        ).start()
        try:
            return future.result(seconds)
        except TimeoutError:
            if not future.done():
                raise _too_long(tool) from None
            raise

    return call


def _too_long(tool: Tool) -> ToolError:
    return ToolError(
        f"{tool.name} has taken longer than {tool.timeout_seconds:g} s; whether it has done its work is not known"
    )
