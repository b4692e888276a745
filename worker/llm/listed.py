"""Prices and context windows that come with `genai-prices`: data of the installation, no network.

The data takes 24 MB and a sixth of a second, so it is loaded by the first question. An installation without it knows no
model: it has none to ask either.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from worker.llm.prices import Price, Rates, Tier

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

#: The parts of a price that calls of ours have, under its names there; others are for sound, pictures and searches.
_PER_CALL_OF = 1000
#: Models with this in their name make vectors, which have no price of their own.
_EMBEDS = "embed"


def context_window(provider: str, model: str) -> int | None:
    """Give how many tokens a model takes and gives together, or None if that is not known."""
    found = _find(provider, model)
    return None if found is None else found.context_window


def price(provider: str, model: str, at: datetime, *, batch: bool) -> Price | None:
    """Give the price of a model of a provider in the table at a moment, or None if it has none."""
    found = _find(provider, model)
    if found is None:
        return None
    prices = found.get_prices(at, {"processing": "batch"} if batch else None)
    tiers = _tiers(prices, puts_out=_EMBEDS not in found.id)
    if not tiers:
        return None
    per_call = prices.requests_kcount
    return Price(
        tiers=tiers,
        per_call=per_call / _PER_CALL_OF if isinstance(per_call, Decimal) else Decimal(0),
        source=f"genai-prices {_version()}",
        since=_since(found, prices),
    )


def names(provider: str) -> tuple[str, ...]:
    """Give the names of the models that a provider is known to have."""
    return tuple(model.id for each in _providers() if each.id == provider for model in each.models)


@lru_cache(maxsize=1024)
def _find(provider: str, model: str) -> ModelInfo | None:
    known = _providers()
    # By its very name: what the table takes for one of its providers by a part of the name may be a server of one's own.
    found = next((each for each in known if each.id == provider), None)
    return None if found is None else found.find_model(model, all_providers=known)


@lru_cache(maxsize=1)
def _providers() -> list[Provider]:
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ModuleNotFoundError:
        return []
    return get_snapshot().providers


@lru_cache(maxsize=1)
def _version() -> str:
    return version("genai-prices")


def _tiers(prices: ModelPrice, *, puts_out: bool) -> tuple[Tier, ...]:
    """Give the rates by the size of a call's input; none if the model is not paid by tokens in, and out if it puts out any."""
    if prices.input_mtok is None or (prices.output_mtok is None and puts_out):
        return ()
    starts = sorted({0, *_starts(prices)})
    return tuple(Tier(above=start, rates=_rates(prices, start)) for start in starts)


def _starts(prices: ModelPrice) -> Iterator[int]:
    for value in (prices.input_mtok, prices.output_mtok, prices.cache_read_mtok, prices.cache_write_mtok):
        if value is not None and not isinstance(value, Decimal):
            yield from (tier.start for tier in value.tiers)


def _rates(prices: ModelPrice, start: int) -> Rates:
    def rate(value: Any) -> Decimal | None:
        if value is None or isinstance(value, Decimal):
            return value
        return next((tier.price for tier in reversed(value.tiers) if tier.start <= start), value.base)

    return Rates.of(
        rate(prices.input_mtok) or Decimal(0),
        rate(prices.output_mtok) or Decimal(0),
        cached_input=rate(prices.cache_read_mtok),
        cache_write=rate(prices.cache_write_mtok),
        reasoning=rate(prices.output_reasoning_mtok),
    )


def _since(model: ModelInfo, prices: ModelPrice) -> date | None:
    """Give the day from which a price counts, where the table says it."""
    told = [] if not isinstance(model.prices, list) else model.prices
    return next((getattr(each.constraint, "start_date", None) for each in told if each.prices is prices), None)
