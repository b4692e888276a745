"""One after the other: those that would only be in each other's way at the database."""

from __future__ import annotations

import threading
from collections.abc import Generator, Hashable
from contextlib import ExitStack, contextmanager, suppress

from orchestrator.clock import Clock, system_clock
from orchestrator.store.database import Database

#: How many of a process stand in lines at a time: each takes a connection meanwhile, and another one for what it changes.
_IN_LINES = 2
#: For how long after a loss a key is taken to be wanted by others, and how many such keys are remembered.
_WANTED_SECONDS, _MOST_WANTED = 5.0, 10_000


class Turns:
    """Turns within this process: a lock for each key, as long as anybody wants it; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, key: Hashable) -> Generator[None]:
        """Have the turn for the length of a `with` block."""
        with self._lock:
            turn, wanted = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (turn, wanted + 1)
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, wanted = self._turns[key]
                if wanted == 1:
                    del self._turns[key]
                else:
                    self._turns[key] = (turn, wanted - 1)


class Lines:
    """Turns among processes on Postgres, first come, first served; thread-safe. SQLite has one process, mostly: no lines.

    A line is stood in by those who have lost, and where somebody of this process has lost lately: else newcomers would be
    quicker than all who wait.
    """

    def __init__(self, database: Database, clock: Clock = system_clock) -> None:
        self._database = database
        self._clock = clock
        # Whoever stands in a line with the last connection would wait for another one, and all behind it with it.
        self._room = threading.BoundedSemaphore(max(0, min(_IN_LINES, database.pool_size - 1)))
        #: Until when keys are taken to be wanted by others.
        self._wanted: dict[str, float] = {}

    @contextmanager
    def of(self, name: str, *, lost: bool) -> Generator[bool]:
        """Have the turn for the length of a `with` block; gives whether that is so, which it need not be."""
        now = self._clock.monotonic()
        if lost:
            if len(self._wanted) >= _MOST_WANTED:
                self._wanted.clear()
            self._wanted[name] = now + _WANTED_SECONDS
        useless = self._database.dialect != "postgresql" or now >= self._wanted.get(name, 0.0)
        if useless or not self._room.acquire(blocking=False):
            yield False
            return
        with ExitStack() as stack:
            stack.callback(self._room.release)
            held, standing = stack.enter_context(ExitStack()), False
            # What goes wrong with this connection is no reason not to try.
            with suppress(Exception):
                session = held.enter_context(self._database.transaction())
                session.run("shared_patience")
                session.row("shared_line", name=f"{self._database.schema}:{name}")
                standing = True
            try:
                yield standing
            finally:
                with suppress(Exception):
                    held.close()
