"""The parts of webhooks: endpoints, times of retries, documents, and the times that receivers ask for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.contracts.webhook import EVENTS, expanded
from orchestrator.errors import UsageError
from orchestrator.webhooks.document import MOST_BYTES, Event, Facts, document
from orchestrator.webhooks.outgoing import made_endpoint
from orchestrator.webhooks.schedule import DELAYS, LONGEST_SECONDS, delay_seconds, in_flight, pause_seconds
from worker.webhooks.posting import seconds_of

GIVEN: dict[str, Any] = {"name": "orders", "url": "https://shop.example.com/hooks", "secrets": ("ORDERS_SECRET",)}
RUN = "0199c0de-0000-7000-8000-000000000000"


def event(kind: str = "run.failed", **subject: Any) -> Event:
    return Event("0199c0de-1", 7, kind, "p", RUN, subject, datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))


# Endpoints ------------------------------------------------------------------------------------------------------------


def test_an_endpoint_is_told_of_runs_unless_it_says_otherwise() -> None:
    made = made_endpoint(**GIVEN)
    assert made.events == ("run.succeeded", "run.failed", "run.cancelled")
    assert (made.content, made.private, made.timeout, made.concurrency) == (False, False, timedelta(seconds=15), 4)


def test_patterns_mean_all_events_below_them_each_once() -> None:
    assert expanded(["run.*", "run.failed", "question.asked"]) == (*EVENTS[:3], "question.asked")
    assert expanded(["*"]) == EVENTS


@pytest.mark.parametrize("pattern", ["run", "runs.*", "run*", "webhook.test", "webhook.*", "", "r*"])
def test_a_pattern_that_means_no_event_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="is no event"):
        made_endpoint(**{**GIVEN, "events": (pattern,)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Orders!"}, "is no name"),
        ({"url": "ftp://example.com"}, "begins with https://"),
        ({"url": "https:///hooks"}, "names a host"),
        ({"url": "https://example.com/a b"}, "begins with https://"),
        ({"url": "http://example.com"}, "can be read on its way"),
        ({"url": "https://user:pw@example.com"}, "a user or a password is not kept"),
        ({"events": ()}, "say which events"),
        ({"secrets": ()}, "at least 1"),
        ({"secrets": ("NIGHTFLEET_HOOK_SECRET",)}, "are settings"),
        ({"timeout": 61}, "timeout"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_an_endpoint_that_will_not_do_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made_endpoint(**{**GIVEN, **change})


@pytest.mark.parametrize("key", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "my secret", "hunter-2"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError, match="named by the environment variables") as refused:
        made_endpoint(**{**GIVEN, "secrets": (key,)})
    assert key not in refused.value.message


# Times ----------------------------------------------------------------------------------------------------------------


def test_requests_are_repeated_over_days_ever_more_seldom_and_then_no_more() -> None:
    delays = [delay_seconds(attempt) for attempt in range(1, len(DELAYS) + 1)]
    assert all(delay is not None and DELAYS[n] * 0.8 <= delay <= DELAYS[n] * 1.2 for n, delay in enumerate(delays))
    assert sum(DELAYS) > 3 * 86_400
    assert delay_seconds(len(DELAYS) + 1) is None


def test_a_receiver_may_ask_for_more_time_but_not_for_ever_and_not_for_less() -> None:
    assert delay_seconds(1, retry_after=600) == 600
    assert delay_seconds(1, retry_after=1e9) == LONGEST_SECONDS
    assert (delay_seconds(4, retry_after=1) or 0) >= DELAYS[3] * 0.8


def test_answers_that_ask_for_fewer_requests_pause_the_whole_endpoint() -> None:
    assert pause_seconds(429, 60.0) == 60.0
    assert all(pause_seconds(status) > 0 for status in (429, 502, 503, 504))
    assert pause_seconds(500, 60.0) == pause_seconds(None) == pause_seconds(404) == 0.0


def test_an_endpoint_that_fails_again_and_again_is_only_probed() -> None:
    assert [in_flight(8, failures) for failures in (0, 4, 5, 100)] == [8, 8, 1, 1]


def test_the_time_of_retry_after_is_read_by_the_receivers_own_clock() -> None:
    assert seconds_of("120", None) == 120.0
    assert seconds_of("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:27:00 GMT") == 60.0
    assert seconds_of("Wed, 21 Oct 2026 07:20:00 GMT", "Wed, 21 Oct 2026 07:27:00 GMT") == 0.0
    for unread in (None, "", "soon", "-5", "1e9", "Wed, 21 Oct"):
        assert seconds_of(unread, "Wed, 21 Oct 2026 07:27:00 GMT") is None
    assert seconds_of("Wed, 21 Oct 2026 07:28:00 GMT", None) is None


# Documents ------------------------------------------------------------------------------------------------------------


def test_a_document_says_what_happened_and_nothing_that_agents_said() -> None:
    happened = event(
        state="failed",
        error={"code": "agent_failed", "message": "the patient is Ada", "task": "reader"},
        created_at="2026-01-02 03:04:00.000000",
        finished_at="2026-01-02T05:04:05.678+02:00",
    )
    said = json.loads(document(happened, Facts(project="press", workflow="demo", cost_nanousd=1_250_000)))
    assert said["type"] == "run.failed"
    assert said["timestamp"] == "2026-01-02T03:04:05.678Z"
    assert (said["id"], said["sequence"]) == ("0199c0de-1", 7)
    assert said["data"] == {
        "run_id": RUN, "state": "failed", "project": "press", "workflow": "demo",
        "created_at": "2026-01-02T03:04:00.000Z", "started_at": None, "finished_at": "2026-01-02T03:04:05.678Z",
        "error": {"code": "agent_failed", "task": "reader"}, "cost_usd": "0.00125", "user": None, "batch_id": None,
        "variant": None, "forked_from": None,
    }  # fmt: skip


def test_content_that_is_too_large_is_left_out_and_that_is_said() -> None:
    small = json.loads(document(event("run.succeeded"), Facts(content={"output": {"text": "yes"}})))
    assert small["data"]["output"] == {"text": "yes"}
    large = document(event("run.succeeded"), Facts(content={"output": "\u00e4" * MOST_BYTES}))
    assert len(large.encode()) < 2000
    assert json.loads(large)["data"]["left_out"] == ["output"]
