"""Clients of an SDK, for one event loop or for all threads: another one for every so many calls in flight.

The HTTP library looks at all connections of a client whenever a request begins or ends. With a thousand calls on one client
that takes longer than everything else about them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: How many calls one client has in flight at most.
CALLS_OF_A_CLIENT = 50


@dataclass(slots=True)
class _Client:
    sdk: Any
    calls: int = 0


class Clients:
    """Made when they are needed; thread-safe. The first that has room is taken, so the last ones have none open when few call."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._clients: list[_Client] = []

    @contextmanager
    def one(self) -> Generator[Any]:
        """Give a client for the length of a call."""
        with self._lock:
            client = next((each for each in self._clients if each.calls < CALLS_OF_A_CLIENT), None)
            if client is None:
                client = _Client(self._connect())
                self._clients.append(client)
            client.calls += 1
        try:
            yield client.sdk
        finally:
            with self._lock:
                client.calls -= 1

    def drain(self) -> list[Any]:
        """Give all clients, to be closed; who calls later has new ones made."""
        with self._lock:
            clients, self._clients = self._clients, []
        return [client.sdk for client in clients]
