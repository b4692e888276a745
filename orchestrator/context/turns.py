"""One after the other: those that would only be in each other's way at the database."""

from __future__ import annotations

import threading
from collections.abc import Generator, Hashable
from contextlib import ExitStack, contextmanager, suppress

from orchestrator.store.database import Database

#: How many of a process stand in lines at a time: each takes a connection meanwhile, and another one for what it changes.
_IN_LINES = 2


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
    """Turns among processes on Postgres, first come, first served; thread-safe. SQLite has one process, mostly: no lines."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._room = threading.BoundedSemaphore(_IN_LINES)

    @contextmanager
    def of(self, name: str) -> Generator[None]:
        """Have the turn for the length of a `with` block, if it comes soon; without it all goes on as well as it can."""
        if self._database.dialect != "postgresql" or not self._room.acquire(blocking=False):
            yield
            return
        with ExitStack() as stack:
            stack.callback(self._room.release)
            held = stack.enter_context(ExitStack())
            # What goes wrong with this connection is no reason not to try.
            with suppress(Exception):
                session = held.enter_context(self._database.transaction())
                session.run("shared_patience")
                session.row("shared_line", name=f"{self._database.schema}:{name}")
            try:
                yield
            finally:
                with suppress(Exception):
                    held.close()
