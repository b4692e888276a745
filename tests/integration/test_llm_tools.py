"""Tools, images and files through both real SDKs over HTTP: what is sent in the words of each API, and what is read of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from asking import APIS, MODES, Asker
from model_server import ModelServer, Reply

from worker.emulator import Answer, Emulator
from worker.emulator import ToolCall as Told
from worker.llm.base import LLMResponse
from worker.llm.message import File, Image, Message, Text, ToolCall, ToolSpec

WEATHER = ToolSpec(
    name="weather",
    description="Tell the weather.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
#: One of its parameters may be left out: no API may make it required.
SEARCH = ToolSpec(
    name="search",
    description="Search.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "default": 3}},
        "required": ["query"],
    },
)
CALLS = (
    Told(name="weather", arguments={"city": "Höganäs"}, id="call_1"),
    Told(name="search", arguments={"query": "sea"}, id="call_2"),
)
PIXEL = b"\x89PNG\r\n\x1a\n...."
TALK = (
    Message(role="system", content="Be brief."),
    Message(role="user", content=(Text(text="What is this?"), Image.of(PIXEL), File.of(b"%PDF-1.7", "notes.pdf"))),
    Message(
        role="assistant",
        content="I look.",
        tool_calls=(
            ToolCall(id="call_1", name="weather", arguments='{"city": "Rome"}'),
            ToolCall(id="call_2", name="search", arguments='{"query": "sea"}'),
        ),
    ),
    Message(role="tool", call_id="call_1", content="sunny"),
    Message(role="tool", call_id="call_2", content=(Text(text="seen"), Image.of(PIXEL)), failed=True),
)
IMAGE_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
FILE_URL = f"data:application/pdf;base64,{base64.b64encode(b'%PDF-1.7').decode()}"
OPEN = {"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def asked(api: str, server: ModelServer, **more: Any) -> dict[str, Any]:
    """Give the body that an API gets."""
    server.script(Reply(500, {"error": {"message": "no"}}))
    asker = Asker(api, server.url)
    request = asker.request(tools=(WEATHER, SEARCH), **more)
    with pytest.raises(Exception, match="no"):
        asker.provider.invoke(request.model_copy(update={"messages": TALK}))
    asker.close()
    return server.asked[0].body


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
def test_calls_of_tools_are_read_in_all_four_ways(api: str, mode: str, emulator: Emulator) -> None:
    emulator.script([Answer(text="I look.", tool_calls=CALLS)])
    asker = Asker(api, emulator.url)
    *deltas, answer = asker.pieces(mode, asker.request(tools=(WEATHER, SEARCH)))
    asker.close()
    assert isinstance(answer, LLMResponse)
    assert [(call.id, call.name, call.parsed()) for call in answer.tool_calls] == [
        ("call_1", "weather", {"city": "Höganäs"}),
        ("call_2", "search", {"query": "sea"}),
    ]
    assert (answer.text, answer.stop_reason) == ("I look.", "tool_use")
    assert "".join(getattr(delta, "text", "") for delta in deltas) == ("I look." if mode.startswith("str") else "")
    assert LLMResponse.model_validate_json(answer.model_dump_json()).tool_calls == answer.tool_calls


def test_responses_gets_each_call_and_each_result_as_an_item(server: ModelServer) -> None:
    body = asked("responses", server)
    assert body["input"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"},
                {"type": "input_file", "filename": "notes.pdf", "file_data": FILE_URL},
            ],
        },
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call", "call_id": "call_2", "name": "search", "arguments": '{"query": "sea"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [
                {"type": "input_text", "text": "seen"},
                {"type": "input_image", "image_url": IMAGE_URL, "detail": "auto"},
            ],
        },
    ]
    assert [(tool["name"], tool["strict"]) for tool in body["tools"]] == [("weather", True), ("search", False)]
    assert body["tools"][1]["parameters"] == SEARCH.parameters
    assert "tool_choice" not in body


def test_chat_gets_calls_beside_the_text_and_results_as_messages(server: ModelServer) -> None:
    body = asked("chat", server, tool_choice="none")
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": IMAGE_URL}},
        {"type": "file", "file": {"filename": "notes.pdf", "file_data": FILE_URL}},
    ]
    assert body["messages"][2] == {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "search", "arguments": '{"query": "sea"}'}},
        ],
    }
    assert body["messages"][3] == {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}
    assert body["messages"][4]["content"] == f"seen\n<image: image/png, {len(PIXEL)} bytes>"
    assert [tool["function"].get("strict", False) for tool in body["tools"]] == [True, False]
    assert body["tool_choice"] == "none"


def test_a_conversation_with_tools_is_kept_by_the_server_for_its_next_call(emulator: Emulator) -> None:
    emulator.script([Answer(tool_calls=CALLS[:1]), Answer(text="Sunny."), Answer(text="No tools.")])
    asker = Asker("messages", emulator.url)
    long = Message(role="user", content="A harbour. " * 1500)
    first = asker.provider.invoke(asker.request(tools=(WEATHER,)).model_copy(update={"messages": (long,)}))
    talk = (
        long,
        Message(role="assistant", content=first.text, tool_calls=first.tool_calls),
        Message(role="tool", content="sunny", call_id=first.tool_calls[0].id),
    )
    second = asker.provider.invoke(asker.request(tools=(WEATHER,)).model_copy(update={"messages": talk}))
    plain = asker.provider.invoke(asker.request().model_copy(update={"messages": (long,)}))
    asker.close()
    assert first.usage.cache_write_input_tokens > 1024
    assert second.usage.cached_input_tokens == first.usage.cache_write_input_tokens
    assert plain.usage.cache_write_input_tokens == 0, "nobody asks with this again: keeping it costs more"


def test_messages_gets_the_results_of_one_turn_as_one_turn(server: ModelServer) -> None:
    body = asked("messages", server, tool_choice="required")
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE_URL[22:]}}
    document = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": FILE_URL[28:]},
    }
    assert body["messages"][0]["content"] == [{"type": "text", "text": "What is this?"}, image, document]
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "call_2", "name": "search", "input": {"query": "sea"}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
        {
            "type": "tool_result",
            "tool_use_id": "call_2",
            "content": [{"type": "text", "text": "seen"}, image],
            "is_error": True,
        },
    ]
    assert body["tools"][0] == {
        "name": "weather",
        "description": "Tell the weather.",
        "input_schema": WEATHER.parameters,
    }
    assert body["tool_choice"] == {"type": "any"}


def test_an_open_schema_stands_among_the_tools_where_the_api_has_no_other_way(server: ModelServer) -> None:
    body = asked("messages", server, output_schema=OPEN)
    assert [tool["name"] for tool in body["tools"]] == ["weather", "search", "answer"]
    assert body["tool_choice"] == {"type": "any"}


def test_arguments_that_are_no_object_do_not_stop_the_next_model(server: ModelServer) -> None:
    talk = (
        Message(role="user", content="Go."),
        Message(role="assistant", tool_calls=(ToolCall(id="c", name="weather", arguments="{no"),)),
        Message(role="tool", call_id="c", content="the arguments are no JSON", failed=True),
    )
    server.script(Reply(500, {"error": {"message": "no"}}))
    asker = Asker("messages", server.url)
    with pytest.raises(Exception, match="no"):
        asker.provider.invoke(asker.request().model_copy(update={"messages": talk}))
    asker.close()
    assert server.asked[0].body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "c", "name": "weather", "input": {"": "{no"}}
    ]
