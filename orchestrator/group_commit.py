"""Group commit: callers that want to write to a service at the same moment share one transaction, or one round trip.

A claim or a completion alone is one statement, and most of its price is paid for each statement and each commit, not for
each row. The first caller leads and writes at once, so a caller that is alone waits for nobody; who comes while it
writes is written together by the next leader.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from orchestrator.errors import ServiceUnavailable

Request = TypeVar("Request")
Answer = TypeVar("Answer")

#: What one transaction may hold: members, and bytes of their requests; a request that is larger goes alone.
_MOST = 32
_MOST_BYTES = 1_000_000


class _Turn(Generic[Request, Answer]):
    """One caller."""

    __slots__ = ("answer", "called", "done", "error", "leads", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.called = threading.Lock()
        self.done = False
        self.leads = False
        self.answer: Answer
        self.error: BaseException | None = None


class GroupCommit(Generic[Request, Answer]):
    """Calls `write` with the requests of all callers that wait, one group at a time, and gives each its own answer.

    `write` is all or nothing. When it fails for a group, each member is written alone, so that no caller gets another
    one's error; a service that is away is everybody's error at once.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Request]], Sequence[Answer]],
        size: Callable[[Request], int] = lambda _: 0,
    ) -> None:
        self._write = write
        self._size = size
        self._lock = threading.Lock()
        self._waiting: list[_Turn[Request, Answer]] = []
        self._led = False

    def __call__(self, request: Request) -> Answer:
        turn: _Turn[Request, Answer] = _Turn(request)
        with self._lock:
            turn.leads = not self._led
            self._led = True
            self._waiting.append(turn)
            turn.called.acquire()
        if not turn.leads:
            try:
                # Released by a leader: it has the answer, or gives up the lead.
                turn.called.acquire()
            except BaseException:
                self._leave(turn)
                raise
        if not turn.done:
            self._lead()
        if turn.error is not None:
            raise turn.error
        return turn.answer

    def _lead(self) -> None:
        """Write the group that waits, the caller's own request first in it, and pass the lead on."""
        with self._lock:
            group = self._take()
        try:
            self._write_all(group)
        finally:
            with self._lock:
                # An interrupted leader leaves members without an answer: one of them leads next.
                self._waiting[:0] = [turn for turn in group[1:] if not turn.done]
                answered = [turn for turn in group[1:] if turn.done]
                self._pass_on()
            for turn in answered:
                turn.called.release()

    def _pass_on(self) -> None:
        """Give the lead to whoever waits longest."""
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].called.release()
        else:
            self._led = False

    def _leave(self, turn: _Turn[Request, Answer]) -> None:
        """Take back the place of a caller that was interrupted while it waited (Ctrl-C), and the lead if it had it."""
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                if turn.leads:
                    self._pass_on()

    def _take(self) -> list[_Turn[Request, Answer]]:
        count, room = 0, _MOST_BYTES
        for turn in self._waiting[:_MOST]:
            room -= self._size(turn.request)
            if count and room < 0:
                break
            count += 1
        group = self._waiting[:count]
        del self._waiting[:count]
        return group

    def _write_all(self, group: list[_Turn[Request, Answer]]) -> None:
        try:
            answers = self._write([turn.request for turn in group])
        except ServiceUnavailable as error:
            for turn in group:
                turn.error, turn.done = type(error)(error.message), True
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised again, in the thread of the caller whose it is
            for turn in group:
                if len(group) > 1:
                    self._write_all([turn])
                else:
                    turn.error, turn.done = error, True
        else:
            for turn, answer in zip(group, answers, strict=True):
                turn.answer, turn.done = answer, True
