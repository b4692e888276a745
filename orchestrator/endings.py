"""Waiting for the ends of many runs on one event loop: one question for all of them, however many wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING

from orchestrator.errors import RunNotFound
from orchestrator.polling import FIRST_POLL_SECONDS, longer

if TYPE_CHECKING:
    from orchestrator.contracts.run import RunState

#: How many runs one statement asks for.
_AT_ONCE = 1000

AskStates = Callable[[list[str]], Awaitable["dict[str, RunState]"]]


class Endings:
    """Tells waiters when their runs have ended; belongs to one event loop, which it knows only while somebody waits.

    The pauses between two questions grow while nothing happens, and are short again when somebody joins or a run ends.
    """

    def __init__(self, ask: AskStates) -> None:
        self._ask = ask
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._joined = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    async def wait_for(self, run_id: str) -> None:
        """Wait until the run has ended; raises what asking for it raises, and `RunNotFound` when it is gone."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run_id, set()).add(ended)
        self._joined.set()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(self._joined), name="nightfleet-endings")
        try:
            await ended
        finally:
            self._leave(run_id, ended)

    def _leave(self, run_id: str, ended: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(run_id, set())
        waiters.discard(ended)
        if not waiters:
            self._waiters.pop(run_id, None)
        if not self._waiters and self._watching is not None:
            # It ends later than now: who joins meanwhile needs another one.
            self._watching.cancel()
            self._watching, self._joined = None, asyncio.Event()

    async def _watch(self, joined: asyncio.Event) -> None:
        pause = FIRST_POLL_SECONDS
        while self._waiters:
            moved = await self._look()
            pause = FIRST_POLL_SECONDS if moved or joined.is_set() else longer(pause)
            joined.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await joined.wait()

    async def _look(self) -> bool:
        """Ask for all runs that are waited for, and tell whether any has ended."""
        moved = False
        run_ids = iter(list(self._waiters))
        while some := list(islice(run_ids, _AT_ONCE)):
            try:
                states = await self._ask(some)
            except Exception as error:  # noqa: BLE001 - raised where it matters: by those who wait
                self._settle(some, error)
                return True
            ended = [run_id for run_id in some if run_id in states and states[run_id].final]
            self._settle(ended, None)
            gone = [run_id for run_id in some if run_id not in states]
            self._settle(gone, RunNotFound("a run that was waited for is not in the database any more"))
            moved = moved or bool(ended or gone)
        return moved

    def _settle(self, run_ids: list[str], error: BaseException | None) -> None:
        for run_id in run_ids:
            for waiter in self._waiters.pop(run_id, set()):
                if waiter.done():
                    continue
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)
