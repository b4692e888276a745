"""A provider with one limit that binds, as its clients know it, and what it has let pass over time."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from worker.emulator import Answer, Emulator, Latency, Match, RateLimit, Setup

_LOOKS_EVERY_SECONDS = 0.05
#: How long somebody waits for what has to come.
_MOST_SECONDS = 300
_OUTPUT_TOKENS = 30
_ESTIMATED_BYTES_PER_TOKEN = 3
#: Times what binds: what else is limited, and never in the way.
_AMPLE = 20


@dataclass(frozen=True)
class Provider:
    """One API, and by how much clients misjudge what their calls use of it: 3 is three times too much.

    The output alone can be overestimated, since `max_output_tokens` bounds it.
    """

    model: str
    #: What the emulator calls the limit that binds, and what it is called in a models file.
    dimension: str
    configured: str
    misjudged: float
    #: Tokens that a call takes of this limit, in the mean.
    tokens: int = 300

    def __str__(self) -> str:
        name = self.model.partition(":")[0]
        return f"{name}, estimates {'3 times too high' if self.misjudged > 1 else '3 times too low'}"

    @property
    def input_tokens(self) -> int:
        """What of it is input."""
        return self.tokens - (_OUTPUT_TOKENS if self.dimension == "tokens" else 0)

    @property
    def prompt_bytes(self) -> int:
        return round(self.input_tokens * self._bytes_per_token)

    @property
    def max_output_tokens(self) -> int:
        return round(_OUTPUT_TOKENS * max(1.0, self.misjudged))

    def limit(self, per_minute: int, burst_seconds: float) -> RateLimit:
        """Give the truth."""
        given = RateLimit(
            model=self.model.partition(":")[2],
            counted="usage",
            burst_seconds=burst_seconds,
            requests=per_minute * _AMPLE,
        )
        ample = {"output_tokens": per_minute * _AMPLE} if self.dimension == "input_tokens" else {}
        return given.model_copy(update={self.dimension: per_minute, **ample})

    def rules(self, per_minute: int, burst_seconds: float, concurrency: int) -> str:
        """Give the limits of a models file: the same, as somebody has read them on the provider's page."""
        ample = f"output_tokens_per_minute = {per_minute * _AMPLE}\n" if self.dimension == "input_tokens" else ""
        return (
            f'[[limits]]\nmodel = "{self.model}"\nper = ["model", "credential"]\nburst_seconds = {burst_seconds}\n'
            f"{self.configured} = {per_minute}\nrequests_per_minute = {per_minute * _AMPLE}\n{ample}"
            f"concurrency = {concurrency}\n"
        )

    @contextmanager
    def serving(self, per_minute: int, burst_seconds: float, latency: Latency) -> Generator[tuple[Emulator, Watch]]:
        """Serve, and look on."""
        setup = Setup(
            limits=(self.limit(per_minute, burst_seconds),), latency=latency, bytes_per_token=self._bytes_per_token
        )
        with Emulator(setup=setup) as emulator:
            emulator.reply_to(Match(), [Answer(text="Aye.", output_tokens=_OUTPUT_TOKENS)], repeat=True)
            with Watch(emulator, self.dimension) as watch:
                yield emulator, watch

    @property
    def _bytes_per_token(self) -> float:
        return _ESTIMATED_BYTES_PER_TOKEN * self.misjudged


class Sight(NamedTuple):
    """What a provider has counted since it serves, at a moment of its clock."""

    at: float
    tokens: int
    refused: int


class Watch:
    """Looks at a provider's own count again and again, from a thread of its own; a context manager."""

    def __init__(self, emulator: Emulator, dimension: str) -> None:
        self._emulator = emulator
        self._dimension = dimension
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)
        self.seen: list[Sight] = []

    def __enter__(self) -> Watch:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def now(self) -> float:
        """The time of the last look."""
        return self.seen[-1].at

    @property
    def refused(self) -> int:
        """How many calls were refused by any limit."""
        return sum(state.refused for state in self._emulator.limits)

    def pause(self, seconds: float) -> float:
        """Let so much time pass by the provider's clock; gives the time then."""
        until = time.monotonic() + seconds
        while self.now < until:
            self._stop.wait(_LOOKS_EVERY_SECONDS)
        return self.now

    def first(self, what: str, since: float = 0.0) -> float:
        """Wait until tokens were taken, or calls refused, since a moment; gives when that was first seen."""
        before = max((getattr(sight, what) for sight in self.seen if sight.at <= since), default=0)
        deadline = time.monotonic() + _MOST_SECONDS
        while time.monotonic() < deadline:
            for sight in list(self.seen):
                if sight.at > since and getattr(sight, what) > before:
                    return sight.at
            self._stop.wait(_LOOKS_EVERY_SECONDS)
        raise AssertionError(f"the provider has seen no more {what}")

    def quiet(self, what: str, seconds: float) -> float:
        """Wait until for so long no tokens were taken, or no calls refused; gives the time then."""
        since, before = self.now, getattr(self.seen[-1], what)
        deadline = time.monotonic() + _MOST_SECONDS
        while self.now < since + seconds:
            assert time.monotonic() < deadline, f"the provider still sees {what}"
            self._stop.wait(_LOOKS_EVERY_SECONDS)
            if (count := getattr(self.seen[-1], what)) != before:
                since, before = self.now, count
        return self.now

    def tokens(self, begin: float, end: float) -> tuple[int, float]:
        """Give the tokens that were taken between two looks near these moments, and the seconds between these looks."""
        seen = list(self.seen)
        first = next(sight for sight in seen if sight.at >= begin)
        last = next(sight for sight in reversed(seen) if sight.at <= end)
        return last.tokens - first.tokens, last.at - first.at

    def share(self, begin: float, end: float, per_minute: int, kept: int = 0) -> float:
        """Give what was taken, or kept for others, of what came in between two moments."""
        tokens, seconds = self.tokens(begin, end)
        return (tokens + kept) / (per_minute * seconds / 60)

    def excess(self, begin: float, end: float, per_minute: int) -> float:
        """Give the most tokens that, since a moment at which nothing was saved up, were taken beyond what came in and 1 %."""
        sights = [sight for sight in list(self.seen) if begin <= sight.at <= end]
        allowed = 1.01 * per_minute / 60
        return max(each.tokens - sights[0].tokens - allowed * (each.at - begin) for each in sights)

    def _keep_looking(self) -> None:
        while not self._stop.wait(_LOOKS_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        states = [state for state in self._emulator.limits if state.dimension == self._dimension]
        sight = Sight(time.monotonic(), sum(each.taken for each in states), sum(each.refused for each in states))
        self.seen.append(sight)
