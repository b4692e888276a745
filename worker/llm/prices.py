"""What a model costs: rates per million tokens, from which the cost of a call follows in exactly one way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import ConfigDict, Field

from orchestrator.contracts.money import to_nanousd
from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage

_MILLION = 1_000_000
Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class Rates(Value):
    """Dollars per million tokens: of input, of output, and of the parts of them that cost something else."""

    input: Dollars
    output: Dollars
    cached_input: Dollars
    cache_write: Dollars
    reasoning: Dollars

    @classmethod
    def of(
        cls,
        given: Decimal,
        output: Decimal,
        *,
        cached_input: Decimal | None = None,
        cache_write: Decimal | None = None,
        reasoning: Decimal | None = None,
    ) -> Rates:
        """Make rates where a part that has none costs what the whole does."""
        return cls(
            input=given,
            output=output,
            cached_input=given if cached_input is None else cached_input,
            cache_write=given if cache_write is None else cache_write,
            reasoning=output if reasoning is None else reasoning,
        )


class Tier(Value):
    """Rates for calls with more input tokens than `above`: all their tokens cost as much, not only those above."""

    above: int = Field(ge=0)
    rates: Rates


class Price(Value):
    """The price of a model at a moment; `source` and `since` say which one it is, for the ledger.

    The first tier is for any call; the others are in ascending order.
    """

    tiers: tuple[Tier, ...] = Field(min_length=1)
    per_call: Dollars = Decimal(0)
    source: str
    since: date | None = None

    def cost(self, usage: Usage) -> int:
        """Give what calls of such usage cost in nanodollars, rounded once, half to even."""
        rates = self._rates(usage.input_tokens)
        cached, written = usage.cached_input_tokens, usage.cache_write_input_tokens
        plain = max(0, usage.input_tokens - cached - written)
        said = max(0, usage.output_tokens - usage.reasoning_tokens)
        tokens = (
            plain * rates.input
            + cached * rates.cached_input
            + written * rates.cache_write
            + said * rates.output
            + usage.reasoning_tokens * rates.reasoning
        )
        return to_nanousd(tokens / _MILLION + usage.model_calls * self.per_call)

    def worst_case(self, input_tokens: int, max_output_tokens: int) -> int:
        """Give what one call costs at most in nanodollars, whatever is read from a cache, written to it, or thought."""
        possible = [tier.rates for tier in self.tiers if tier.above < input_tokens or tier.above == 0]
        given = max(max(rates.input, rates.cache_write, rates.cached_input) for rates in possible)
        produced = max(max(rates.output, rates.reasoning) for rates in possible)
        tokens = input_tokens * given + max_output_tokens * produced
        return to_nanousd(tokens / _MILLION + self.per_call, up=True)

    def told(self) -> str:
        """Say whose price it is, and of when."""
        return self.source if self.since is None else f"{self.source} {self.since.isoformat()}"

    def _rates(self, input_tokens: int) -> Rates:
        return next(tier.rates for tier in reversed(self.tiers) if tier.above < input_tokens or tier.above == 0)


def priced(usage: Usage, price: Price | None) -> Usage:
    """Give a usage with what it cost; without a price its calls count as unpriced, and cost nothing that is known."""
    if price is None:
        return usage.model_copy(update={"unpriced_calls": usage.model_calls})
    return usage.model_copy(update={"cost_nanousd": price.cost(usage)})


class PriceEntry(Value):
    """A line of a price table: dollars per million tokens for models of a pattern, such as `openai:gpt-5*`, from a day on.

    `batch` is the factor for calls through a provider's batch interface. Of entries with the same pattern the newest that
    has begun counts; of different patterns, the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    model: str = Field(min_length=1)
    since: date | None = Field(default=None, alias="from")
    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None
    per_call: Dollars = Decimal(0)
    batch: Annotated[Decimal, Field(gt=0, le=1)] | None = None

    def price(self, source: str, *, batch: bool) -> Price:
        """Give the price that this entry says."""
        factor = self.batch if batch and self.batch is not None else Decimal(1)
        rates = Rates.of(
            self.input * factor,
            self.output * factor,
            cached_input=None if self.cached_input is None else self.cached_input * factor,
            cache_write=None if self.cache_write is None else self.cache_write * factor,
        )
        return Price(
            tiers=(Tier(above=0, rates=rates),), per_call=self.per_call * factor, source=source, since=self.since
        )


def entry_for(entries: Sequence[PriceEntry], names: Sequence[str], at: datetime) -> PriceEntry | None:
    """Give the entry that counts for a model of these names at a moment, or None."""
    begun = [
        entry
        for entry in entries
        if any(fnmatchcase(name, entry.model) for name in names) and (entry.since is None or entry.since <= at.date())
    ]
    if not begun:
        return None
    same = [entry for entry in begun if entry.model == begun[0].model]
    return max(same, key=lambda entry: entry.since or date.min)
