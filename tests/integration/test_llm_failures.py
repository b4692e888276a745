"""Each way in which a model call can fail, through both real SDKs over HTTP: its class, what it pauses, and its bill.

Everything is asked in all four ways. Each call is one request, and nobody sleeps inside an SDK.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from asking import APIS, KEY, MODES, Asker
from model_server import ModelServer, Reply, event_of, streamed

from orchestrator.errors import ModelError, ModelRateLimited, ModelRefused, ModelUnavailable

WITH_REQUEST_ID = {"x-request-id": "req_7", "request-id": "req_7"}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(scope="module")
def askers(server: ModelServer) -> Iterator[dict[str, Asker]]:
    made = {api: Asker(api, server.url) for api in APIS}
    yield made
    for asker in made.values():
        asker.close()


@pytest.fixture(autouse=True)
def nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where an SDK would wait by itself: both do it in these two functions."""

    def asleep(*_: Any) -> None:
        raise AssertionError("an SDK sleeps")

    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", asleep)
    monkeypatch.setattr("openai._base_client.AsyncAPIClient._sleep_for_retry", asleep)
    monkeypatch.setattr("anthropic._base_client.SyncAPIClient._sleep_for_retry", asleep)
    monkeypatch.setattr("anthropic._base_client.AsyncAPIClient._sleep_for_retry", asleep)


def failure_of(asker: Asker, mode: str, **more: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        asker.ask(mode, **more)
    error = caught.value
    assert KEY not in f"{error!r} {error} {json.dumps(error.to_data())} {error.__cause__!r} {error.__context__!r}"
    return error


# What a provider says -------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a provider replies, and what it is to us."""

    status: int
    code: str
    kind: type[ModelError]
    reason: str
    pause: str = "none"
    billed: str = "no"
    message: str = "No."
    headers: Mapping[str, str] = {}
    retry_after: float | None = None


LATER = {"retry-after": "3600", "x-should-retry": "true"}
SOON = {"retry-after": "0.2"}
MONEY = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
]

OPENAI = [
    Row(400, "context_length_exceeded", ModelRefused, "context"),
    Row(400, "invalid_prompt", ModelRefused, "request"),
    Row(400, "content_filter", ModelRefused, "filtered"),
    Row(401, "invalid_api_key", ModelRefused, "key", "credential", message=f"Incorrect API key provided: {KEY}."),
    Row(403, "unsupported_country_region_territory", ModelRefused, "forbidden", "credential"),
    Row(404, "model_not_found", ModelRefused, "model"),
    Row(408, "", ModelUnavailable, "timeout", billed="unknown"),
    Row(409, "", ModelUnavailable, "conflict"),
    Row(413, "", ModelRefused, "context"),
    Row(422, "", ModelRefused, "request"),
    Row(429, "rate_limit_exceeded", ModelRateLimited, "rate", "bucket", headers=SOON, retry_after=0.2),
    Row(429, "rate_limit_exceeded", ModelRateLimited, "rate", "bucket", headers={"retry-after": "30"}, retry_after=30),
    Row(429, "rate_limit_exceeded", ModelRateLimited, "rate", "bucket", headers=LATER, retry_after=3600),
    Row(
        429,
        "rate_limit_exceeded",
        ModelRateLimited,
        "rate",
        "bucket",
        headers={"retry-after-ms": "1500"},
        retry_after=1.5,
    ),
    Row(429, "rate_limit_exceeded", ModelRateLimited, "rate", "bucket"),
    *(Row(429, code, ModelRefused, "money", "job", headers=LATER) for code in MONEY),
    Row(429, "slow_down", ModelRateLimited, "slow_down", "bucket", headers=SOON, retry_after=0.2),
    Row(500, "server_error", ModelUnavailable, "server"),
    Row(502, "", ModelUnavailable, "server", billed="unknown"),
    Row(503, "slow_down", ModelUnavailable, "slow_down", "bucket", headers=SOON, retry_after=0.2),
    Row(503, "server_is_overloaded", ModelUnavailable, "overloaded", "bucket", headers=LATER, retry_after=3600),
    Row(504, "", ModelUnavailable, "server", billed="unknown"),
]
ANTHROPIC = [
    Row(400, "invalid_request_error", ModelRefused, "request"),
    Row(
        400,
        "invalid_request_error",
        ModelRefused,
        "context",
        message="prompt is too long: 210000 tokens > 200000 maximum",
    ),
    Row(
        400,
        "invalid_request_error",
        ModelRefused,
        "money",
        "job",
        message="Your credit balance is too low to access this.",
    ),
    Row(
        400,
        "invalid_request_error",
        ModelRefused,
        "money",
        "job",
        message="You have reached your specified API usage limits.",
    ),
    Row(401, "authentication_error", ModelRefused, "key", "credential", message=f"invalid x-api-key {KEY}"),
    Row(402, "billing_error", ModelRefused, "money", "job"),
    Row(403, "permission_error", ModelRefused, "forbidden", "credential"),
    Row(404, "not_found_error", ModelRefused, "model"),
    Row(408, "timeout_error", ModelUnavailable, "timeout", billed="unknown"),
    Row(409, "conflict_error", ModelUnavailable, "conflict"),
    Row(413, "request_too_large", ModelRefused, "context"),
    Row(422, "invalid_request_error", ModelRefused, "request"),
    Row(429, "rate_limit_error", ModelRateLimited, "rate", "bucket", headers=SOON, retry_after=0.2),
    Row(429, "rate_limit_error", ModelRateLimited, "rate", "bucket", headers=LATER, retry_after=3600),
    Row(
        429, "rate_limit_error", ModelRateLimited, "slow_down", "bucket", message="You exceeded the acceleration limit."
    ),
    Row(429, "enforced_spend_limit_reached", ModelRefused, "money", "job", headers=LATER),
    Row(500, "api_error", ModelUnavailable, "server"),
    Row(503, "api_error", ModelUnavailable, "server"),
    Row(504, "timeout_error", ModelUnavailable, "server", billed="unknown"),
    Row(529, "overloaded_error", ModelUnavailable, "overloaded", "bucket", headers=LATER, retry_after=3600),
]
ROWS = [
    *((api, row) for api in ("responses", "chat") for row in OPENAI),
    *(("messages", row) for row in ANTHROPIC),
]


