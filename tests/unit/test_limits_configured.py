"""Limits as they are configured, and what a call takes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.contracts.usage import Usage
from orchestrator.errors import SettingsInvalid
from orchestrator.settings import Settings
from worker.limits.base import Dimension, Seen, Share
from worker.limits.chosen import limiter_of, limits_url
from worker.limits.configured import Caller, LimitRule
from worker.limits.demand import Size, demand_of, seen_in, used_by
from worker.limits.memory import MemoryLimiter
from worker.limits.redis import RedisLimiter
from worker.llm.base import Announced
from worker.llm.catalogue import Catalogue

CALLER = Caller("openai:gpt-5", "1f0c9a7e", "api.openai.com", "acme", "demo")
SIZE = Size(input_tokens=1200, max_output_tokens=4096)


def shares_of(caller: Caller, *rules: LimitRule) -> dict[str, Share]:
    return {share.bucket.key: share for share in demand_of(caller, SIZE, rules).shares}


def test_what_is_counted_apart_has_buckets_of_its_own() -> None:
    rule = LimitRule(model=("openai:*",), per=("credential", "model"), requests_per_minute=500)
    other = CALLER._replace(credential="00000000")
    assert list(shares_of(CALLER, rule)) == ["model=openai:gpt-5 credential=1f0c9a7e/requests_per_minute"]
    assert list(shares_of(other, rule)) == ["model=openai:gpt-5 credential=00000000/requests_per_minute"]


def test_what_is_not_counted_apart_shares_a_bucket() -> None:
    rule = LimitRule(model=("openai:gpt-5*", "openai:o*"), requests_per_minute=500)
    keys = [list(shares_of(CALLER._replace(model=f"openai:{name}"), rule)) for name in ("gpt-5", "gpt-5-mini", "o3")]
    assert keys == [["model=openai:gpt-5*,openai:o*/requests_per_minute"]] * 3
    assert list(shares_of(CALLER, LimitRule(concurrency=10))) == ["all/concurrency"]


@pytest.mark.parametrize(
    "rule",
    [{"model": "anthropic:*"}, {"tenant": "other"}, {"project": "x*"}, {"credential": "2*"}, {"host": "127.0.0.1"}],
    ids=str,
)
def test_a_rule_concerns_only_what_it_matches(rule: dict[str, str]) -> None:
    assert shares_of(CALLER, LimitRule.model_validate({**rule, "concurrency": 1})) == {}


def test_of_rules_for_the_same_bucket_the_first_counts_and_others_add_theirs() -> None:
    ours = LimitRule(per=("credential",), tokens_per_minute=2_000_000)
    shipped = LimitRule(per=("credential",), tokens_per_minute=3500, requests_per_day=200, assumed=True)
    shares = shares_of(CALLER, ours, shipped, LimitRule(per=("tenant",), concurrency=10))
    assert [(share.bucket.limit, share.bucket.assumed) for share in shares.values()] == [
        (2_000_000, False), (200, True), (10, False),
    ]  # fmt: skip


def test_a_call_takes_of_each_dimension_what_is_counted_there() -> None:
    rule = LimitRule(
        requests_per_minute=1,
        requests_per_day=1,
        tokens_per_minute=1,
        input_tokens_per_minute=1,
        output_tokens_per_minute=1,
        concurrency=1,
    )
    found = {
        share.bucket.dimension: (share.amount, share.most, share.estimated)
        for share in shares_of(CALLER, rule).values()
    }
    assert found == {
        Dimension.REQUESTS: (1, None, False),
        Dimension.DAILY_REQUESTS: (1, None, False),
        Dimension.TOKENS: (5296, None, True),
        Dimension.INPUT_TOKENS: (1200, None, True),
        Dimension.OUTPUT_TOKENS: (4096, 4096, True),
        Dimension.CONCURRENCY: (1, None, False),
    }


def test_a_provider_that_counts_at_admission_takes_the_greater_of_both_and_gives_nothing_back() -> None:
    rule = LimitRule(tokens_per_minute=10_000, counts="admission")
    [share] = shares_of(CALLER, rule).values()
    assert (share.amount, share.estimated) == (4096, False)


def test_limits_of_credentials_are_the_providers_and_others_are_ours() -> None:
    of_credential, of_tenant = LimitRule(per=("credential",), concurrency=1), LimitRule(per=("tenant",), concurrency=1)
    assert of_credential.of_provider
    assert not of_tenant.of_provider
    assert not of_credential.model_copy(update={"provider": False}).of_provider


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "limits nothing: give one of requests_per_minute"),
        ({"tokens_per_minute": 0}, "greater than 0"),
        ({"tokens_per_minut": 5}, "tokens_per_minut"),
        ({"concurrency": 5, "per": ["user"]}, "per"),
    ],
)
def test_a_rule_that_makes_no_sense_is_an_error(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        LimitRule.model_validate(given)


def test_a_typo_in_a_models_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[[limits]]\nmodel = "openai:*"\ntokens_per_minutes = 5\nconcurrency = 3\n')
    with pytest.raises(
        SettingsInvalid, match=r"line 3: \[limits\] tokens_per_minutes: .*did you mean tokens_per_minute"
    ):
        Catalogue.load(file)


def test_limits_of_a_file_go_before_those_that_ship(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[[limits]]\nmodel = "openai:*"\nhost = "api.openai.com"\nper = ["model", "credential"]\n'
                    "tokens_per_minute = 2_000_000.5\n")  # fmt: skip
    [share] = demand_of(CALLER, SIZE, Catalogue.load(file).limits).shares
    assert share.bucket.limit == 2_000_000.5


def test_a_key_of_openai_of_an_unknown_tier_has_3500_tokens_a_minute_until_its_headers_say_more() -> None:
    [share] = demand_of(CALLER, SIZE, Catalogue.load().limits).shares
    assert (share.bucket.limit, share.bucket.assumed, share.bucket.provider) == (3500, True, True)
    elsewhere = CALLER._replace(host="127.0.0.1")
    assert demand_of(elsewhere, SIZE, Catalogue.load().limits).shares == ()


def test_what_was_read_from_the_providers_cache_is_no_input_that_limits_count() -> None:
    usage = Usage(model_calls=1, input_tokens=1000, cached_input_tokens=900, output_tokens=50)
    assert used_by(usage) == {Dimension.TOKENS: 1050, Dimension.INPUT_TOKENS: 100, Dimension.OUTPUT_TOKENS: 50}


def test_headers_are_read_by_dimension() -> None:
    announced = (Announced(dimension="requests", limit=60, remaining=59), Announced(dimension="tokens", limit=30_000))
    assert seen_in(announced) == {Dimension.REQUESTS: Seen(60, 59), Dimension.TOKENS: Seen(30_000, None)}


FLEET = {"database_url": "postgresql://localhost/x"}


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, None),
        ({"redis_url": "redis://limits:6379"}, "redis://limits:6379"),
        ({**FLEET, "broker_url": "redis://broker:6379/1"}, "redis://broker:6379/1"),
        ({**FLEET, "broker_url": "amqp://broker", "redis_url": "redis://limits"}, "redis://limits"),
        ({**FLEET, "broker_url": "amqp://broker"}, None),
    ],
)
def test_limits_are_kept_in_the_redis_that_the_fleet_shares(settings: dict[str, str], url: str | None) -> None:
    given = Settings(**settings)  # pyright: ignore[reportArgumentType]
    assert limits_url(given) == url
    assert isinstance(limiter_of(given), MemoryLimiter if url is None else RedisLimiter)


def test_a_server_that_counts_more_from_its_cache_than_it_was_given_gives_nothing_back() -> None:
    used = used_by(Usage(model_calls=1, input_tokens=10, cached_input_tokens=30, output_tokens=5))
    assert used[Dimension.INPUT_TOKENS] == 0
