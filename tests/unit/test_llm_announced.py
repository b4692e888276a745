"""The headers of every provider say when to come back and how much is left, in one form."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from worker.llm.announced import announced, retry_after_seconds
from worker.llm.base import Announced

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


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


def test_the_limits_of_openai_are_read():
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "X-RateLimit-Limit-Tokens": "200000",
        "x-ratelimit-remaining-tokens": "199000",
    }
    assert announced(headers, now=NOW) == (
        Announced(dimension="requests", limit=500, remaining=499, reset_seconds=0.12),
        Announced(dimension="tokens", limit=200_000, remaining=199_000),
    )


def test_the_limits_of_anthropic_are_read_each_side_of_the_tokens_for_itself():
    headers = {
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-03-01T12:00:30Z",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
    }
    assert announced(headers, now=NOW) == (
        Announced(dimension="input_tokens", limit=40_000, remaining=0, reset_seconds=30.0),
        Announced(dimension="output_tokens", remaining=8000),
    )


@pytest.mark.parametrize("headers", [
    {},
    {"content-type": "application/json"},
    {"x-ratelimit-reset-requests": "1s"},
])  # fmt: skip
def test_headers_without_limits_announce_none(headers: dict[str, str]):
    assert announced(headers, now=NOW) == ()


def test_a_limit_that_is_no_number_is_no_limit():
    [found] = announced({"x-ratelimit-limit-requests": "unlimited", "x-ratelimit-remaining-requests": "-1"}, now=NOW)
    assert (found.limit, found.remaining) == (None, None)
