"""The bill: a line for each call, in nanodollars by an arithmetic of its own, so that ours can be compared with it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction

from pydantic import Field

from orchestrator.contracts.policy import Value
from worker.emulator.asked import API
from worker.emulator.tokens import Tokens

#: A dollar for a million tokens is a thousand nanodollars for each.
_NANODOLLARS = 1000


class Price(Value):
    """Dollars for a million tokens, of the models that match; what has no price of its own costs as input does."""

    model: str = "*"
    input: Decimal = Field(ge=0)
    output: Decimal = Field(default=Decimal(0), ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    cache_write: Decimal | None = Field(default=None, ge=0)

    def cost(self, tokens: Tokens) -> int:
        """Give what a call costs, in nanodollars, rounded once: half to even."""
        cached = self.input if self.cached_input is None else self.cached_input
        written = self.input if self.cache_write is None else self.cache_write
        parts = (
            (tokens.uncached, self.input),
            (tokens.cached, cached),
            (tokens.cache_written, written),
            (tokens.output, self.output),
        )
        return round(sum(count * Fraction(dollars) for count, dollars in parts) * _NANODOLLARS)


class Call(Value):
    """One line of the bill; `key` is a fingerprint, and calls that failed cost nothing.

    `input_tokens` is all of the input, the cached part too. `limited_by` is the limit that a call was refused by.
    Bodies with the same `fingerprint` are equal.
    """

    request_id: str
    api: API
    model: str
    key: str
    fingerprint: str
    status: int
    fault: str
    limited_by: str | None = None
    streamed: bool = False
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanousd: int = 0


class Total(Value):
    """What some calls come to; `unpriced` is how many of them had no price, and `limited` how many a limit refused."""

    calls: int
    failed: int
    limited: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int


class Bill:
    """Keeps the lines of all calls, in the order in which they were decided; thread-safe."""

    def __init__(self, prices: Sequence[Price] = ()) -> None:
        self._prices = prices
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._unpriced = 0

    def enter(self, call: Call, tokens: Tokens) -> None:
        """Write a line, with what its tokens cost."""
        price = next((price for price in self._prices if fnmatchcase(call.model, price.model)), None)
        line = call.model_copy(
            update={
                "input_tokens": tokens.input,
                "cached_input_tokens": tokens.cached,
                "cache_write_input_tokens": tokens.cache_written,
                "output_tokens": tokens.output,
                "reasoning_tokens": tokens.reasoning,
                "cost_nanousd": 0 if price is None else price.cost(tokens),
            }
        )
        with self._lock:
            self._calls.append(line)
            self._unpriced += price is None and call.status == 200

    @property
    def calls(self) -> tuple[Call, ...]:
        """All lines so far."""
        with self._lock:
            return tuple(self._calls)

    def total(self) -> Total:
        """Give what all lines come to."""
        calls = self.calls
        return Total(
            calls=len(calls),
            failed=sum(call.status != 200 for call in calls),
            limited=sum(call.limited_by is not None for call in calls),
            unpriced=self._unpriced,
            input_tokens=sum(call.input_tokens for call in calls),
            output_tokens=sum(call.output_tokens for call in calls),
            cost_nanousd=sum(call.cost_nanousd for call in calls),
        )