def said(api: str, row: Row) -> Reply:
    """Give a row's reply as the provider of an API says it."""
    if api != "messages":
        body: Any = {"error": {"message": row.message, "type": "some_type", "param": None, "code": row.code or None}}
    elif row.code == "enforced_spend_limit_reached":
        details = {"details": {"error_code": row.code}}
        body = {"type": "error", "error": {"type": "rate_limit_error", "message": row.message, **details}}
    else:
        body = {"type": "error", "error": {"type": row.code, "message": row.message}}
    return Reply(row.status, body, {**WITH_REQUEST_ID, **row.headers})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("api", "row"), ROWS, ids=[f"{api}-{row.status}-{row.code}-{n}" for n, (api, row) in enumerate(ROWS)]
)
def test_what_a_provider_says_has_a_class_and_an_action(
    server: ModelServer, askers: dict[str, Asker], api: str, row: Row, mode: str
):
    server.script(said(api, row))
    error = failure_of(askers[api], mode)
    assert type(error) is row.kind
    assert (error.reason, error.pause, error.billed) == (row.reason, row.pause, row.billed)
    assert error.retry_after == row.retry_after
    assert error.details["request_id"] == "req_7"
    assert len(server.asked) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
def test_a_page_of_a_proxy_instead_of_an_error_is_told_by_its_status(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str
):
    server.script(Reply(502, b"<html>Bad gateway</html>", {"content-type": "text/html"}))
    error = failure_of(askers[api], mode)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "server", "unknown")


def test_the_limits_that_come_with_an_error_come_with_ours(server: ModelServer, askers: dict[str, Asker]):
    headers = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "0"}
    server.script(Reply(429, {"error": {"message": "No.", "code": "rate_limit_exceeded"}}, headers))
    [limit] = failure_of(askers["chat"], "whole").announced
    assert (limit.dimension, limit.limit, limit.remaining) == ("requests", 500, 0)


@pytest.mark.parametrize(("api", "model", "says"), [
    ("chat", "gpt-5-mni", "did you mean openai:gpt-5-mini?"),
    ("messages", "claude-haiku-45", "did you mean anthropic:claude-haiku-4-5?"),
    ("messages", "nothing-like-it", "check the model's name"),
])  # fmt: skip
def test_an_unknown_model_comes_with_the_nearest_that_is_known(
    server: ModelServer, askers: dict[str, Asker], api: str, model: str, says: str
):
    asker = askers[api]
    server.script(said(api, Row(404, "not_found_error", ModelRefused, "model")))
    request = asker.request().model_copy(update={"model": f"{asker.provider.name}:{model}"})
    with pytest.raises(ModelRefused) as caught:
        asker.provider.invoke(request)
    assert says in caught.value.message


# No answer, or no end of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
def test_silence_ends_after_the_timeout_of_the_request_and_may_be_billed(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str
):
    server.script(Reply(parts=server.silence()))
    error = failure_of(askers[api], mode, timeout_seconds=1)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "timeout", "unknown")
    assert "within 1 s" in error.message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
