"""Answers as they come, through both real SDKs over HTTP: text piece by piece, the response last, connections used again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import APIS, KEY, MODES, Asker
from model_server import ModelServer, Reply, event_of, streamed

from worker.llm.base import Announced, Delta, LLMResponse
from worker.llm.providers import Providers

PARTS = ["Rivers ", "carry ", "water."]
TEXT = "".join(PARTS)
USED = {"input_tokens": 12, "output_tokens": 7}
#: The same answer in the words of each API: whole, and as events.
WHOLE: dict[str, Any] = {
    "responses": {
        "model": "some-model-1",
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": TEXT}]}],
        "usage": USED,
    },
    "chat": {
        "model": "some-model-1",
        "choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 7},
    },
    "messages": {
        "model": "some-model-1",
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "usage": USED,
    },
}
EVENTS: dict[str, list[Any]] = {
    "responses": [
        {"type": "response.created", "response": {"status": "in_progress"}},
        *({"type": "response.output_text.delta", "delta": part} for part in PARTS),
        {"type": "response.completed", "response": WHOLE["responses"]},
    ],
    "chat": [
        *({"model": "some-model-1", "choices": [{"delta": {"content": part}}]} for part in PARTS),
        {"model": "some-model-1", "choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"model": "some-model-1", "choices": [], "usage": WHOLE["chat"]["usage"]},
        b"data: [DONE]\n\n",
    ],
    "messages": [
        {"type": "message_start", "message": {"model": "some-model-1", "usage": {**USED, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}} for part in PARTS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ],
}
HEADERS = {"x-request-id": "req_1", "request-id": "req_1", "x-ratelimit-limit-requests": "60"}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(params=APIS)
def asker(request: pytest.FixtureRequest, server: ModelServer) -> Iterator[Asker]:
    made = Asker(request.param, server.url)
    yield made
    made.close()


def replies(asker: Asker, mode: str) -> Reply:
    if mode.startswith("streamed"):
        return streamed(*EVENTS[asker.api], headers=HEADERS)
    return Reply(200, WHOLE[asker.api], HEADERS)


@pytest.mark.parametrize("mode", MODES)
def test_the_answer_is_the_same_in_all_four_ways(asker: Asker, server: ModelServer, mode: str):
    server.script(replies(asker, mode))
    *deltas, answer = asker.pieces(mode, asker.request())
    assert isinstance(answer, LLMResponse)
    assert (answer.text, answer.model) == (TEXT, f"{asker.provider.name}:some-model-1")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 7)
    assert (answer.stop_reason, answer.request_id, answer.estimated) == ("end_turn", "req_1", False)
    assert answer.announced == (Announced(dimension="requests", limit=60),)
    assert deltas == ([Delta(text=part) for part in PARTS] if mode.startswith("streamed") else [])
    assert server.asked[0].body.get("stream", False) is mode.startswith("streamed")


def test_an_answer_as_json_has_nothing_of_the_moment(asker: Asker, server: ModelServer):
    server.script(replies(asker, "whole"))
    answer = asker.ask("whole")
    assert "announced" not in answer.model_dump()
    assert LLMResponse.model_validate_json(answer.model_dump_json()).text == answer.text


@pytest.mark.parametrize("mode", ["whole", "whole on a loop"])
def test_a_long_answer_is_streamed_although_nobody_watches(asker: Asker, server: ModelServer, mode: str):
    server.script(replies(asker, "streamed"))
    assert asker.ask(mode, max_output_tokens=60_000).text == TEXT
    assert server.asked[0].body["stream"] is True


@pytest.mark.parametrize("mode", ["streamed", "streamed on a loop"])
def test_text_comes_before_the_answer_is_whole(asker: Asker, server: ModelServer, mode: str):
    seen = threading.Event()

    def held() -> Iterator[bytes | None]:
        *begin, last = EVENTS[asker.api]
        yield from map(event_of, begin)
        assert seen.wait(60)
        yield event_of(last)

    server.script(Reply(parts=held()))
    if mode == "streamed":
        with closing(asker.provider.invoke_streaming(asker.request())) as pieces:
            assert next(pieces) == Delta(text=PARTS[0])
            seen.set()
            *_, answer = pieces
    else:
        answer = asker.run(_last_of(asker, seen))
    assert isinstance(answer, LLMResponse)
    assert answer.text == TEXT


async def _last_of(asker: Asker, seen: threading.Event) -> Any:
    async with aclosing(asker.provider.invoke_streaming_async(asker.request())) as pieces:
        assert await anext(pieces) == Delta(text=PARTS[0])
        seen.set()
        return [piece async for piece in pieces][-1]


@pytest.mark.parametrize("mode", ["streamed", "streamed on a loop"])
def test_what_comes_after_a_whole_answer_changes_nothing(asker: Asker, server: ModelServer, mode: str):
    server.script(streamed(*EVENTS[asker.api], None))
    assert asker.ask(mode).text == TEXT


def test_a_stream_that_nobody_reads_on_is_closed(asker: Asker, server: ModelServer):
    def endless() -> Iterator[bytes | None]:
        yield from map(event_of, EVENTS[asker.api][:4])
        yield from server.repeated(b": more\n\n", 0.001)

    server.script(Reply(parts=endless()), replies(asker, "whole"))
    pieces = asker.provider.invoke_streaming(asker.request())
    assert isinstance(next(pieces), Delta)
    pieces.close()
    assert asker.ask("whole").text == TEXT


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_is_used_again(asker: Asker, server: ModelServer, mode: str, monkeypatch: pytest.MonkeyPatch):
    # However long it takes to ask five times: the library lets go of a connection after five seconds.
    monkeypatch.setattr(httpx2, "Limits", partial(httpx2.Limits, keepalive_expiry=None))
    server.script(*(replies(asker, mode) for _ in range(5)))
    for _ in range(5):
        asker.ask(mode)
    assert len({asked.port for asked in server.asked}) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_provider_that_was_closed_answers_again(asker: Asker, server: ModelServer, mode: str):
    server.script(replies(asker, mode), replies(asker, mode))
    assert asker.ask(mode).text == TEXT
    asker.run(asker.provider.aclose())
    asker.provider.close()
    assert asker.ask(mode).text == TEXT


def test_each_loop_has_connections_of_its_own(asker: Asker, server: ModelServer):
    server.script(replies(asker, "whole"), replies(asker, "whole"))

    async def ask_once() -> str:
        answer = await asker.provider.invoke_async(asker.request())
        await asker.provider.aclose()
        return answer.text

    assert [asyncio.run(ask_once()) for _ in range(2)] == [TEXT, TEXT]


@pytest.mark.parametrize("on_a_loop", [False, True])
def test_tokens_are_counted_by_a_server_that_counts(server: ModelServer, tmp_path: Path, on_a_loop: bool):
    file = tmp_path / "models.toml"
    file.write_text(f"[endpoints.openai]\nbase_url = '{server.url}/v1'\n")
    for api, path in (("responses", "/v1/responses/input_tokens"), ("messages", "/v1/messages/count_tokens")):
        asker = Asker(api, server.url, file)
        server.script(Reply(200, {"input_tokens": 42}))
        request = asker.request()
        provider = asker.provider
        counted = asker.run(provider.count_tokens_async(request)) if on_a_loop else provider.count_tokens(request)
        assert (counted, server.asked[0].path) == (42, path)
        asker.close()


def test_tokens_are_estimated_where_the_server_does_not_count(server: ModelServer):
    asker = Asker("chat", server.url)
    assert asker.provider.count_tokens(asker.request()) > 0
    assert asker.run(asker.provider.count_tokens_async(asker.request())) > 0
    assert server.asked == []
    asker.close()


def test_a_temperature_is_left_out_for_models_that_take_none(server: ModelServer):
    asker = Asker("chat", server.url)
    server.script(replies(asker, "whole"), replies(asker, "whole"))
    request = asker.request(temperature=0.5)
    asker.provider.invoke(request)
    asker.provider.invoke(request.model_copy(update={"model": "openai:gpt-5-mini"}))
    assert [asked.body.get("temperature") for asked in server.asked] == [0.5, None]
    asker.close()


# Endpoints ------------------------------------------------------------------------------------------------------------


def test_each_key_is_sent_by_its_own_provider(server: ModelServer):
    env = {"OPENAI_API_KEYS": "one,two", "OPENAI_BASE_URL": f"{server.url}/v1"}
    providers = Providers(env)
    server.script(*(Reply(200, WHOLE["chat"]) for _ in range(2)))
    request = Asker("chat", server.url).request()
    for provider in providers.providers_for(request.model):
        provider.invoke(request)
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer one", "Bearer two"]
    providers.close()


@pytest.mark.parametrize("version", ["", "2025-04-01-preview"])
@pytest.mark.parametrize("mode", MODES)
def test_a_deployment_of_azure_is_asked_at_its_place(server: ModelServer, mode: str, version: str):
    env = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": server.url, "OPENAI_API_VERSION": version}
    asker = Asker("chat", server.url, model="azure:my-gpt", env=env)
    server.script(replies(asker, mode))
    answer = asker.ask(mode)
    [asked] = server.asked
    if version:
        assert asked.path == f"/openai/deployments/my-gpt/chat/completions?api-version={version}"
        assert asked.headers["api-key"] == KEY
    else:
        assert asked.path == "/openai/v1/chat/completions"
        assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body["max_completion_tokens"] == 4096
    assert answer.model == "azure:some-model-1"
    asker.close()


@pytest.mark.parametrize(("name", "variable"), [
    ("deepseek", "DEEPSEEK"), ("gemini", "GEMINI"), ("modelscope", "MODELSCOPE"), ("openrouter", "OPENROUTER"),
    ("ollama", "OLLAMA"), ("vllm", "VLLM"),
])  # fmt: skip
def test_a_compatible_server_answers_under_its_own_name(server: ModelServer, name: str, variable: str):
    env = {f"{variable}_API_KEY": KEY, f"{variable}_BASE_URL": f"{server.url}/v1"}
    asker = Asker("chat", server.url, model=f"{name}:some/model:free", env=env)
    server.script(replies(asker, "whole"))
    assert asker.ask("whole").model == f"{name}:some-model-1"
    [asked] = server.asked
    assert (asked.path, asked.body["model"], asked.body["max_tokens"]) == (
        "/v1/chat/completions",
        "some/model:free",
        4096,
    )
    asker.close()


def test_an_endpoint_of_the_user_is_three_lines(server: ModelServer, tmp_path: Path):
    file = tmp_path / "models.toml"
    file.write_text(f"[endpoints.mine]\napi = 'chat'\nbase_url = '{server.url}/v1'\n")
    asker = Asker("chat", server.url, file, model="mine:m")
    server.script(replies(asker, "whole"))
    assert asker.ask("whole").model == "mine:some-model-1"
    asker.close()


def test_no_header_of_openai_goes_to_others(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    env = {"DEEPSEEK_API_KEY": KEY, "DEEPSEEK_BASE_URL": server.url}
    asker = Asker("chat", server.url, model="deepseek:m", env=env)
    server.script(replies(asker, "whole"))
    asker.ask("whole")
    assert "of-mine" not in json.dumps(server.asked[0].headers)
    asker.close()
