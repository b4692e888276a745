"""A provider's failure becomes the error that says whether, and when, a retry can help."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.errors import (
    ModelCapabilityError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
    NightfleetError,
)
from worker.llm.errors import Failure, cut_off, model_error, scrub, stalled, timed_out, unreachable, unreadable

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = "k3y-of-some-provider"


def error_for(status: int, *codes: str, message: str = "no", **more: Any) -> ModelError:
    named = {"provider": "openai", "model": "gpt-5-mini", "key_variable": "OPENAI_API_KEY"}
    failure = Failure(**named, status=status, codes=codes, message=message, **more)
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
        "reason": "request",
        "pause": "none",
        "billed": "no",
    }


def test_the_key_is_kept_out_of_the_message_even_where_the_provider_repeats_it():
    error = error_for(401, message=f"Incorrect API key provided: {KEY}. And sk-proj-ab12****wxyz too.")
    assert KEY not in error.message
    assert "sk-proj" not in error.message
    assert error.message.count("[key]") == 2


def test_a_silent_provider_and_one_with_a_page_of_text_give_a_message_of_bounded_length():
    assert "HTTP status 500" in error_for(500, message="").message
    assert len(error_for(500, message="x" * 100_000).message) < 1200


def test_silence_bad_connections_and_unreadable_answers_are_retryable_and_may_be_billed():
    lost = unreachable("openai", "http://host/v1", OSError(f"reset for {KEY}"), key=KEY)
    silent = stalled("openai", "m", 2.5, request_id="req_1")
    for error, reason in (
        (lost, "connection"),
        (timed_out("openai", "m", 2.5), "timeout"),
        (silent, "timeout"),
        (cut_off("openai", "m", request_id=None), "cut_off"),
        (unreadable("openai", "m", request_id=None), "unreadable"),
    ):
        assert type(error) is ModelUnavailable
        assert (error.retryable, error.reason, error.pause, error.billed) == (True, reason, "none", "unknown")
    assert KEY not in lost.message
    assert silent.details["request_id"] == "req_1"


def test_a_request_that_was_never_sent_is_not_billed():
    assert unreachable("openai", "http://host/v1", OSError("refused"), key=KEY, sent=False).billed == "no"


@pytest.mark.parametrize("error", [ModelRefused("no"), ModelCapabilityError("no"), ModelRateLimited("no")])
def test_what_a_provider_declines_is_not_billed_whoever_says_so(error: ModelError):
    assert (error.billed, error.pause, error.reason) == ("no", "none", None)


def test_what_is_known_of_a_failure_crosses_processes():
    error = error_for(429, "insufficient_quota")
    again = NightfleetError.from_data(error.to_data())
    assert isinstance(again, ModelError)
    assert (again.reason, again.pause, again.billed) == ("money", "job", "no")


def test_scrubbing_needs_no_key():
    assert scrub("as it is", "") == "as it is"
