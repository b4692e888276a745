"""What many tasks of an event loop ask at the same moment goes in one round trip: most of its price is paid once for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

Call = TypeVar("Call")

#: Others wait for the answers of a whole group.
_MOST = 32


class Together(Generic[Call]):
    """Asks one group at a time; who comes meanwhile is in the next one. For one event loop.

    `send` gives an answer for each call, or the exception that it comes to; what it raises is raised to all of the group.
    """

    def __init__(self, send: Callable[[Sequence[Call]], Awaitable[Sequence[Any]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def ask(self, call: Call) -> Any:
        """Give the answer to a call."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return await answer

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._send_group(group)
        finally:
            self._sender = None

    async def _send_group(self, group: Sequence[tuple[Call, asyncio.Future[Any]]]) -> None:
        answers: Sequence[Any]
        try:
            answers = await self._send([call for call, _ in group])
        except asyncio.CancelledError:
            # The loop is closed.
            for _, future in group:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - for whoever asked
            answers = [error] * len(group)
        for (_, future), answer in zip(group, answers, strict=True):
            if future.done():
                continue  # nobody waits for it any more
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
