"""A provider's failure becomes the error that says whether, and when, a retry can help."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.errors import ModelRateLimited, ModelRefused, ModelUnavailable, NightfleetError
from worker.llm.errors import Failure, model_error, retry_after_seconds, scrub, timed_out, unreachable, unreadable

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = "k3y-of-some-provider"


def error_for(status: int, *codes: str, message: str = "no", **more: Any) -> NightfleetError:
    failure = Failure(provider="openai", model="gpt-5-mini", status=status, codes=codes, message=message, **more)
    return model_error(failure, now=NOW, key=KEY)


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
def test_what_may_pass_is_unavailable_and_retryable(status: int):
    error = error_for(status)
    assert type(error) is ModelUnavailable
    assert error.retryable


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_stays_as_it_is_is_refused_and_not_retryable(status: int):
    error = error_for(status)
    assert type(error) is ModelRefused
    assert not error.retryable


def test_a_rate_limit_is_retryable_after_the_time_that_the_provider_names():
    error = error_for(429, "rate_limit_exceeded", headers={"retry-after": "7"})
    assert type(error) is ModelRateLimited
    assert (error.retryable, error.retry_after) == (True, 7.0)


def test_an_overloaded_provider_is_left_alone_for_as_long_as_it_asks():
    assert error_for(529, "overloaded_error", headers={"Retry-After": "3.5"}).retry_after == 3.5


@pytest.mark.parametrize(
    "code",
    ["insufficient_quota", "credit_balance_exhausted", "enforced_spend_limit_reached", "billing_hard_limit_reached"],
)
def test_money_that_is_used_up_is_refused_although_it_comes_as_a_rate_limit(code: str):
    error = error_for(429, code, "rate_limit_error", headers={"retry-after": "1"})
    assert type(error) is ModelRefused
    assert (error.retryable, error.retry_after) == (False, None)
    assert "credit or spending limit" in error.message


def test_payment_required_is_refused():
    assert type(error_for(402)) is ModelRefused


@pytest.mark.parametrize(("code", "kind"), [
    ("server_error", ModelUnavailable),
    ("rate_limit_exceeded", ModelRateLimited),
    ("invalid_prompt", ModelRefused),
])  # fmt: skip
def test_an_error_inside_a_successful_reply_is_told_by_its_code(code: str, kind: type[NightfleetError]):
    assert type(error_for(200, code)) is kind


@pytest.mark.parametrize(("status", "codes", "advice"), [
    (401, (), "check OPENAI_API_KEY"),
    (404, (), "check the model's name"),
    (400, ("context_length_exceeded",), "shorten the input"),
    (413, (), "shorten the input"),
])  # fmt: skip
def test_a_refusal_says_what_to_do(status: int, codes: tuple[str, ...], advice: str):
    assert advice in error_for(status, *codes).message


def test_the_error_names_model_status_code_and_request():
    error = error_for(400, "invalid_value", message="bad value", request_id="req_1")
    assert error.message.startswith("openai:gpt-5-mini: bad value")
    assert error.details == {
        "provider": "openai",
        "model": "gpt-5-mini",
        "status": 400,
        "provider_code": "invalid_value",
        "request_id": "req_1",
    }


def test_the_key_is_kept_out_of_the_message_even_where_the_provider_repeats_it():
    error = error_for(401, message=f"Incorrect API key provided: {KEY}. And sk-proj-ab12****wxyz too.")
    assert KEY not in error.message
    assert "sk-proj" not in error.message
    assert error.message.count("[key]") == 2


def test_a_silent_provider_and_one_with_a_page_of_text_give_a_message_of_bounded_length():
    assert "HTTP status 500" in error_for(500, message="").message
    assert len(error_for(500, message="x" * 100_000).message) < 1200


@pytest.mark.parametrize(("headers", "seconds"), [
    ({}, None),
    ({"retry-after": "20"}, 20.0),
    ({"retry-after": "0.25"}, 0.25),
    ({"Retry-After": "Sun, 01 Mar 2026 12:01:30 GMT"}, 90.0),
    ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0),
    ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ({"retry-after": "-5"}, 0.0),
    ({"retry-after": "soon"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "1e300"}, None),
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
    ({"x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "0"}, 0.02),
    ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
    ({"anthropic-ratelimit-requests-reset": "2026-03-01T12:00:10Z"}, 10.0),
    ({"anthropic-ratelimit-requests-reset": "2026-03-01T12:00:10"}, None),
    ({"x-ratelimit-reset-tokens": "?"}, None),
])  # fmt: skip
def test_the_time_to_wait_is_read_from_every_form_of_header(headers: dict[str, str], seconds: float | None):
    assert retry_after_seconds(headers, now=NOW) == (seconds if seconds is None else pytest.approx(seconds))


def test_all_limits_with_nothing_remaining_have_to_be_reset():
    headers = {
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-tokens": "5s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-project-tokens": "60s",
        "x-ratelimit-remaining-project-tokens": "900",
    }
    assert retry_after_seconds(headers, now=NOW) == 5.0


def test_where_no_limit_is_empty_the_first_reset_may_do():
    headers = {
        "anthropic-ratelimit-input-tokens-reset": "2026-03-01T12:00:40Z",
        "anthropic-ratelimit-input-tokens-remaining": "1000",
        "anthropic-ratelimit-output-tokens-reset": "2026-03-01T12:00:15Z",
        "anthropic-ratelimit-output-tokens-remaining": "2000",
    }
    assert retry_after_seconds(headers, now=NOW) == 15.0


def test_silence_bad_connections_and_unreadable_answers_are_retryable():
    refused = unreachable("openai", "http://host/v1", OSError(f"refused for {KEY}"), key=KEY)
    for error in (refused, timed_out("openai", "m", 2.5), unreadable("openai", "m", request_id=None)):
        assert type(error) is ModelUnavailable
        assert error.retryable
    assert KEY not in refused.message
    assert "OPENAI_BASE_URL" in refused.message


def test_scrubbing_needs_no_key():
    assert scrub("as it is", "") == "as it is"
