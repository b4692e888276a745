"""Effects that have their turn: what cannot be done yet waits as a sleep does, and is tried again where it was.

So it is while the fleet's limits, a budget or the provider let nobody ask.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Entry, Slot
from worker.effects.attempt import Attempt, Blocking
from worker.effects.base import Effect
from worker.effects.parking import Park, Wait
from worker.effects.progress import NotYet, Progress
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.waits import parking_of

#: How often to ask again, where others of the agent keep it in the process and nobody says when.
_LOOK_SECONDS = 2.0


def in_turn(
    recorder: Recorder, effect: Effect, slot: Slot, entry: Entry | None, attempt: Callable[[Progress], Operation]
) -> Generator[Operation, Any, Any]:
    """Give what an attempt gives, as soon as it does not raise `NotYet`; for longer than a moment it waits without a slot."""
    restarts = recorder.motion.account.restarts
    progress = Progress.after(restarts) if entry is None else Progress.of(entry.outcome)
    while True:
        try:
            return (yield attempt(progress))
        except NotYet as later:
            progress, seconds, waiting_for = later.progress, later.seconds, later.waiting_for
        parking, now = parking_of(recorder), system_clock.monotonic()
        until = None if seconds is None else now + seconds
        if seconds is None or seconds > parking.moment_seconds:
            begin = partial(recorder.writer.begin, effect, slot, outcome=list(progress))
            yield Blocking(recorder.motion, slot, begin)
        yield Park(parking, Wait(slot.scope, waiting_for, until, now + _LOOK_SECONDS), recorder.scopes)


class Asking(Waiting):
    """An effect that is tried until it is not `NotYet`; between two tries it waits, and remembers how far it has come."""

    __slots__ = ()

    def trying(self, attempt: Attempt, slot: Slot, progress: Progress) -> Operation:
        """Give the operation that tries once, and records what comes of it."""
        raise NotImplementedError

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        return in_turn(recorder, self, slot, entry, partial(self.trying, attempt, slot))
