"""A fleet of callers, a limiter and a provider in virtual time: how much of a limit is used, exceeded, and slept through."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.limits.base import Acquire, Bucket, Demand, Dimension, Freeze, Granted, Limiter, Seen, Settle, Share
from worker.limits.memory import MemoryLimiter


@dataclass
class Truth:
    """The provider's own bucket: fills evenly, begins full. What is told may be another limit than what holds."""

    limit: float
    told: float
    burst_seconds: float = 60.0
    level: float = 0.0
    at: float = 0.0
    taken: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    refused: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self.level = self.capacity

    @property
    def capacity(self) -> float:
        return self.limit * self.burst_seconds / 60

    def admit(self, weight: float, now: float) -> float:
        """Take and give 0, or give the seconds until it is there."""
        self.level = min(self.capacity, self.level + (now - self.at) * self.limit / 60)
        self.at = now
        missing = min(weight, self.capacity) - self.level
        if missing > 1e-6 * self.limit:
            self.refused.append(now)
            return missing * 60 / self.limit
        self.level -= weight
        self.taken.append((now, weight))
        return 0.0

    def change(self, limit: float, *, announced: bool) -> None:
        self.limit = limit
        self.level = min(self.level, self.capacity)
        if announced:
            self.told = limit

    def used(self, begin: float, end: float) -> float:
        return sum(weight for at, weight in self.taken if begin <= at < end)


@dataclass
class Fleet:
    """So many callers, each with one call after the other, on one limit of tokens."""

    truth: Truth
    callers: int
    tokens: float = 1000.0
    #: What callers believe a call to take, against what it takes.
    misjudged: float = 1.0
    #: How much calls differ.
    spread: float = 0.3
    latency: float = 1.0
    #: How many of those who wait die of it.
    dying: float = 0.0
    #: How late those who wait come back at most, and how long a message takes at most, in seconds.
    late: float = 0.05
    distance: float = 0.02
    headers: bool = True
    bucket: Bucket | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        self.now = 0.0
        self.chance = random.Random(self.seed)
        self.limiter: Limiter = MemoryLimiter(lambda: round(self.now * 1_000_000))
        self.bucket = self.bucket or Bucket("model", Dimension.INPUT_TOKENS, self.truth.told, provider=True)
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.admitted: deque[float] = deque()
        self.woken: deque[float] = deque()
        for _ in range(self.callers):
            self.at(self.chance.uniform(0, 0.2), self.begin)

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.agenda, (self.now + seconds, self.count, what))

    def run(self, until: float) -> None:
        while self.agenda and self.agenda[0][0] <= until:
            self.now, _, what = heapq.heappop(self.agenda)
            what()
        self.now = until

    def begin(self) -> None:
        self.count += 1
        actual = self.tokens * self.chance.lognormvariate(0, self.spread)
        estimate = actual * self.misjudged * self.chance.lognormvariate(0, self.spread)
        self.ask(f"call-{self.count}", min(estimate, self.truth.told), actual)

    def ask(self, ticket: str, estimate: float, actual: float) -> None:
        assert self.bucket is not None
        demand = Demand((Share(self.bucket, estimate, estimated=True),))
        answer = self.limiter.ask(Acquire(ticket, (demand,)))
        if isinstance(answer, Granted):
            self.admitted.append(self.now)
            self.at(self.chance.uniform(0.001, self.distance), lambda: self.arrive(answer, actual))
        elif self.chance.random() < self.dying:
            self.at(answer.seconds, self.begin)  # another one in its place
        else:
            self.at(answer.seconds + self.chance.uniform(0, self.late), lambda: self.wake(ticket, estimate, actual))

    def wake(self, ticket: str, estimate: float, actual: float) -> None:
        self.woken.append(self.now)
        self.ask(ticket, estimate, actual)

    def arrive(self, granted: Granted, actual: float) -> None:
        wait = self.truth.admit(actual, self.now)
        seen = Seen(self.truth.told, max(0.0, self.truth.level)) if self.headers else Seen()
        if wait:
            self.at(self.distance, lambda: self.refused(granted, wait, seen))
        else:
            lasts = self.latency * self.chance.lognormvariate(0, 0.5)
            self.at(lasts, lambda: self.end(granted, actual, seen))

    def refused(self, granted: Granted, wait: float, seen: Seen) -> None:
        self.limiter.ask(Freeze(granted, wait, seen={Dimension.INPUT_TOKENS: seen}))
        self.begin()

    def end(self, granted: Granted, actual: float, seen: Seen) -> None:
        self.limiter.ask(Settle(granted, {Dimension.INPUT_TOKENS: actual}, {Dimension.INPUT_TOKENS: seen}))
        self.begin()

    def utilisation(self, begin: float, end: float) -> float:
        """Give what the provider has let pass, as a share of what comes in."""
        return self.truth.used(begin, end) / (self.truth.limit * (end - begin) / 60)

    def wakes(self, begin: float, end: float) -> float:
        """Give the wake-ups for each call that was admitted."""
        return sum(begin <= at < end for at in self.woken) / sum(begin <= at < end for at in self.admitted)
