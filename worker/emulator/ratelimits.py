"""The limits of the emulated providers: the truth that a client's own limiter is measured against.

A limit is a bucket that fills evenly and begins full. What a bucket says in headers may be another, older truth: a limit
that is changed without announcement goes on to be shown as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from pydantic import Field

from orchestrator.clock import Clock
from orchestrator.contracts.policy import Value
from worker.emulator.asked import Asked
from worker.emulator.tokens import Tokenizer, Tokens

Dimension = Literal["requests", "requests_per_day", "tokens", "input_tokens", "output_tokens"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
_MINUTE, _DAY = 60.0, 86_400.0


class RateLimit(Value):
    """What the calls of models that match may take together, for each key apart.

    `tokens` is counted by OpenAI when a call is admitted, as the greater of its `max_tokens` and an estimate of its input;
    with `counted="usage"` it is what the call really uses. `input_tokens` leaves out what is read from the cache of
    prompts, and `output_tokens` counts what was produced: both are Anthropic's. `burst_seconds` is how much of the limit
    may be taken at once: of 60 requests/min all in a moment (60), or one each second (1). `concurrency` is how many calls
    may be in flight. `headers` says whether replies tell of the limits.
    """

    model: str = "*"
    key: str = "*"
    requests: int | None = Field(default=None, gt=0)
    requests_per_day: int | None = Field(default=None, gt=0)
    tokens: int | None = Field(default=None, gt=0)
    input_tokens: int | None = Field(default=None, gt=0)
    output_tokens: int | None = Field(default=None, gt=0)
    concurrency: int | None = Field(default=None, gt=0)
    counted: Literal["admission", "usage"] = "admission"
    burst_seconds: float = Field(default=_MINUTE, ge=1, le=_MINUTE)
    headers: bool = True

    def of(self, dimension: Dimension) -> int | None:
        """Give the limit of a dimension, None if it has none."""
        limit: int | None = getattr(self, dimension)
        return limit


class Bucket:
    """Fills by `limit` in each window and holds what a burst may take; may go below zero, never above full."""

    def __init__(self, limit: int, window: float, burst: float, now: float) -> None:
        self._window = window
        self._burst = burst
        self._at = now
        self.limit = limit
        self._level = self.capacity

    @property
    def capacity(self) -> float:
        """What the full bucket holds."""
        return max(1.0, self.limit * self._burst / self._window)

    def level(self, now: float) -> float:
        """Give what it holds now."""
        self._level = min(self.capacity, self._level + (now - self._at) * self.limit / self._window)
        self._at = now
        return self._level

    def wait(self, weight: float, now: float) -> float:
        """Give the seconds until so much can be taken, 0 if it can be now; more than a bucket holds needs a full one."""
        missing = min(weight, self.capacity) - self.level(now)
        # What a microsecond brings is a rounding error, and nothing to refuse a call for.
        return max(0.0, missing * self._window / self.limit) if missing > 1e-6 * self.limit else 0.0

    def take(self, weight: float, now: float) -> None:
        """Take out, into debt if need be."""
        self._level = self.level(now) - weight

    def change(self, limit: int, burst: float, now: float) -> None:
        """Fill at another rate, and hold another burst, from now on."""
        self.level(now)
        self.limit = limit
        self._burst = burst
        self._level = min(self._level, self.capacity)

    def full_in(self, now: float) -> float:
        """Give the seconds until it is full."""
        return (self.capacity - self.level(now)) * self._window / self.limit


@dataclass
class Gauge:
    """One dimension of one pool: what holds, what is shown, and what has been counted."""

    true: Bucket
    shown: Bucket
    taken: int = 0
    refused: int = 0

    def take(self, weight: int, now: float) -> None:
        """Take out of what holds and of what is shown."""
        self.true.take(weight, now)
        self.shown.take(weight, now)
        self.taken += weight


@dataclass
class Pool:
    """What the calls of one key have left of one limit."""

    limit: RateLimit
    gauges: dict[Dimension, Gauge] = field(default_factory=dict[Dimension, Gauge])
    in_flight: int = 0
    refused_in_flight: int = 0

    def change(self, limit: RateLimit, now: float, *, announced: bool) -> None:
        """Hold another limit from now on; unannounced it is still shown as it was."""
        for dimension in DIMENSIONS:
            figure = limit.of(dimension)
            if figure is None:
                self.gauges.pop(dimension, None)
            elif dimension in self.gauges:
                self.gauges[dimension].true.change(figure, _burst(limit, dimension), now)
                if announced:
                    self.gauges[dimension].shown.change(figure, _burst(limit, dimension), now)
            else:
                window = _DAY if dimension == "requests_per_day" else _MINUTE
                true, shown = (Bucket(figure, window, _burst(limit, dimension), now) for _ in range(2))
                self.gauges[dimension] = Gauge(true, shown)
        self.limit = limit


class Refusal(Value):
    """Why a call is not admitted. `wait_seconds` is None for one that is too large for its limit for ever."""

    dimension: Dimension | Literal["concurrency"]
    limit: int
    weight: int
    wait_seconds: float | None


class State(Value):
    """What one bucket has counted so far, for people and tests; `left` is what it holds."""

    model: str
    key: str
    dimension: Dimension | Literal["concurrency"]
    limit: int
    left: float
    taken: int
    refused: int


class RateLimits:
    """Admits calls. The first limit that matches model and key is the one that counts. Belongs to one thread."""

    def __init__(self, limits: Sequence[RateLimit], clock: Clock, tokenizer: Tokenizer) -> None:
        self._limits = tuple(limits)
        self._clock = clock
        self._tokenizer = tokenizer
        self._pools: dict[tuple[int, str], Pool] = {}

    def change(self, limits: Sequence[RateLimit], *, announced: bool) -> None:
        """Let other limits hold from now on, place by place; what has been taken stays taken."""
        self._limits = tuple(limits)
        now = self._clock.monotonic()
        for place, key in list(self._pools):
            if place < len(self._limits):
                self._pools[place, key].change(self._limits[place], now, announced=announced)
            else:
                del self._pools[place, key]

    def pool_of(self, asked: Asked) -> Pool | None:
        """Give the pool that a call takes from, None if nothing limits it."""
        for place, limit in enumerate(self._limits):
            if fnmatchcase(asked.model, limit.model) and fnmatchcase(asked.key_alias, limit.key):
                found = self._pools.get((place, asked.key_alias))
                if found is None:
                    found = self._pools[place, asked.key_alias] = Pool(limit)
                    found.change(limit, self._clock.monotonic(), announced=True)
                return found
        return None

    def admit(self, pool: Pool, asked: Asked, prompt: Tokens) -> Refusal | None:
        """Take what a call weighs of all dimensions, or nothing of any and say why."""
        now = self._clock.monotonic()
        weights = self._weights(pool.limit, asked, prompt)
        if pool.limit.concurrency is not None and pool.in_flight >= pool.limit.concurrency:
            pool.refused_in_flight += 1
            return Refusal(dimension="concurrency", limit=pool.limit.concurrency, weight=1, wait_seconds=1.0)
        for dimension, gauge in pool.gauges.items():
            # Whoever produces tokens says how many only afterwards: there has to be something left.
            weight = max(weights[dimension], 1)
            wait = gauge.true.wait(weight, now)
            if wait or weight > gauge.true.limit:
                gauge.refused += 1
                seconds = None if weight > gauge.true.limit else wait
                return Refusal(dimension=dimension, limit=gauge.true.limit, weight=weight, wait_seconds=seconds)
        for dimension, gauge in pool.gauges.items():
            gauge.take(weights[dimension], now)
        pool.in_flight += 1
        return None

    def settle(self, pool: Pool, tokens: Tokens) -> None:
        """Take what a call has turned out to use beyond what was taken at admission."""
        now = self._clock.monotonic()
        pool.in_flight -= 1
        if "output_tokens" in pool.gauges:
            pool.gauges["output_tokens"].take(tokens.output, now)
        if "tokens" in pool.gauges and pool.limit.counted == "usage":
            pool.gauges["tokens"].take(tokens.output, now)

    def state(self) -> list[State]:
        """Give what every bucket has counted."""
        now = self._clock.monotonic()
        found: list[State] = []
        for (_, key), pool in self._pools.items():
            model = pool.limit.model
            found += [
                State(
                    model=model,
                    key=key,
                    dimension=dimension,
                    limit=gauge.true.limit,
                    left=gauge.true.level(now),
                    taken=gauge.taken,
                    refused=gauge.refused,
                )
                for dimension, gauge in pool.gauges.items()
            ]
            if (most := pool.limit.concurrency) is not None:
                found.append(
                    State(
                        model=model,
                        key=key,
                        dimension="concurrency",
                        limit=most,
                        left=most - pool.in_flight,
                        taken=pool.in_flight,
                        refused=pool.refused_in_flight,
                    )
                )
        return found

    def _weights(self, limit: RateLimit, asked: Asked, prompt: Tokens) -> dict[Dimension, int]:
        estimate = self._tokenizer.count(asked.input_text)
        return {
            "requests": 1,
            "requests_per_day": 1,
            "tokens": prompt.input if limit.counted == "usage" else max(asked.max_tokens or 0, estimate),
            "input_tokens": prompt.input - prompt.cached,
            "output_tokens": 0,
        }


def _burst(limit: RateLimit, dimension: Dimension) -> float:
    return _DAY if dimension == "requests_per_day" else limit.burst_seconds
