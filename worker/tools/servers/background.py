"""An event loop in a thread of its own: what clients of servers need, so that sync and async agents have their tools alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from orchestrator.errors import ToolError

T = TypeVar("T")

_LAST_SECONDS = 15.0


class Background:
    """Runs coroutines for callers in any thread; starts with the first one, and not again once it was closed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Give what a coroutine gives, or raise what it raises; `ToolError` where it is closed before that, or was."""
        with self._lock:  # what a loop is given behind its end is never begun, and would be waited for without end
            if self._closed:
                raise ToolError("the call was not begun, since a worker of its process ends", retryable=True)
            given = asyncio.run_coroutine_threadsafe(work(), self._started())
        try:
            return given.result()
        except CancelledError:
            raise ToolError(
                "the call was given up, since its process ends; whether it has done its work is not known"
            ) from None

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a last coroutine, cancel what still goes on, and end the thread, if there is one; waits for 15 seconds at most."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._loop is None or self._thread is None:
                return
            asyncio.run_coroutine_threadsafe(_finished(last), self._loop)
        self._thread.join(_LAST_SECONDS)

    def _started(self) -> asyncio.AbstractEventLoop:
        """Give the loop, which runs from now on; the lock is held."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


async def _finished(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.timeout(_LAST_SECONDS - 2):
            await last()
    finally:
        asyncio.get_running_loop().stop()  # the runner cancels what is left
