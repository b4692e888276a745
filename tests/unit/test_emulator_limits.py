"""The limits of the emulator: what is admitted, what is refused and for how long, and what headers say of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.clock import chance
from worker.emulator.asked import API, Asked, read
from worker.emulator.ratelimit_words import limit_headers, refused, span
from worker.emulator.ratelimits import Pool, RateLimit, RateLimits, Refusal
from worker.emulator.tokens import Tokenizer, Tokens

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Provider:
    """Limits, and calls of one size."""

    def __init__(self, *limits: RateLimit) -> None:
        self.clock = FakeClock()
        self.limits = RateLimits(limits, self.clock, Tokenizer())

    def pool(self, asked: Asked) -> Pool:
        pool = self.limits.pool_of(asked)
        assert pool is not None
        return pool

    def call(self, asked: Asked | None = None, prompt: Tokens = Tokens(input=10), output: int = 0) -> Refusal | None:  # noqa: B008
        """Make one call, over at once."""
        asked = asked or call_to()
        refusal = self.limits.admit(self.pool(asked), asked, prompt)
        if refusal is None:
            self.limits.settle(self.pool(asked), prompt.model_copy(update={"output": output}))
        return refusal

    def calls_admitted(self, asked: Asked | None = None, **more: Any) -> int:
        """Call until a call is refused."""
        return next(count for count in range(10_000) if self.call(asked, **more) is not None)

    def headers(self, asked: Asked) -> dict[str, str]:
        return limit_headers(asked, self.pool(asked), monotonic=self.clock.monotonic(), now=self.clock.now())


def call_to(model: str = "m", *, api: API = "chat", key: str = "key", text: str = "x" * 30, **more: Any) -> Asked:
    turns = [{"role": "user", "content": text}]
    return read(api, {"model": model, "messages": turns, **more}, key=key)


def test_a_limit_lets_a_minute_through_at_once_and_then_fills_evenly() -> None:
    provider = Provider(RateLimit(requests=60))
    assert provider.calls_admitted() == 60
    provider.clock.seconds = 0.5
    refusal = provider.call()
    assert refusal == Refusal(dimension="requests", limit=60, weight=1, wait_seconds=0.5)
    provider.clock.seconds = 3.0
    assert provider.calls_admitted() == 3
    provider.clock.seconds = 1000.0
    assert provider.calls_admitted() == 60


def test_who_waits_as_long_as_a_refusal_says_is_admitted() -> None:
    provider = Provider(RateLimit(requests=7, tokens=1234))
    asked = call_to(max_tokens=321)
    for _ in range(50):
        refusal = provider.call(asked)
        if refusal is not None:
            assert refusal.wait_seconds is not None
            provider.clock.seconds += refusal.wait_seconds
            assert provider.call(asked) is None


@pytest.mark.parametrize("burst", [1, 10, 60])
def test_no_traffic_gets_more_than_a_full_bucket_and_what_has_come_since(burst: float) -> None:
    limit, numbers = 6000, chance(f"traffic {burst}")
    provider = Provider(RateLimit(tokens=limit, burst_seconds=burst))
    taken = 0
    for _ in range(3000):
        provider.clock.seconds += numbers.expovariate(20)
        weight = numbers.randrange(10, 100)
        came = limit * (burst + provider.clock.seconds) / 60
        refusal = provider.call(call_to(max_tokens=weight))
        taken += 0 if refusal else weight
        assert taken <= came + 1e-6
    assert taken >= 0.98 * limit * provider.clock.seconds / 60


def test_a_limit_of_slices_lets_one_second_through_at_once() -> None:
    provider = Provider(RateLimit(requests=120, burst_seconds=1))
    assert provider.calls_admitted() == 2
    provider.clock.seconds = 10.0
    assert provider.calls_admitted() == 2


def test_a_call_larger_than_a_slice_takes_the_next_ones_too() -> None:
    provider = Provider(RateLimit(tokens=600, burst_seconds=1))
    asked = call_to(max_tokens=50)
    assert provider.call(asked) is None
    provider.clock.seconds = 4.9
    assert provider.call(asked) is not None
    provider.clock.seconds = 5.0
    assert provider.call(asked) is None


def test_tokens_weigh_the_greater_of_what_is_asked_for_and_an_estimate_of_the_input() -> None:
    few, many = call_to(max_tokens=100), call_to(text="x" * 600, max_tokens=100)
    provider = Provider(RateLimit(tokens=1000))
    assert provider.calls_admitted(few, output=1) == 10
    assert Provider(RateLimit(tokens=1000)).calls_admitted(many) == 5


def test_tokens_counted_by_usage_weigh_what_was_used() -> None:
    provider = Provider(RateLimit(tokens=1000, counted="usage"))
    asked = call_to(max_tokens=900)
    # The last one still finds something left; what it produces makes a debt of 40.
    assert provider.calls_admitted(asked, output=30) == 25
    assert provider.limits.state()[0].left == 0


def test_input_read_from_the_cache_and_output_to_come_take_nothing_of_anthropics_limits_beforehand() -> None:
    asked = call_to(api="messages", max_tokens=4096)
    provider = Provider(RateLimit(input_tokens=100, output_tokens=500))
    assert provider.calls_admitted(asked, prompt=Tokens(input=100, cached=90), output=0) == 10
    provider = Provider(RateLimit(input_tokens=100_000, output_tokens=500))
    assert provider.calls_admitted(asked, output=400) == 2
    refusal = provider.call(asked)
    assert refusal is not None
    assert refusal.dimension == "output_tokens"
    assert refusal.wait_seconds == pytest.approx(301 * 60 / 500)


def test_what_is_refused_by_one_dimension_takes_nothing_of_the_others() -> None:
    provider = Provider(RateLimit(requests=10, tokens=100))
    assert provider.calls_admitted(call_to(max_tokens=60)) == 1
    left = {state.dimension: (state.left, state.taken, state.refused) for state in provider.limits.state()}
    assert left == {"requests": (9, 1, 0), "tokens": (40, 60, 1)}


def test_a_call_that_is_larger_than_its_limit_is_told_that_waiting_does_not_help() -> None:
    provider = Provider(RateLimit(tokens=100))
    refusal = provider.call(call_to(max_tokens=101))
    assert refusal is not None
    assert refusal == Refusal(dimension="tokens", limit=100, weight=101, wait_seconds=None)
    failure, headers = refused(call_to(), refusal)
    assert failure.message.startswith("Request too large for m")
    assert headers == {}


def test_calls_in_flight_are_limited_and_give_their_place_back() -> None:
    provider = Provider(RateLimit(concurrency=2))
    asked = call_to()
    pool = provider.pool(asked)
    assert [provider.limits.admit(pool, asked, Tokens()) is None for _ in range(3)] == [True, True, False]
    provider.limits.settle(pool, Tokens())
    assert provider.limits.admit(pool, asked, Tokens()) is None
    [state] = provider.limits.state()
    assert (state.dimension, state.left, state.refused) == ("concurrency", 0, 1)


def test_every_key_has_a_limit_of_its_own_and_models_that_match_share_one() -> None:
    provider = Provider(RateLimit(model="big-*", requests=3), RateLimit(requests=5))
    assert provider.calls_admitted(call_to("big-1")) == 3
    assert provider.call(call_to("big-2")) is not None
    assert provider.calls_admitted(call_to("big-2", key="other")) == 3
    assert provider.calls_admitted(call_to("small")) == 5
    assert Provider(RateLimit(model="big-*", requests=3)).limits.pool_of(call_to("small")) is None


def test_a_day_is_a_limit_too() -> None:
    provider = Provider(RateLimit(requests=100, requests_per_day=24))
    assert provider.calls_admitted() == 24
    refusal = provider.call()
    assert refusal is not None
    assert (refusal.dimension, refusal.wait_seconds) == ("requests_per_day", pytest.approx(3600))


def test_a_change_holds_at_once_and_is_shown_only_if_it_is_announced() -> None:
    asked = call_to()
    provider = Provider(RateLimit(requests=60))
    provider.call(asked)
    provider.limits.change([RateLimit(requests=30)], announced=False)
    assert provider.calls_admitted(asked) == 30
    shown = provider.headers(asked)
    assert (shown["x-ratelimit-limit-requests"], shown["x-ratelimit-remaining-requests"]) == ("60", "29")
    provider.limits.change([RateLimit(requests=30)], announced=True)
    assert provider.headers(asked)["x-ratelimit-limit-requests"] == "30"
    provider.clock.seconds = 10.0
    assert provider.calls_admitted(asked) == 5


def test_openai_tells_of_its_limits_by_spans() -> None:
    provider = Provider(RateLimit(requests=60, tokens=6000))
    asked = call_to(max_tokens=700)
    provider.call(asked)
    assert provider.headers(asked) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5300",
        "x-ratelimit-reset-tokens": "7s",
    }


def test_anthropic_tells_of_its_limits_by_moments_and_rounded_tokens() -> None:
    provider = Provider(RateLimit(requests=60, input_tokens=60_000))
    asked = call_to(api="messages")
    provider.call(asked, Tokens(input=2400))
    assert provider.headers(asked) == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2026-05-01T12:00:02Z",
        "anthropic-ratelimit-input-tokens-limit": "60000",
        "anthropic-ratelimit-input-tokens-remaining": "58000",
        "anthropic-ratelimit-input-tokens-reset": "2026-05-01T12:00:03Z",
    }


def test_a_provider_may_keep_quiet_about_its_limits() -> None:
    assert Provider(RateLimit(requests=60, headers=False)).headers(call_to()) == {}


def test_a_refusal_says_when_to_come_back_in_the_form_of_each_provider() -> None:
    refusal = Refusal(dimension="tokens", limit=100, weight=60, wait_seconds=1.2504)
    openai, openai_headers = refused(call_to(), refusal)
    anthropic, anthropic_headers = refused(call_to(api="messages"), refusal)
    assert openai_headers == {"retry-after": "2", "retry-after-ms": "1251"}
    assert anthropic_headers == {"retry-after": "2"}
    assert (openai.status, openai.code, openai.openai_type) == (429, "rate_limit_exceeded", "tokens")
    assert anthropic.anthropic_type == "rate_limit_error"
    assert "limit 100, requested 60" in openai.message


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0ms"),
    (0.0201, "21ms"),
    (1.5, "1.5s"),
    (60, "1m0s"),
    (360, "6m0s"),
    (7384.25, "2h3m4.25s"),
])  # fmt: skip
def test_spans_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert span(seconds) == text
