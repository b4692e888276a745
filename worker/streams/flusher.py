"""Stores what streams have gathered, those of a whole process in one statement, a few times a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from orchestrator.clock import Clock, system_clock
from orchestrator.errors import ServiceUnavailable
from orchestrator.observability.logging import get_logger
from orchestrator.store.streams import Addition
from worker.streams.stream import Stream

log = get_logger("nightfleet.worker")

#: Between two statements: watchers see text come, and an answer of a minute is a few hundred rows, however long.
EVERY_SECONDS = 0.25
#: How long a database that is away is left alone.
_PAUSE_SECONDS = 2.0
#: The most pieces in one statement.
_MOST = 500


class Flusher:
    """Streams with text that is not stored; thread-safe. Reading a stream never waits for it."""

    def __init__(self, add_all: Callable[[Sequence[Addition]], Sequence[bool]], clock: Clock = system_clock) -> None:
        self._add_all = add_all
        self._clock = clock
        self._changed = threading.Condition()
        #: In the order in which they came.
        self._waiting: dict[Stream, None] = {}
        self._next_at = float("-inf")
        self._away = False
        self._thread: threading.Thread | None = None
        self._closed = False

    def note(self, stream: Stream) -> None:
        """Store what a stream has gathered when it is time."""
        with self._changed:
            if stream not in self._waiting:
                self._waiting[stream] = None
                self._changed.notify()

    def left_seconds(self) -> float | None:
        """Give how long it is until something is to be stored, None while nothing waits."""
        with self._changed:
            return max(0.0, self._next_at - self._clock.monotonic()) if self._waiting else None

    def flush(self) -> None:
        """Store what all streams that wait have gathered. Never raises: what cannot be stored is tried again, or given up."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), {}
            self._next_at = self._clock.monotonic() + EVERY_SECONDS
        offers = [(stream, offered) for stream in waiting if (offered := stream.offer()) is not None]
        for first in range(0, len(offers), _MOST):
            self._store(offers[first : first + _MOST])

    def run_in_thread(self) -> None:
        """Flush when it is time, in a thread of its own, from now on; calling it again does nothing."""
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="nightfleet-streams", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._closed:
            left = self.left_seconds()
            if left == 0.0:
                self.flush()
                continue
            with self._changed:
                # Whoever came since is waited for no longer than anybody.
                if not self._closed and (left is not None or not self._waiting):
                    self._changed.wait(left)

    def _store(self, offers: Sequence[tuple[Stream, Addition]]) -> None:
        try:
            kept = self._add_all([offered for _, offered in offers])
        except ServiceUnavailable as error:
            self._put_off(offers, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what is shown, the answers themselves go on
            log.warning("answers are not shown as they come", error=str(error))
            kept = [False] * len(offers)
        self._away = False
        for (stream, offered), stored in zip(offers, kept, strict=True):
            if stream.settle(offered, kept=stored):
                self.note(stream)

    def _put_off(self, offers: Sequence[tuple[Stream, Addition]], error: ServiceUnavailable) -> None:
        if not self._away:
            log.warning("answers are shown later", error=error.message)
        self._away = True
        with self._changed:
            self._waiting.update(dict.fromkeys(stream for stream, _ in offers))
            self._next_at = self._clock.monotonic() + _PAUSE_SECONDS
