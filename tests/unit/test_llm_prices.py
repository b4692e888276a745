"""A price follows from tables, and a cost from a price and a usage: exactly, and never more than the worst case."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price

from orchestrator.clock import chance
from orchestrator.contracts.money import to_nanousd
from orchestrator.contracts.usage import Usage
from worker.llm import listed
from worker.llm.catalogue import Catalogue
from worker.llm.prices import Price, PriceEntry, Rates, Tier, entry_for, priced

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
LISTED = [
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-5.5"),
    ("openai", "o3"),
    ("anthropic", "claude-haiku-4-5"),
    ("anthropic", "claude-opus-5-5"),
    ("anthropic", "claude-sonnet-4-5"),
    ("deepseek", "deepseek-chat"),
    ("google", "gemini-2.5-pro"),
]


def price_of(**rates: str) -> Price:
    given = {name: Decimal(rate) for name, rate in rates.items()}
    known = Rates.of(given.pop("input"), given.pop("output"), **given)
    return Price(tiers=(Tier(above=0, rates=known),), source="a test")


def test_every_part_of_a_usage_has_its_rate():
    price = price_of(input="1", output="10", cached_input="0.1", cache_write="1.25", reasoning="20")
    usage = Usage(
        model_calls=1,
        input_tokens=1_000,
        cached_input_tokens=400,
        cache_write_input_tokens=100,
        output_tokens=50,
        reasoning_tokens=20,
    )
    # 500 plain, 400 read, 100 written; 30 said, 20 thought: microdollars.
    assert price.cost(usage) == (500 * 1000 + 40 * 1000 + 125 * 1000) + (300 * 1000 + 400 * 1000)


def test_parts_without_a_rate_cost_what_the_whole_does():
    price = price_of(input="2", output="3")
    usage = Usage(
        input_tokens=10, cached_input_tokens=4, cache_write_input_tokens=1, output_tokens=7, reasoning_tokens=5
    )
    assert price.cost(usage) == 10 * 2000 + 7 * 3000


def test_a_cost_is_rounded_once_and_half_to_even():
    assert price_of(input="0.0005", output="0").cost(Usage(input_tokens=1)) == 0
    assert price_of(input="0.0015", output="0").cost(Usage(input_tokens=1)) == 2
    assert price_of(input="0.0005", output="0.0005").cost(Usage(input_tokens=1, output_tokens=1)) == 1


def test_beyond_a_tier_all_tokens_cost_as_much():
    low, high = (Rates.of(Decimal(given), Decimal(given)) for given in ("1", "2"))
    price = Price(tiers=(Tier(above=0, rates=low), Tier(above=100, rates=high)), source="a test")
    assert price.cost(Usage(input_tokens=100)) == 100 * 1000
    assert price.cost(Usage(input_tokens=101)) == 101 * 2000


def test_each_call_costs_what_a_call_costs():
    price = price_of(input="0", output="0").model_copy(update={"per_call": Decimal("0.005")})
    assert price.cost(Usage(model_calls=2)) == to_nanousd(Decimal("0.01"))


def test_a_usage_gets_its_cost_or_is_counted_as_unpriced():
    usage = Usage(model_calls=1, input_tokens=1000)
    assert priced(usage, price_of(input="1", output="1")).cost_nanousd == 1_000_000
    without = priced(usage, None)
    assert (without.cost_nanousd, without.unpriced_calls) == (0, 1)


@pytest.mark.parametrize(("provider", "model"), LISTED)
def test_our_arithmetic_is_that_of_the_price_table(provider: str, model: str):
    numbers = chance(f"{provider}:{model}")
    for _ in range(50):
        given, produced = numbers.randrange(1, 500_000), numbers.randrange(0, 30_000)
        cached = numbers.randrange(0, given)
        price = listed.price(provider, model, NOW, batch=False)
        assert price is not None
        known = ListedUsage(input_tokens=given, cache_read_tokens=cached, output_tokens=produced)
        theirs = calc_price(known, model, provider_id=provider, genai_request_timestamp=NOW).total_price
        ours = price.cost(Usage(input_tokens=given, cached_input_tokens=cached, output_tokens=produced))
        assert ours == to_nanousd(theirs)


@pytest.mark.parametrize(("provider", "model"), LISTED)
def test_no_usage_costs_more_than_the_worst_case(provider: str, model: str):
    numbers = chance(model)
    price = listed.price(provider, model, NOW, batch=False)
    assert price is not None
    for _ in range(100):
        given, most = numbers.randrange(1, 400_000), numbers.randrange(1, 30_000)
        cached = numbers.randrange(0, given + 1)
        produced = numbers.randrange(0, most + 1)
        usage = Usage(
            model_calls=1,
            input_tokens=given,
            cached_input_tokens=cached,
            cache_write_input_tokens=numbers.randrange(0, given - cached + 1),
            output_tokens=produced,
            reasoning_tokens=numbers.randrange(0, produced + 1),
        )
        assert price.cost(usage) <= price.worst_case(given, most)


def test_a_batch_costs_half_where_the_table_says_so():
    whole, half = (listed.price("openai", "gpt-5-mini", NOW, batch=batch) for batch in (False, True))
    assert whole is not None
    assert half is not None
    usage = Usage(input_tokens=1000, output_tokens=1000)
    assert half.cost(usage) * 2 == whole.cost(usage)


def test_a_price_of_the_hour_is_that_of_the_call():
    night, day = (listed.price("deepseek", "deepseek-chat", NOW.replace(hour=hour), batch=False) for hour in (20, 12))
    assert night is not None
    assert day is not None
    assert night.tiers[0].rates.input < day.tiers[0].rates.input


def test_a_listed_price_says_where_it_is_from_and_an_unknown_model_has_none():
    catalogue = Catalogue.load()
    price = catalogue.price_of("openai:gpt-5-mini", NOW)
    assert price is not None
    assert price.source.startswith("genai-prices ")
    for unknown in ("openai:nobody-knows-me", "nobody:knows-me", "openai:whisper-1"):
        assert catalogue.price_of(unknown, NOW) is None


@pytest.mark.parametrize("provider", ["my-openai", "openai-compatible", "anthropic-proxy", "OpenAI"])
def test_a_server_of_ones_own_has_no_listed_prices_whatever_its_name_recalls(provider: str):
    assert Catalogue.load().price_of(f"{provider}:gpt-5-mini", NOW) is None


@pytest.mark.parametrize("model", ["offline", "ollama:llama4", "vllm:anything"])
def test_what_runs_here_costs_nothing_and_is_not_unknown(model: str):
    price = Catalogue.load().price_of(model, NOW)
    assert price is not None
    assert price.worst_case(1_000_000, 1_000_000) == 0


def entry(model: str, since: str | None = None, **more: Any) -> PriceEntry:
    return PriceEntry.model_validate({"model": model, "from": since, "input": 1, "output": 2, **more})


def test_of_entries_with_one_pattern_the_newest_that_has_begun_counts():
    entries = [entry("a:*", "2026-01-01"), entry("a:*"), entry("a:*", "2026-10-01"), entry("a:*", "2027-01-01")]
    found = entry_for(entries, ["a:b"], NOW)
    assert found is not None
    assert found.since == date(2026, 10, 1)


def test_of_different_patterns_the_first_counts():
    entries = [entry("a:b*", "2027-01-01"), entry("a:b-1"), entry("a:*", "2026-10-01")]
    assert entry_for(entries, ["a:b-1"], NOW) is entries[1]
    assert entry_for(entries, ["a:c"], NOW) is entries[2]
    assert entry_for(entries, ["b:c"], NOW) is None


def test_an_entry_says_what_a_batch_costs_or_it_costs_as_much_as_any_call():
    usage = Usage(input_tokens=1000)
    cheap, full = entry("a:b", batch="0.5"), entry("a:b")
    assert cheap.price("a file", batch=True).cost(usage) * 2 == cheap.price("a file", batch=False).cost(usage)
    assert full.price("a file", batch=True).cost(usage) == full.price("a file", batch=False).cost(usage)
