"""How a stream is sent: how fast, and how it goes wrong on its way. Pure functions of its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.emulator.faults import Fault
from worker.emulator.latency import Latency
from worker.emulator.tokens import Tokenizer
from worker.emulator.wire.events import Event


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send after a pause."""

    pause_seconds: float
    content: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is sent of a stream, and whether the connection breaks then.

    `words` is what it brings of the model's words, None if that is all of them.
    """

    steps: tuple[Step, ...]
    breaks: bool = False
    words: str | None = None


def deliver(events: Sequence[Event], fault: Fault, error: Event | None, pace: Pace) -> Delivery:
    """Plan how a stream is sent; `error` is the event that says what a fault says."""
    place = _place_after(events, fault.after)
    before, behind = events[:place], events[place:]
    words = "".join(event.delta for event in before)
    steps = tuple(pace.steps(before))
    if error is not None:
        return Delivery((*steps, Step(0.0, error.encode())), words=words)
    match fault.kind:
        case "disconnect" | "truncated":
            return Delivery(steps, breaks=True, words=words)
        case "malformed":
            half = behind[0].encode().rstrip()
            return Delivery((*steps, Step(0.0, half[: len(half) // 2] + b"\n\n")), words=words)
        case "stall":
            first, *rest = pace.steps(behind)
            return Delivery((*steps, Step(fault.seconds + first.pause_seconds, first.content), *rest))
        case _:
            return Delivery((*steps, *pace.steps(behind)))


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the pieces of a stream follow each other."""

    latency: Latency
    tokenizer: Tokenizer

    def steps(self, events: Sequence[Event]) -> Iterator[Step]:
        """Give what is sent and when; all at once if tokens take no time, which is much less work."""
        if self.latency.tokens_per_second is None:
            if events:
                yield Step(0.0, b"".join(event.encode() for event in events))
            return
        for event in events:
            yield Step(self.latency.of_tokens(self.tokenizer.count(event.delta)), event.encode())


def _place_after(events: Sequence[Event], pieces: int) -> int:
    """Find the place behind so many pieces; behind the last piece if there are fewer, before the end in any case."""
    places = [place for place, event in enumerate(events) if event.delta]
    if not places or not pieces:
        return 0
    return places[min(pieces, len(places)) - 1] + 1
