"""An emulator in this process: a thread of its own with an event loop, nothing shared between two of them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Self, TypeVar

from orchestrator.clock import Clock, system_clock
from worker.emulator.bill import Call, Total
from worker.emulator.http import MOST_HEAD_BYTES
from worker.emulator.latency import Latency
from worker.emulator.ratelimits import RateLimit, State
from worker.emulator.script import Match, Rule, Written, to_told
from worker.emulator.service import Service
from worker.emulator.setup import Setup

_T = TypeVar("_T")
_BACKLOG = 4096


class Emulator:
    """Serves from the moment it is made until `close`; thread-safe, and a context manager.

    `latency_seconds` is how long each reply takes, in place of the latency of `setup`. Port 0 takes a free one; see
    `url`. Raises `OSError` if the port is taken.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        latency_seconds: float | None = None,
        setup: Setup | None = None,
        clock: Clock = system_clock,
    ) -> None:
        setup = setup or Setup()
        if latency_seconds is not None:
            setup = setup.model_copy(update={"latency": Latency(low=latency_seconds)})
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._host = f"[{host}]" if ":" in host else host
        self._port: int = self._socket.getsockname()[1]
        self._service = Service(setup, clock)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._open = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address without a path: `ANTHROPIC_BASE_URL` as it is, `OPENAI_BASE_URL` with `/v1` behind it."""
        return f"http://{self._host}:{self._port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment that makes clients of both providers call this emulator."""
        return {
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": "emulated-openai-key",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "emulated-anthropic-key",
        }

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call so far, in the order in which they were decided."""
        return self._service.calls.bill.calls

    @property
    def bill(self) -> Total:
        """What all calls so far come to."""
        return self._service.calls.bill.total()

    @property
    def most_in_flight(self) -> int:
        """How many calls were in flight at once, at the most."""
        return self._service.calls.most_in_flight

    @property
    def limits(self) -> list[State]:
        """What every bucket of the limits has counted so far, for each key that has called."""
        return self._in_loop(self._service.calls.limits.state)

    def script(self, replies: Sequence[Written]) -> None:
        """Let the next replies be as listed, one each, first come first: faults, answers, or `ok` for one like others."""
        self.reply_to(Match(), replies)

    def reply_to(self, when: Match, replies: Sequence[Written], *, repeat: bool = False) -> None:
        """Let the next replies to the requests that match be as listed; the last one for ever if they `repeat`.

        What was told first comes first, where several match.
        """
        if replies:
            rule = Rule(when=when, replies=tuple(to_told(each) for each in replies), repeat=repeat)
            self._in_loop(lambda: self._service.calls.script.add(rule))

    def set_limits(self, limits: Sequence[RateLimit], *, announced: bool = True) -> None:
        """Let other limits hold from now on, place by place; unannounced, headers go on as if nothing had changed."""
        self._in_loop(lambda: self._service.calls.limits.change(limits, announced=announced))

    @contextmanager
    def held(self) -> Generator[None]:
        """Let no reply go out for the length of a `with` block: what is asked stays in flight. In one thread at a time."""
        replying = self._service.calls.replying
        self._in_loop(replying.clear)
        try:
            yield
        finally:
            self._in_loop(replying.set)

    def close(self) -> None:
        """Stop serving; replies that stall or are held end at once. Safe to call twice."""
        self._in_loop(self._stopping.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_loop(self, act: Callable[[], _T]) -> _T:
        """Do something in the thread of the loop, which owns all that calls share; once that has ended, here."""
        done: Future[_T] = Future()

        def carry_out() -> None:
            try:
                done.set_result(act())
            except Exception as error:  # noqa: BLE001 - the caller's
                done.set_exception(error)

        with self._open:
            if self._loop.is_closed():
                return act()
            self._loop.call_soon_threadsafe(carry_out)
        return done.result()

    def _run(self) -> None:
        runner = asyncio.Runner(loop_factory=lambda: self._loop)
        runner.run(self._serve())
        # What was asked of the loop before is done while it closes.
        with self._open:
            runner.close()

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._service.connected(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, sock=self._socket, backlog=_BACKLOG, limit=MOST_HEAD_BYTES)
        await self._stopping.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        # Transports close in the next turn of the loop.
        await asyncio.sleep(0)
