"""A pool of database connections. SQLAlchemy's would bring SQLAlchemy: 20 MB in each producer and worker that never needs it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from orchestrator.clock import system_clock


class PoolTimeout(Exception):
    """No connection became free in time."""


class Pool:
    """Up to `size` connections, opened when they are needed and kept; thread-safe, usable on both sides of a fork.

    The last one given back is the first one taken, so what is not needed is not used. `take` raises `PoolTimeout`, or what
    `connect` raises.
    """

    def __init__(
        self, connect: Callable[[], Any], is_stale: Callable[[Any], bool], *, size: int, timeout_seconds: float = 30.0
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._connect = connect
        self._is_stale = is_stale
        self._size = size
        #: What a fork has left behind: never closed here, the sockets and file locks are the parent's.
        self._abandoned: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._free = threading.BoundedSemaphore(self._size)
        self._idle: list[Any] = []
        #: Rises when one is found broken: those opened before are of a server that may be gone, and are not used again.
        self._generation = 0
        self._born: dict[int, int] = {}

    def take(self) -> Any:
        """Give a connection that is alive."""
        free = self._place()
        try:
            while True:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    generation = self._generation
                    connection = self._connect()
                    self._born[id(connection)] = generation
                    return connection
                if not self._is_stale(connection):
                    return connection
                self._close(connection)
        except BaseException:
            free.release()
            raise

    @contextlib.contextmanager
    def place(self) -> Generator[None]:
        """Hold the place of a connection for the length of a `with` block: of one that somebody else has opened."""
        free = self._place()
        try:
            yield
        finally:
            free.release()

    def give_back(self, connection: Any, *, broken: bool = False) -> None:
        """Return a connection for the next one who needs it, or close it if it is broken."""
        if self._pid != os.getpid() or id(connection) not in self._born:
            self._abandoned.append(connection)  # taken before a fork
            return
        if broken:
            self._generation += 1
            self.close()
        if self._born[id(connection)] == self._generation:
            self._idle.append(connection)
        else:
            self._close(connection)
        self._free.release()

    def empty(self, seconds: float) -> Callable[[], None] | None:
        """Close all connections when they are given back; none is opened until the function is called that this gives.

        None if one is still in use after so many seconds.
        """
        if self._pid != os.getpid():
            self.forked()
        free, until = self._free, system_clock.monotonic() + seconds
        for held in range(self._size):
            if not free.acquire(timeout=max(0.0, until - system_clock.monotonic())):
                if held:
                    free.release(held)
                return None
        self.close()
        return partial(free.release, self._size)

    def forked(self) -> None:
        """Forget the parent's connections without closing them."""
        self._abandoned.extend(self._idle)
        self._begin()

    def close(self) -> None:
        """Close what is idle; the next use opens anew."""
        if self._pid != os.getpid():
            self.forked()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self._close(connection)

    def _place(self) -> threading.BoundedSemaphore:
        if self._pid != os.getpid():
            self.forked()
        free = self._free
        if not free.acquire(timeout=self.timeout_seconds):
            raise PoolTimeout(f"all {self._size} connections were in use for {self.timeout_seconds:g} s")
        return free

    def _close(self, connection: Any) -> None:
        del self._born[id(connection)]
        # It may be gone already, and there is nothing to learn from that.
        with contextlib.suppress(Exception):
            connection.close()
