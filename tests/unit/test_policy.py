"""Policies are frozen, checked once, and say their durations in seconds."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.contracts.policy import Limits, RetryPolicy, Timeouts


def test_the_default_is_three_retries_after_two_four_and_eight_seconds() -> None:
    policy = RetryPolicy(jitter=0)
    assert policy.retries == 3
    assert [policy.delay_seconds(failures) for failures in (1, 2, 3)] == [2, 4, 8]


def test_delays_grow_up_to_the_longest() -> None:
    policy = RetryPolicy.model_validate({"first_delay": 1, "factor": 10, "max_delay": 60, "jitter": 0})
    assert [policy.delay_seconds(failures) for failures in (1, 2, 3, 4)] == [1, 10, 60, 60]


def test_the_thousandth_delay_is_the_longest_and_no_overflow() -> None:
    policy = RetryPolicy(retries=1000, factor=10, jitter=0)
    assert policy.delay_seconds(1000) == policy.max_delay.total_seconds()


def test_the_delay_is_moved_by_at_most_the_share_of_jitter() -> None:
    delays = [RetryPolicy(jitter=0.5).delay_seconds(1) for _ in range(500)]
    assert 1.0 <= min(delays) < 1.5
    assert 2.5 < max(delays) <= 3.0


def test_what_the_error_asks_for_is_a_lower_bound_even_above_the_longest_delay() -> None:
    policy = RetryPolicy(jitter=0.5)
    assert all(policy.delay_seconds(1, retry_after=5) >= 5 for _ in range(200))
    assert policy.delay_seconds(1, retry_after=3600) == 3600
    assert RetryPolicy(jitter=0).delay_seconds(3, retry_after=1) == 8


def test_a_delay_of_nothing_is_possible() -> None:
    policy = RetryPolicy.model_validate({"first_delay": 0})
    assert [policy.delay_seconds(failures) for failures in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("seconds", [90, 90.0, "90", timedelta(seconds=90), "PT1M30S", "00:01:30"])
def test_a_duration_is_given_in_seconds_or_as_a_timedelta(seconds: object) -> None:
    assert Timeouts.model_validate({"hard": seconds}).hard == timedelta(seconds=90)


@pytest.mark.parametrize("seconds", [0, -1, True, "soon", [1]])
def test_what_is_no_positive_duration_is_refused(seconds: object) -> None:
    with pytest.raises(ValidationError):
        Timeouts.model_validate({"hard": seconds})


def test_none_means_no_limit() -> None:
    assert Timeouts.model_validate({"hard": None}) == Timeouts()


def test_durations_are_seconds_on_the_way_out_and_come_back() -> None:
    timeouts = Timeouts(soft=timedelta(milliseconds=1500), hard=timedelta(minutes=1))
    assert json.loads(timeouts.model_dump_json()) == {"soft": 1.5, "hard": 60.0}
    assert Timeouts.model_validate_json(timeouts.model_dump_json()) == timeouts


@pytest.mark.parametrize("soft", [60, 61])
def test_the_soft_limit_is_shorter_than_the_hard_one(soft: int) -> None:
    with pytest.raises(ValidationError, match="must be shorter than hard"):
        Timeouts.model_validate({"soft": soft, "hard": 60})


@pytest.mark.parametrize(
    "fields",
    [
        {"retries": -1},
        {"retries": 1001},
        {"factor": 0.5},
        {"factor": 11},
        {"jitter": 1.5},
        {"first_delay": -1},
        {"retry": 3},
    ],
)
def test_values_out_of_bounds_and_unknown_names_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RetryPolicy.model_validate(fields)


@pytest.mark.parametrize("policy", [RetryPolicy(), Timeouts(), Limits()])
def test_policies_are_frozen_and_come_back_equal(policy: BaseModel) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(policy, next(iter(type(policy).model_fields)), 1)
    assert type(policy).model_validate_json(policy.model_dump_json()) == policy


def test_limits_are_none_or_not_negative() -> None:
    assert (Limits().model_calls, Limits(model_calls=0).model_calls) == (None, 0)
    with pytest.raises(ValidationError):
        Limits(model_calls=-1)
