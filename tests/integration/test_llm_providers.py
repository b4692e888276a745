"""Both real SDKs, over real HTTP, against the emulator: answers, usage, structured output, and each way to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from asking import APIS, KEY, environment, model_of
from pydantic import BaseModel

from orchestrator.errors import ModelError, ModelRateLimited, ModelRefused, ModelUnavailable
from worker.emulator import Emulator, Fault
from worker.llm.anthropic import AnthropicProvider
from worker.llm.base import BaseLLMProvider, Delta, LLMRequest, LLMResponse
from worker.llm.message import Message
from worker.llm.openai import OpenAIProvider
from worker.llm.providers import Providers

TEXT = "Rivers carry water to the sea. Rivers begin as springs. Every spring is small."


class Verdict(BaseModel):
    passed: bool
    reasons: list[str]
    score: float | None = None


class Scores(BaseModel):
    by_name: dict[str, int]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture(params=APIS)
def provider(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[BaseLLMProvider]:
    made = make_provider(request.param, emulator.url)
    yield made
    made.close()


def make_provider(api: str, url: str) -> BaseLLMProvider:
    return Providers(environment(api, url)).provider_for(model_of(api))


def request_to(provider: BaseLLMProvider, text: str = TEXT, **more: Any) -> LLMRequest:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content=text))
    fields: dict[str, Any] = {"timeout_seconds": 90, **more}
    return LLMRequest(model=f"{provider.name}:some-model", messages=messages, **fields)


def failure_of(provider: BaseLLMProvider, **more: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        provider.invoke(request_to(provider, **more))
    error = caught.value
    assert KEY not in f"{error!r} {error.to_data()} {error.__cause__!r} {provider!r}"
    return error


def test_an_answer_names_its_model_its_usage_and_its_request(provider: BaseLLMProvider, emulator: Emulator):
    answer = provider.invoke(request_to(provider, temperature=0.0))
    [call] = emulator.calls
    assert answer.text.startswith("[emulator] Rivers carry water")
    assert answer.model == f"{provider.name}:some-model"
    assert answer.stop_reason == "end_turn"
    assert answer.request_id == call.request_id
    assert answer.usage.model_calls == 1
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (call.input_tokens, call.output_tokens)
    assert answer.usage.input_tokens > 20


def test_a_closed_schema_gives_json_of_that_shape(provider: BaseLLMProvider):
    answer = provider.invoke(request_to(provider, output_schema=Verdict.model_json_schema()))
    assert Verdict.model_validate_json(answer.text).passed


def test_an_open_schema_gives_json_of_that_shape_too(provider: BaseLLMProvider):
    answer = provider.invoke(request_to(provider, output_schema=Scores.model_json_schema()))
    assert Scores.model_validate_json(answer.text)
    assert answer.stop_reason == "end_turn"


def test_an_answer_that_is_cut_off_says_so(provider: BaseLLMProvider):
    answer = provider.invoke(request_to(provider, max_output_tokens=5))
    assert answer.stop_reason == "max_tokens"
    assert 0 < answer.usage.output_tokens <= 5


def test_a_refusal_says_so_and_keeps_what_the_model_said(provider: BaseLLMProvider, emulator: Emulator):
    emulator.script(["refusal"])
    answer = provider.invoke(request_to(provider))
    assert answer.stop_reason == "refusal"
    assert answer.text == "I can't help with that."


@pytest.mark.parametrize("kind", ["conflict", "disconnect", "malformed", "overloaded", "server_error", "timeout"])
def test_what_may_pass_is_unavailable_and_was_tried_once(provider: BaseLLMProvider, emulator: Emulator, kind: str):
    emulator.script([kind])
    error = failure_of(provider)
    assert type(error) is ModelUnavailable
    assert error.retryable
    assert len(emulator.calls) == 1


@pytest.mark.parametrize(("kind", "says"), [
    ("auth", "_API_KEY"),
    ("bad_request", "some-model"),
    ("context", "too long"),
    ("not_found", "check the model's name"),
    ("quota", "credit or spending limit"),
])  # fmt: skip
def test_what_stays_is_raised_as_refused_with_advice(
    provider: BaseLLMProvider, emulator: Emulator, kind: str, says: str
):
    emulator.script([kind])
    error = failure_of(provider)
    assert type(error) is ModelRefused
    assert not error.retryable
    assert says in error.message
    assert error.details["request_id"] == emulator.calls[0].request_id
    assert len(emulator.calls) == 1


def test_a_rate_limit_says_when_to_come_back(provider: BaseLLMProvider, emulator: Emulator):
    emulator.script([Fault(kind="rate_limit", retry_after=12), Fault(kind="rate_limit")])
    first, second = failure_of(provider), failure_of(provider)
    assert type(first) is type(second) is ModelRateLimited
    assert (first.retry_after, second.retry_after) == (12.0, None)


def test_the_reset_of_an_empty_limit_says_when_to_come_back(provider: BaseLLMProvider, emulator: Emulator):
    headers = {"x-ratelimit-reset-tokens": "1m30s", "x-ratelimit-remaining-tokens": "0"}
    emulator.script([Fault(kind="rate_limit", headers=headers)])
    assert failure_of(provider).retry_after == 90.0


def test_a_silent_server_is_unavailable_after_the_timeout_of_the_request(provider: BaseLLMProvider, emulator: Emulator):
    emulator.script(["stall"])
    error = failure_of(provider, timeout_seconds=1)
    assert type(error) is ModelUnavailable
    assert "no answer within 1 s" in error.message


@pytest.mark.parametrize("api", APIS)
def test_a_server_that_is_not_there_is_unavailable_and_named(api: str, refusing_port: int):
    provider = make_provider(api, f"http://127.0.0.1:{refusing_port}")
    error = failure_of(provider)
    provider.close()
    assert type(error) is ModelUnavailable
    assert "127.0.0.1" in error.message
    assert "refused" in error.message


def test_an_error_inside_a_successful_reply_is_an_error(emulator: Emulator):
    provider = make_provider("responses", emulator.url)
    emulator.script(["failed"])
    assert type(failure_of(provider)) is ModelUnavailable
    provider.close()


def test_tokens_are_counted_by_the_provider_where_it_can(provider: BaseLLMProvider):
    request = request_to(provider)
    assert provider.count_tokens(request) == pytest.approx(provider.invoke(request).usage.input_tokens, abs=10)


def test_the_emulator_streams_the_same_answer(provider: BaseLLMProvider, emulator: Emulator):
    whole = provider.invoke(request_to(provider))
    *pieces, answer = provider.invoke_streaming(request_to(provider))
    assert isinstance(answer, LLMResponse)
    assert (answer.text, answer.usage, answer.stop_reason) == (whole.text, whole.usage, whole.stop_reason)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == answer.text
    assert [call.request_id for call in emulator.calls] == [whole.request_id, answer.request_id]


def test_structured_output_streams_too(provider: BaseLLMProvider):
    for model in (Verdict, Scores):
        *_, answer = provider.invoke_streaming(request_to(provider, output_schema=model.model_json_schema()))
        assert isinstance(answer, LLMResponse)
        assert model.model_validate_json(answer.text)


def test_a_provider_made_by_hand_takes_what_it_needs_from_the_environment(emulator: Emulator):
    for made in (OpenAIProvider.from_env(emulator.env), AnthropicProvider.from_env(emulator.env)):
        assert made.invoke(request_to(made)).text
        made.close()


def test_one_provider_serves_many_threads_at_once():
    with Emulator(latency_seconds=0.3) as emulator, ThreadPoolExecutor(40) as pool:
        provider = make_provider("messages", emulator.url)
        gate = threading.Barrier(40)

        def ask(number: int) -> str:
            gate.wait()
            return provider.invoke(request_to(provider, f"This is text number {number}.")).text

        answers = list(pool.map(ask, range(40)))
        provider.close()
    assert answers == [f"[emulator] This is text number {number}." for number in range(40)]
    assert len({call.request_id for call in emulator.calls}) == 40


def test_an_answer_that_is_held_is_billed_and_comes_when_it_is_let_go(provider: BaseLLMProvider, emulator: Emulator):
    with ThreadPoolExecutor(1) as thread:
        with emulator.held():
            asked = thread.submit(provider.invoke, request_to(provider))
            pause = threading.Event()
            assert any(emulator.calls or pause.wait(0.01) for _ in range(6000))
            assert not asked.done()
        assert asked.result(60).text


def test_the_environment_that_the_emulator_prints_is_all_that_providers_need(emulator: Emulator):
    providers = Providers(emulator.env)
    for model in (providers.default_model(), "anthropic:claude-haiku-4-5"):
        message = Message(role="user", content=TEXT)
        answer = providers.provider_for(model).invoke(LLMRequest(model=model, messages=(message,)))
        assert answer.model == model
    providers.close()
    assert [call.api for call in emulator.calls] == ["chat", "messages"]
    assert len({call.key for call in emulator.calls}) == 2


def test_a_line_end_behind_a_key_does_no_harm(emulator: Emulator):
    providers = Providers({**emulator.env, "OPENAI_API_KEY": f"{KEY}\n"})
    message = Message(role="user", content=TEXT)
    request = LLMRequest(model="openai:some-model", messages=(message,))
    assert providers.provider_for(request.model).invoke(request).text
    providers.close()


def test_the_emulator_fails_by_header_by_model_and_by_script_posted_to_it(emulator: Emulator):
    body = {"model": "m", "messages": [{"role": "user", "content": TEXT}]}
    assert post(emulator, "/_faults", ["overloaded", {"kind": "ok"}]) == 200
    assert post(emulator, "/v1/chat/completions", body) == 529
    assert post(emulator, "/v1/chat/completions", body) == 200
    assert post(emulator, "/v1/chat/completions", body, {"x-emulator-fault": "auth"}) == 401
    assert post(emulator, "/v1/messages", body | {"model": "fault-quota"}) == 429
    assert post(emulator, "/v1/messages", body | {"model": "fault-nonsense"}) == 400
    assert post(emulator, "/v1/nothing", body) == 404
    with urlopen(f"{emulator.url}/_ledger") as reply:
        assert [line["status"] for line in json.load(reply)] == [529, 200, 401, 429]
    with urlopen(f"{emulator.url}/healthz") as reply:
        assert json.load(reply) == {"status": "ok"}


def post(emulator: Emulator, path: str, body: Any, headers: dict[str, str] | None = None) -> int:
    request = Request(f"{emulator.url}{path}", json.dumps(body).encode(), {"x-api-key": KEY, **(headers or {})})
    try:
        with urlopen(request) as reply:
            return reply.status
    except HTTPError as error:
        error.close()
        return error.code
