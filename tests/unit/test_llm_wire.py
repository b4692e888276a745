"""Requests, answers and streams in the words of each API: what goes in and comes out of pure functions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.contracts.usage import Usage
from worker.llm.base import Delta, LLMRequest, LLMResponse
from worker.llm.endpoints import Manner
from worker.llm.message import Message, ToolCall, ToolSpec
from worker.llm.reading import Stalled, StreamReading
from worker.llm.wire.base import ErrorSaid, Unreadable, Wire, told
from worker.llm.wire.chat import ChatWire
from worker.llm.wire.messages import MessagesWire
from worker.llm.wire.responses import ResponsesWire
from worker.llm.wire.sse import EventReader

MESSAGES = (Message(role="system", content="Be brief."), Message(role="user", content="Hello?"))


class Closed(BaseModel):
    yes: bool


class Open(BaseModel):
    numbers: dict[str, int]


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> Any:
        raise AssertionError("nobody asks for the date")


def request_for(**more: Any) -> LLMRequest:
    return LLMRequest(model="there:m-1", messages=MESSAGES, **more)


def chat(**manner: Any) -> ChatWire:
    return ChatWire("there", Manner(api="chat", **manner))


def responses() -> ResponsesWire:
    return ResponsesWire("there", Manner(api="responses"))


def messages() -> MessagesWire:
    return MessagesWire("there", Manner(api="messages"), lambda schema: {**schema, "adapted": True})


def fed(wire: Wire, *events: Any, request: LLMRequest | None = None) -> tuple[list[str], LLMResponse]:
    """Give the pieces and the response of a stream."""
    fold = wire.fold(request or request_for())
    deltas = [delta.text for event in events if (delta := fold.feed(event)) is not None]
    return deltas, fold.response()


# Events ---------------------------------------------------------------------------------------------------------------

STREAM = (
    b"event: a\r\ndata: one\r\n\r\n: a comment\n\ndata: t\xc3\xa4o\ndata:  three\n\n"
    b"id: 7\n\nretry: 5\ndata:\n\ndata: x\r\rdata: cut"
)
EVENTS = [b"one", "täo\n three".encode(), b"", b"x"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_events_are_the_same_however_their_bytes_are_cut(size: int):
    reader = EventReader()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [data for piece in pieces for data in reader.feed(piece)] == EVENTS


# Requests -------------------------------------------------------------------------------------------------------------


def test_the_field_of_the_output_limit_is_the_servers():
    assert chat().body(request_for(max_output_tokens=9))["max_tokens"] == 9
    newer = chat(max_tokens_field="max_completion_tokens").body(request_for(max_output_tokens=9))
    assert newer["max_completion_tokens"] == 9
    assert "max_tokens" not in newer


def test_a_schema_goes_where_the_api_has_its_place_for_it():
    request = request_for(output_schema=Closed.model_json_schema())
    assert responses().body(request)["text"]["format"]["strict"] is True
    assert chat().body(request)["response_format"]["json_schema"]["strict"] is True
    assert messages().body(request)["output_config"]["format"]["schema"]["adapted"] is True


def test_a_schema_that_is_not_closed_is_asked_for_less_strictly_and_at_anthropic_as_a_tool():
    request = request_for(output_schema=Open.model_json_schema())
    assert responses().body(request)["text"]["format"]["strict"] is False
    assert chat().body(request)["response_format"]["json_schema"]["strict"] is False
    assert messages().body(request)["tool_choice"] == {"type": "tool", "name": "answer"}


def test_who_may_call_no_tools_any_more_is_left_the_one_for_the_answer():
    request = request_for(output_schema=Open.model_json_schema(), tools=(ToolSpec(name="search"),))
    assert messages().body(request)["tool_choice"] == {"type": "any"}
    last = messages().body(request.model_copy(update={"tool_choice": "none"}))
    assert last["tool_choice"] == {"type": "tool", "name": "answer"}


def test_a_tool_of_the_authors_may_be_named_as_the_one_for_the_answer():
    given = {"tools": (ToolSpec(name="answer"),), "output_schema": Open.model_json_schema()}
    assert [tool["name"] for tool in messages().body(request_for(**given))["tools"]] == ["answer", "answer_"]
    used = {"type": "tool_use", "id": "c1", "name": "answer", "input": {"to": "all"}}
    said = {"model": "m-1", "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 2}}
    whole = messages().answer(json.dumps({**said, "content": [used]}).encode(), request_for(**given))
    _, streamed = fed(
        messages(),
        START,
        block_start(0, type="tool_use", id="c1", name="answer", input={}),
        block_delta(0, type="input_json_delta", partial_json='{"to": "all"}'),
        end("tool_use", output_tokens=2),
        STOP,
        request=request_for(**given),
    )
    for response in (whole, streamed):
        assert (response.text, response.tool_calls) == (
            "",
            (ToolCall(id="c1", name="answer", arguments='{"to": "all"}'),),
        )


def test_a_turn_in_which_nothing_was_said_is_left_out_at_anthropic():
    said = (*MESSAGES, Message(role="assistant", content=""), Message(role="user", content="Again."))
    body = messages().body(LLMRequest(model="there:m-1", messages=said))
    assert [turn["content"] for turn in body["messages"]] == ["Hello?", "Again."]


def test_calls_without_ids_are_told_apart_by_their_place():
    calls = [{"function": {"name": "search", "arguments": "{}"}}] * 2
    body = {"choices": [{"message": {"tool_calls": calls}}]}
    answer = chat().answer(json.dumps(body).encode(), request_for())
    assert [each.id for each in answer.tool_calls] == ["search-0", "search-1"]


@pytest.mark.parametrize(("structured", "response_format"), [
    ("json_object", {"type": "json_object"}),
    ("none", None),
])  # fmt: skip
def test_a_server_without_schemas_is_told_the_schema_in_words(structured: str, response_format: Any):
    body = chat(structured=structured).body(request_for(output_schema=Closed.model_json_schema()))
    assert body.get("response_format") == response_format
    assert '"yes"' in body["messages"][0]["content"]
    assert [turn["content"] for turn in body["messages"][1:]] == ["Be brief.", "Hello?"]


def test_the_system_message_has_a_place_of_its_own_at_anthropic():
    body = messages().body(request_for())
    assert body["system"] == "Be brief."
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_a_stream_is_asked_for_its_usage_only_where_the_server_takes_that():
    assert chat().streaming({})["stream_options"] == {"include_usage": True}
    assert "stream_options" not in chat(stream_usage=False).streaming({})


def test_tokens_are_counted_of_the_input_alone():
    request = request_for(temperature=0.5, output_schema=Closed.model_json_schema())
    assert responses().counting(responses().body(request)).keys() == {"model", "input", "text"}
    assert messages().counting(messages().body(request)).keys() == {"model", "messages", "system", "output_config"}


# Answers --------------------------------------------------------------------------------------------------------------


def chat_answer(**more: Any) -> bytes:
    choice = {"message": {"content": "Hi."}, "finish_reason": "stop"}
    return json.dumps({"model": "m-1-exact", "choices": [choice], **more}).encode()


def test_usage_tells_what_was_cached_written_and_thought():
    openai = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    anthropic = {
        "input_tokens": 50,
        "output_tokens": 50,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 10,
        "output_tokens_details": {"thinking_tokens": 30},
    }
    said = {"model": "m", "content": [{"type": "text", "text": "Hi."}], "stop_reason": "end_turn", "usage": anthropic}
    same = Usage(
        model_calls=1,
        input_tokens=100,
        output_tokens=50,
        cached_input_tokens=40,
        cache_write_input_tokens=10,
        reasoning_tokens=30,
    )
    assert chat().answer(chat_answer(usage=openai), request_for()).usage == same
    assert messages().answer(json.dumps(said).encode(), request_for()).usage == same


def test_usage_that_a_server_keeps_to_itself_is_estimated_and_said_to_be():
    answer = chat().answer(chat_answer(), request_for())
    assert answer.estimated
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def test_a_server_that_names_no_model_answers_as_the_one_that_was_asked():
    assert chat().answer(chat_answer(model=""), request_for()).model == "there:m-1"
    assert chat().answer(chat_answer(), request_for()).model == "there:m-1-exact"


@pytest.mark.parametrize("content", [
    b"", b"{", b"<html>", b"[]", b'{"choices": [{"finish_reason": "stop"}]}',
])  # fmt: skip
def test_an_answer_that_is_none_is_unreadable(content: bytes):
    for wire in (chat(), responses(), messages()):
        with pytest.raises((ValidationError, Unreadable)):
            wire.answer(content, request_for())


@pytest.mark.parametrize(("body", "expected"), [
    ({"error": {"code": "slow_down", "type": "requests", "message": "No."}}, (("slow_down", "requests"), "No.", None)),
    ({"code": "slow_down", "message": "No."}, (("slow_down",), "No.", None)),
    ({"error": {"code": 502, "message": "No."}}, (("502",), "No.", 502)),
    ({"error": "model 'x' not found"}, ((), "model 'x' not found", None)),
    ([{"error": {"code": 429, "message": "No."}}], (("429",), "No.", 429)),
    (
        {"type": "error", "error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}},
        (("enforced_spend_limit_reached", "rate_limit_error"), "", None),
    ),
    ("<html>Bad gateway</html>", ((), "<html>Bad gateway</html>", None)),
    (None, ((), "", None)),
])  # fmt: skip
def test_an_error_is_understood_in_every_form_in_which_servers_say_it(body: Any, expected: Any):
    assert told(body) == expected


# Streams --------------------------------------------------------------------------------------------------------------


def chunk(text: str | None = None, reason: str | None = None, **more: Any) -> Any:
    return {"model": "m-1", "choices": [{"delta": {"content": text}, "finish_reason": reason}], **more}


def test_chunks_become_text_and_the_last_one_the_usage():
    last = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    deltas, answer = fed(chat(), chunk(""), chunk("Hel"), chunk("lo."), chunk(reason="length"), last)
    assert (deltas, answer.text, answer.stop_reason) == (["Hel", "lo."], "Hello.", "max_tokens")
    assert (answer.usage.input_tokens, answer.estimated) == (3, False)


def test_chunks_without_usage_are_an_answer_whose_usage_is_estimated():
    assert fed(chat(), chunk("Hello.", "stop"))[1].estimated


def test_a_refusal_in_chunks_is_a_refusal():
    piece = {"choices": [{"delta": {"refusal": "No."}, "finish_reason": "stop"}]}
    assert fed(chat(), piece)[1].stop_reason == "refusal"


START = {
    "type": "message_start",
    "message": {"model": "m-1", "usage": {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 20}},
}
STOP = {"type": "message_stop"}


def block_delta(index: int, **delta: Any) -> Any:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block_start(index: int, **block: Any) -> Any:
    return {"type": "content_block_start", "index": index, "content_block": block}


def end(reason: str, **usage: Any) -> Any:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def test_blocks_of_text_become_text_and_thinking_does_not():
    deltas, answer = fed(
        messages(),
        START,
        block_start(0, type="thinking", thinking=""),
        block_delta(0, type="thinking_delta", thinking="Hm."),
        block_delta(0, type="signature_delta", signature="abc"),
        block_start(1, type="text", text=""),
        block_delta(1, type="text_delta", text="Hel"),
        block_delta(1, type="text_delta", text="lo."),
        end("end_turn", output_tokens=9),
        STOP,
    )
    assert (deltas, answer.text, answer.stop_reason) == (["Hel", "lo."], "Hello.", "end_turn")
    assert (answer.usage.input_tokens, answer.usage.cached_input_tokens, answer.usage.output_tokens) == (25, 20, 9)


def test_the_input_of_the_answering_tool_becomes_text_and_that_of_another_a_call():
    deltas, answer = fed(
        messages(),
        START,
        block_start(0, type="tool_use", id="c1", name="search", input={}),
        block_delta(0, type="input_json_delta", partial_json='{"q": 1}'),
        block_start(1, type="tool_use", name="answer", input={}),
        block_delta(1, type="input_json_delta", partial_json='{"numbers"'),
        block_delta(1, type="input_json_delta", partial_json=': {"a": 1}}'),
        end("tool_use", output_tokens=9),
        STOP,
    )
    assert "".join(deltas) == answer.text == '{"numbers": {"a": 1}}'
    assert answer.tool_calls == (ToolCall(id="c1", name="search", arguments='{"q": 1}'),)
    assert answer.stop_reason == "tool_use"


def test_the_last_event_of_a_response_is_the_answer():
    answer = {
        "model": "m-1",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    deltas, response = fed(
        responses(),
        {"type": "response.created", "response": {}},
        {"type": "response.output_text.delta", "delta": "Hel"},
        {"type": "response.output_text.delta", "delta": "lo."},
        {"type": "response.incomplete", "response": answer},
    )
    assert (deltas, response.text, response.stop_reason) == (["Hel", "lo."], "Hello.", "max_tokens")


@pytest.mark.parametrize(("wire", "event"), [
    (chat(), {"error": {"code": "server_error", "message": "No."}}),
    (responses(), {"type": "error", "code": "server_error", "message": "No."}),
    (responses(), {"type": "response.failed", "response": {
        "model": "m", "status": "failed", "output": [], "error": {"code": "server_error", "message": "No."}}}),
    (messages(), {"type": "error", "error": {"type": "overloaded_error", "message": "No."}}),
], ids=["chat", "responses", "failed", "messages"])  # fmt: skip
def test_an_error_in_a_stream_is_an_error(wire: Wire, event: Any):
    with pytest.raises(ErrorSaid) as caught:
        wire.fold(request_for()).feed(event)
    codes, message, _ = told(caught.value.body)
    assert codes[0].endswith("error")
    assert message == "No."


@pytest.mark.parametrize(("wire", "events"), [
    (chat(), [chunk("Hel")]),
    (responses(), [{"type": "response.output_text.delta", "delta": "Hel"}]),
    (messages(), [START, block_delta(0, type="text_delta", text="Hel")]),
    (messages(), [STOP]),
], ids=["chat", "responses", "messages", "without a start"])  # fmt: skip
def test_a_stream_that_ends_before_its_answer_gives_none(wire: Wire, events: list[Any]):
    with pytest.raises(Unreadable):
        fed(wire, *events)


# Silence --------------------------------------------------------------------------------------------------------------


def sse(event: Any) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def waited(reading: StreamReading, hands: Hands, seconds: float, chunk: bytes) -> list[Delta]:
    """Take bytes that have come after so many seconds."""
    reading.wait_seconds()
    hands.seconds += seconds
    return list(reading.feed(chunk))


@pytest.mark.parametrize("sign", [b": still here\n\n", sse({"type": "ping"}), b"", b"data: {"], ids=repr)
def test_signs_of_life_are_no_answer(sign: bytes):
    hands = Hands()
    reading = StreamReading(messages().fold(request_for()), 10, hands)
    waited(reading, hands, 6, sign)
    assert reading.wait_seconds() == pytest.approx(4)
    with pytest.raises(Stalled):
        waited(reading, hands, 5, sign)


def test_each_part_of_an_answer_is_waited_for_anew():
    hands = Hands()
    reading = StreamReading(chat().fold(request_for()), 10, hands)
    texts = [delta.text for _ in range(5) for delta in waited(reading, hands, 9, sse(chunk("a")))]
    assert texts == ["a"] * 5
    assert reading.wait_seconds() == 10


def test_what_is_done_with_an_answer_meanwhile_is_no_silence():
    hands = Hands()
    reading = StreamReading(chat().fold(request_for()), 10, hands)
    waited(reading, hands, 1, sse(chunk("a")))
    hands.seconds += 1000
    waited(reading, hands, 1, b": still here\n\n")
    assert reading.wait_seconds() == pytest.approx(9)


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 5\n\n", b'data: {"type": "response.output_text.delta"}\n\n'])
def test_an_event_that_is_none_is_unreadable(data: bytes):
    reading = StreamReading(responses().fold(request_for()), 10, Hands())
    with pytest.raises(Unreadable):
        list(reading.feed(data))
