"""The streams of an execution: one for each of its model calls that is to be seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from orchestrator.contracts.effect import Slot
from orchestrator.errors import ClaimLost
from orchestrator.observability.logging import get_logger
from orchestrator.observability.redact import Redactor
from orchestrator.store.agent_runs import Claim
from orchestrator.store.streams import Streams
from worker.streams.flusher import Flusher
from worker.streams.stream import Stream

T = TypeVar("T")

log = get_logger("nightfleet.worker")


class Patience(Protocol):
    """Asks the database until it answers."""

    def patiently(self, work: Callable[[], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Show:
    """What all streams of a process share."""

    store: Streams
    redact: Redactor
    flusher: Flusher

    @classmethod
    def of(cls, store: Streams, redact: Redactor) -> Show:
        """Make that of a process; nothing is begun by it."""
        return cls(store, redact, Flusher(store.add_all))

    def close(self) -> None:
        """Store no more."""
        self.flusher.close()


@dataclass(frozen=True, slots=True)
class ShownAnswers:
    """The streams of one execution; thread-safe."""

    show: Show
    claim: Claim
    database: Patience
    _streams: dict[Slot, Stream] = field(default_factory=dict[Slot, Stream])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, slot: Slot) -> Stream:
        """Give the stream of the call at a slot, for another try; what watchers have of earlier claims' is read first."""
        with self._lock:
            stream = self._streams.get(slot)
        if stream is None:
            stream = Stream(self.claim, str(slot), self.show.redact, self._shown(slot))
            with self._lock:
                self._streams[slot] = stream
        self.show.flusher.run_in_thread()
        return stream

    def feed(self, stream: Stream, text: str) -> None:
        """Take the next text; nothing is waited for."""
        stream.feed(text)
        self.show.flusher.note(stream)

    def end(self, slot: Slot, text: str) -> None:
        """Let watchers have the whole answer before anybody else: whoever gets it may end what these writes are allowed by."""
        with self._lock:
            stream = self._streams.pop(slot)
        stream.end(text)
        try:
            while (offered := stream.offer()) is not None:
                kept = self.database.patiently(lambda offered=offered: self.show.store.add(offered))
                stream.settle(offered, kept=kept)
        except ClaimLost:
            raise
        except Exception as error:  # noqa: BLE001 - the answer is here and paid for, whoever sees it
            log.warning("an answer is not shown to its end", error=str(error))

    def _shown(self, slot: Slot) -> str:
        if self.claim.epoch == 1:
            return ""
        return self.database.patiently(lambda: self.show.store.shown(self.claim.id, str(slot)))
