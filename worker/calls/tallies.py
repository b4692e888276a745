"""What a process counts of its model calls, for whoever looks: metrics ask for it, nothing waits for it."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import NamedTuple

from orchestrator.contracts.usage import Usage


class Counts(NamedTuple):
    """Sums since the process began, by model and outcome, by model, or by reason."""

    calls: dict[tuple[str, str], int]
    seconds: dict[str, float]
    tokens: dict[tuple[str, str], int]
    nanousd: dict[str, int]
    waits: dict[str, int]


class Tallies:
    """Counters of one process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._nanousd: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()

    def called(self, model: str, outcome: str, seconds: float, usage: Usage | None = None) -> None:
        """Count one request: `outcome` is `answered`, or the reason of its failure."""
        with self._lock:
            self._calls[model, outcome] += 1
            self._seconds[model] += seconds
            if usage is not None:
                self._tokens[model, "input"] += usage.input_tokens
                self._tokens[model, "output"] += usage.output_tokens
                self._nanousd[model] += usage.cost_nanousd

    def waited(self, reason: str) -> None:
        """Count a call that could not be made yet: `limit`, `budget`, `turn`, `breaker`, `flight`, `retry` or `limiter_away`."""
        with self._lock:
            self._waits[reason] += 1

    def counts(self) -> Counts:
        """Give all sums."""
        with self._lock:
            return Counts(
                dict(self._calls), dict(self._seconds), dict(self._tokens), dict(self._nanousd), dict(self._waits)
            )
