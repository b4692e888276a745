"""One answer on its way to watchers, through all the tries of its call in one process."""

from __future__ import annotations

import threading

from orchestrator.observability.redact import Redactor
from orchestrator.store.agent_runs import Claim
from orchestrator.store.streams import Addition
from worker.streams.masked import Masked
from worker.streams.telling import Telling


class Stream:
    """Gathers text, and offers it to be stored piece by piece; thread-safe.

    A piece is offered until somebody says what became of it, so one whose storing had no answer is not told twice. Whatever
    comes meanwhile is in the next one.
    """

    def __init__(self, claim: Claim, slot: str, redact: Redactor, shown: str = "") -> None:
        self._claim = claim
        self._slot = slot
        self._redact = redact
        self._lock = threading.Lock()
        self._telling = Telling(shown)
        self._offered: Addition | None = None
        self._lost = False
        self._begin()

    def begin(self) -> None:
        """Begin another try: its text is compared with what watchers have."""
        with self._lock:
            self._begin()

    def feed(self, text: str) -> None:
        """Take the next text of the try."""
        with self._lock:
            self._fresh.append(text)

    def end(self, text: str) -> None:
        """Say what the whole answer is: what is offered from now on leads there."""
        with self._lock:
            if text != "".join((*self._read, *self._fresh)):
                # It did not come as a stream, or not all of it.
                self._begin()
                self._fresh.append(text)
            self._whole = True

    def offer(self) -> Addition | None:
        """Give the piece to store now, None where there is none."""
        with self._lock:
            if self._lost:
                return None
            if self._offered is None:
                self._offered = self._next()
            return self._offered

    def settle(self, offered: Addition, *, kept: bool) -> bool:
        """Say that a piece is stored, or was refused: then nothing is offered any more. Tells whether more text waits."""
        with self._lock:
            if self._offered is offered:
                self._offered = None
            self._lost = self._lost or not kept
            return bool(self._fresh) and not self._lost

    def _begin(self) -> None:
        self._fresh: list[str] = []
        self._read: list[str] = []
        self._whole = False
        self._masked = Masked(self._redact)
        self._telling.begin()

    def _next(self) -> Addition | None:
        text = "".join(self._fresh)
        self._fresh.clear()
        self._read.append(text)
        text = self._masked.feed(text) + (self._masked.rest() if self._whole else "")
        piece = self._telling.tell(text)
        if piece is None and self._whole:
            piece = self._telling.end()
        return None if piece is None else Addition(self._claim, self._slot, piece)
