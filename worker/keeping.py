"""Keeps what this process holds for a time while it is in use: a process that dies gives it back by expiry."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from orchestrator.errors import ServiceUnavailable
from orchestrator.observability.logging import get_logger

Held = TypeVar("Held")

log = get_logger("nightfleet.worker")


class Keeper(ABC, Generic[Held]):
    """Renews all that is held in one request, three times in a lease; thread-safe.

    What ends before its first renewal costs nothing. While the service is away nothing is lost that returns within a lease.
    `about` says what is held, for people and in the name of the thread.
    """

    def __init__(self, every_seconds: float, about: str) -> None:
        self._every = every_seconds
        self._about = about
        self._lock = threading.Lock()
        self._held: dict[Hashable, Held] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def holding(self, held: Held) -> Generator[None]:
        """Keep something while a call is in flight."""
        key = self._key(held)
        with self._lock:
            self._held[key] = held
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name=f"nightfleet-{self._about}", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            self._drop(key)

    def renew(self) -> int:
        """Renew what is held now; gives how much that is, 0 where the service could not be asked."""
        with self._lock:
            held = dict(self._held)
        if not held:
            return 0
        try:
            self._ask(tuple(held.values()))
            with self._lock:
                ended = [each for key, each in held.items() if key not in self._held]
            self._give_back(ended)
        except ServiceUnavailable as error:
            log.warning(
                f"the {self._about} of calls in flight could not be renewed", calls=len(held), error=error.message
            )
            return 0
        return len(held)

    def close(self) -> None:
        """End the thread; what is held ends by expiry."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    @abstractmethod
    def _ask(self, held: Sequence[Held]) -> None:
        """Renew in one request; raises `ServiceUnavailable`."""

    def _give_back(self, ended: Sequence[Held]) -> None:
        """Give back what ended while it was renewed, where renewing takes it again; raises `ServiceUnavailable`."""

    def _key(self, held: Held) -> Hashable:  # noqa: ARG002 - each time that something is held is a time of its own
        return object()

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            self._held.pop(key, None)

    def _run(self) -> None:
        while not self._closed.wait(self._every):
            try:
                self.renew()
            except Exception:
                # A mistake of one renewal must not let everything expire that is held from now on.
                log.exception(f"the {self._about} of calls in flight could not be renewed")
