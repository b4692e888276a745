"""A stream on its way to an answer: bytes become events, events become text and a response, silence becomes an error."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import ValidationError

from orchestrator.clock import Clock
from worker.llm.base import Delta, LLMResponse
from worker.llm.wire.base import Fold, Unreadable
from worker.llm.wire.sse import EventReader

_DONE = b"[DONE]"
_SIGNS_OF_LIFE = frozenset({"ping", "keepalive"})
#: How long the end of a stream is waited for once its answer is whole.
_LAST_SECONDS = 1.0


class Stalled(Exception):
    """Nothing of the answer has come for too long, whatever else the server sends to keep the connection."""


class StreamReading:
    """Reads one stream, of which nothing is waited for longer than `patience_seconds`.

    A provider that only says that it is alive is not answering: comments and pings do not count.
    """

    def __init__(self, fold: Fold, patience_seconds: float, clock: Clock) -> None:
        self._fold = fold
        self._patience = patience_seconds
        self._clock = clock
        self._events = EventReader()
        self._silent_seconds = 0.0
        self._waiting_since = clock.monotonic()
        self.begun = False

    @property
    def whole(self) -> bool:
        """Whether the answer is there, although the stream may go on."""
        return self._fold.whole

    def wait_seconds(self) -> float:
        """Begin to wait for the next bytes; gives for how long. What is done with the answer meanwhile is no silence."""
        self._waiting_since = self._clock.monotonic()
        return _LAST_SECONDS if self._fold.done else self._patience - self._silent_seconds

    def feed(self, chunk: bytes) -> Iterator[Delta]:
        """Take the next bytes; gives what they add to the text. Raises `ErrorSaid`, `Unreadable` or `Stalled`."""
        self._silent_seconds += self._clock.monotonic() - self._waiting_since
        for data in self._events.feed(chunk):
            if data == _DONE:
                self._fold.done = True
                continue
            try:
                event = json.loads(data)
                if event.get("type") in _SIGNS_OF_LIFE:
                    continue
                delta = self._fold.feed(event)
            except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
                raise Unreadable from error
            self.begun = True
            self._silent_seconds = 0.0
            if delta is not None:
                yield delta
        if self._silent_seconds >= self._patience:
            raise Stalled

    def response(self) -> LLMResponse:
        """Give the whole answer; raises `Unreadable` where the stream has ended before it."""
        return self._fold.response()