def test_a_connection_that_breaks_after_the_request_may_be_billed(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str
):
    server.script(Reply(parts=[None]))
    error = failure_of(askers[api], mode)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "connection", "unknown")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_never_came_about_is_not_billed(
    server: ModelServer, api: str, mode: str, scheme: str, refusing_port: int
):
    port = refusing_port if scheme == "http" else server.url.rpartition(":")[2]
    asker = Asker(api, f"{scheme}://127.0.0.1:{port}")
    error = failure_of(asker, mode)
    asker.close()
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "connection", "no")
    assert "127.0.0.1" in error.message


@pytest.mark.parametrize("mode", ["whole", "whole on a loop"])
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("body", [b'{"model": "m", "choi', b"<html>Hello</html>", b"[]"], ids=["cut", "page", "list"])
def test_an_answer_that_is_none_is_unreadable_and_may_be_billed(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str, body: bytes
):
    server.script(Reply(200, body, WITH_REQUEST_ID))
    error = failure_of(askers[api], mode)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "unreadable", "unknown")
    assert error.details["request_id"] == "req_7"


def test_an_error_inside_a_successful_answer_is_an_error(server: ModelServer, askers: dict[str, Asker]):
    failed = {
        "model": "m",
        "status": "failed",
        "output": [],
        "error": {"code": "rate_limit_exceeded", "message": "No."},
    }
    server.script(Reply(200, failed), Reply(200, {"error": {"code": 429, "message": "No."}}))
    assert type(failure_of(askers["responses"], "whole")) is ModelRateLimited
    assert type(failure_of(askers["chat"], "whole")) is ModelRateLimited


# In the middle of a stream --------------------------------------------------------------------------------------------

BEGINNING: dict[str, list[Any]] = {
    "responses": [{"type": "response.created", "response": {}}, {"type": "response.output_text.delta", "delta": "Hel"}],
    "chat": [{"model": "m", "choices": [{"delta": {"content": "Hel"}}]}],
    "messages": [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    ],
}
#: An error as each API says it within a stream.
BREAKING: dict[str, Callable[[str], Any]] = {
    "responses": lambda code: {"type": "error", "code": code, "message": "No."},
    "chat": lambda code: {"error": {"code": code, "message": "No."}},
    "messages": lambda code: {"type": "error", "error": {"type": code, "message": "No."}},
}
STREAMED = ["streamed", "streamed on a loop"]


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("code", "expected"), [
    ("overloaded_error", (ModelUnavailable, "overloaded", "unknown")),
    ("server_error", (ModelUnavailable, "server", "unknown")),
    ("rate_limit_error", (ModelRateLimited, "rate", "unknown")),
    ("insufficient_quota", (ModelRefused, "money", "unknown")),
    ("invalid_request_error", (ModelRefused, "request", "unknown")),
])  # fmt: skip
def test_an_error_in_mid_stream_is_told_by_its_code_and_may_be_billed(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str, code: str, expected: tuple[type, str, str]
):
    server.script(streamed(*BEGINNING[api], BREAKING[api](code), headers=WITH_REQUEST_ID))
    error = failure_of(askers[api], mode)
    assert (type(error), error.reason, error.billed) == expected
    assert error.details["request_id"] == "req_7"
    assert len(server.asked) == 1


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("api", APIS)
def test_a_stall_in_mid_stream_ends_after_the_timeout_of_the_request(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str
):
    def stalling() -> Iterator[bytes | None]:
        yield from map(event_of, BEGINNING[api])
        yield from server.silence()

    server.script(Reply(parts=stalling()))
    error = failure_of(askers[api], mode, timeout_seconds=1)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "timeout", "unknown")


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    "sign", [b": still here\n\n", b'event: ping\ndata: {"type": "ping"}\n\n'], ids=["comment", "ping"]
)
def test_a_stream_that_only_says_that_it_is_alive_has_stalled(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str, sign: bytes
):
    def stalling() -> Iterator[bytes | None]:
        yield from map(event_of, BEGINNING[api])
        yield from server.repeated(sign)

    server.script(Reply(parts=stalling(), headers=WITH_REQUEST_ID))
    error = failure_of(askers[api], mode, timeout_seconds=1)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, "timeout", "unknown")
    assert "nothing more of the answer" in error.message


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("last", "reason"), [([], "cut_off"), ([None], "connection"), ([b"data: {\n\n"], "unreadable")]
)
def test_a_stream_that_ends_too_early_gives_no_answer(
    server: ModelServer, askers: dict[str, Asker], api: str, mode: str, last: list[Any], reason: str
):
    server.script(streamed(*BEGINNING[api], *last))
    error = failure_of(askers[api], mode)
    assert (type(error), error.reason, error.billed) == (ModelUnavailable, reason, "unknown")
