"""Model calls of one execution, in a thread or on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from orchestrator.contracts.effect import Slot
from worker.calls.desk import Desk
from worker.calls.flow import Do, Limit, Send, Step, Turn, answered
from worker.calls.place import Place
from worker.effects.base import drive, drive_async
from worker.effects.progress import NotYet, Progress
from worker.llm.base import Delta, EmbeddingRequest, LLMRequest, LLMResponse
from worker.streams.show import ShownAnswers
from worker.streams.stream import Stream

T = TypeVar("T")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Patience(Protocol):
    """Asks the database until it answers."""

    def patiently(self, work: Callable[[], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Models:
    """Does the steps of model calls; thread-safe."""

    desk: Desk
    place: Place
    database: Patience
    shown: ShownAnswers

    def window_of(self, model: str) -> int | None:
        """Give how many tokens a model holds; None if nobody knows."""
        return self.desk.providers.catalogue.profile_of(model).context_window

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        """Ask; raises `NotYet`, or a `ModelError` when no further try is worth it."""
        stream = self.shown.open(slot) if request.stream else None

        def do(step: Step) -> Any:
            match step:
                case Do(work):
                    return self.database.patiently(work)
                case Limit(asked):
                    return self.desk.limiter.ask(asked)
                case Turn():
                    return self._turn(self.desk.turns.take())
                case Send():
                    return self._sent(step, stream)

        with self._counting():
            response = drive(answered(self.desk, self.place, request, slot, progress), do)
        if stream is not None:
            self.shown.end(slot, response.text)
        return response

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress, in_thread: InThread) -> LLMResponse:
        """Ask from an event loop; only the database is asked in threads."""
        stream: Stream | None = await in_thread(lambda: self.shown.open(slot)) if request.stream else None

        async def do(step: Step) -> Any:
            match step:
                case Do(work):
                    return await in_thread(lambda: self.database.patiently(work))
                case Limit(asked):
                    return await self.desk.limiter.ask_async(asked)
                case Turn():
                    return await self._turn_async(self.desk.turns.take())
                case Send():
                    return await self._sent_async(step, stream)

        with self._counting():
            response = await drive_async(answered(self.desk, self.place, request, slot, progress), do)
        if stream is not None:
            await in_thread(lambda: self.shown.end(slot, response.text))
        return response

    def _sent(self, send: Send, stream: Stream | None) -> LLMResponse:
        """Ask the provider, and show the answer as it comes, if somebody is to see that."""
        if isinstance(send.request, EmbeddingRequest):
            return send.provider.embed(send.request)
        if stream is None:
            return send.provider.invoke(send.request)
        stream.begin()
        with closing(send.provider.invoke_streaming(send.request)) as pieces:
            for piece in pieces:
                if isinstance(piece, LLMResponse):
                    return piece
                self._see(piece, stream)
        raise _without_end(send)

    async def _sent_async(self, send: Send, stream: Stream | None) -> LLMResponse:
        if stream is None:
            return await send.provider.invoke_async(send.request)
        stream.begin()
        async with aclosing(send.provider.invoke_streaming_async(send.request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, LLMResponse):
                    return piece
                self._see(piece, stream)
        raise _without_end(send)

    def _see(self, piece: Delta, stream: Stream) -> None:
        self.shown.feed(stream, piece.text)

    @contextmanager
    def _counting(self) -> Generator[None]:
        try:
            yield
        except NotYet as later:
            self.desk.tallies.waited(later.reason)
            raise

    def _turn(self, turn: Future[bool]) -> bool:
        try:
            return turn.result(self.desk.moment_seconds)
        except TimeoutError:
            self.desk.turns.withdraw(turn)
            return False

    async def _turn_async(self, turn: Future[bool]) -> bool:
        if turn.done():
            return True
        waiting = asyncio.wrap_future(turn)
        try:
            return await asyncio.wait_for(asyncio.shield(waiting), self.desk.moment_seconds)
        except TimeoutError:
            self.desk.turns.withdraw(turn)
            return False
        except asyncio.CancelledError:
            self.desk.turns.withdraw(turn)
            raise


def _without_end(send: Send) -> TypeError:
    return TypeError(f"{type(send.provider).__name__}.invoke_streaming has given no response last")
