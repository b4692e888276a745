"""What the emulator sends is what both real SDKs read, whole and streamed, blocking and for asyncio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from worker.emulator import Answer, Emulator, Fault, Setup, ToolCall

TEXT = "Rivers carry water to the sea. Rivers begin as springs."
SAID = f"[emulator] {TEXT}"
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CALL = ToolCall(name="weather", arguments={"city": "Höganäs am Öresund", "days": 3}, id="call_7")
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}]
RESPONSES_TOOLS: Any = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]
MESSAGES_TOOLS: Any = [{"name": "weather", "input_schema": WEATHER}]
ASKED: Any = [{"role": "user", "content": TEXT}]


class Verdict(BaseModel):
    passed: bool
    reasons: list[str]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@contextmanager
def gpt(emulator: Emulator) -> Generator[openai.OpenAI]:
    with openai.OpenAI(api_key="key", base_url=f"{emulator.url}/v1", max_retries=0, timeout=60) as client:
        yield client


@contextmanager
def claude(emulator: Emulator) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="key", base_url=emulator.url, max_retries=0, timeout=60) as client:
        yield client


@asynccontextmanager
async def both(emulator: Emulator) -> AsyncGenerator[tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]]:
    async with (
        openai.AsyncOpenAI(api_key="key", base_url=f"{emulator.url}/v1", max_retries=0) as first,
        anthropic.AsyncAnthropic(api_key="key", base_url=emulator.url, max_retries=0) as second,
    ):
        yield first, second


def pieces_of(stream: Iterable[ChatCompletionChunk]) -> Iterator[str]:
    return (chunk.choices[0].delta.content or "" for chunk in stream)


# Streams --------------------------------------------------------------------------------------------------------------


def test_a_streamed_completion_adds_up_to_the_whole_one(emulator: Emulator) -> None:
    with gpt(emulator) as client:
        whole = client.chat.completions.create(model="m", messages=ASKED)
        with client.chat.completions.stream(
            model="m", messages=ASKED, stream_options={"include_usage": True}
        ) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content == whole.choices[0].message.content == SAID
    assert len(pieces) > 5
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.total_tokens == whole.usage.total_tokens
    assert final.choices[0].finish_reason == "stop"
    assert [call.streamed for call in emulator.calls] == [False, True]


def test_a_completion_is_streamed_with_its_usage_only_if_that_is_asked_for(emulator: Emulator) -> None:
    with gpt(emulator) as client:
        chunks = list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_a_streamed_response_adds_up_to_the_whole_one(emulator: Emulator) -> None:
    with gpt(emulator) as client:
        whole = client.responses.create(model="m", input=TEXT)
        with client.responses.stream(model="m", input=TEXT) as stream:
            events = list(stream)
            final = stream.get_final_response()
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID
    assert final.output_text == whole.output_text == SAID
    assert final.usage == whole.usage
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if "delta" not in event.type] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_streamed_message_adds_up_to_the_whole_one(emulator: Emulator) -> None:
    with claude(emulator) as client:
        whole = client.messages.create(model="m", max_tokens=99, messages=ASKED)
        with client.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
            pieces = list(stream.text_stream)
            final = stream.get_final_message()
    assert "".join(pieces) == SAID
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert (final.usage.input_tokens, final.usage.output_tokens) == (
        whole.usage.input_tokens,
        whole.usage.output_tokens,
    )
    assert final.stop_reason == whole.stop_reason == "end_turn"


def test_asynchronous_clients_read_the_same_streams(emulator: Emulator) -> None:
    async def ask() -> list[str]:
        async with both(emulator) as (gpt, claude):
            async with gpt.responses.stream(model="m", input=TEXT) as stream:
                response = await stream.get_final_response()
            async with gpt.chat.completions.stream(model="m", messages=ASKED) as stream:
                completion = await stream.get_final_completion()
            async with claude.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
                message = await stream.get_final_text()
        return [response.output_text, completion.choices[0].message.content or "", message]

    assert asyncio.run(ask()) == [SAID, SAID, SAID]


def test_a_stream_that_is_cut_off_by_its_limit_says_so(emulator: Emulator) -> None:
    with gpt(emulator) as client, claude(emulator) as other:
        chunks = list(client.chat.completions.create(model="m", messages=ASKED, max_tokens=5, stream=True))
        events = list(client.responses.create(model="m", input=TEXT, max_output_tokens=5, stream=True))
        with other.messages.stream(model="m", max_tokens=5, messages=ASKED) as stream:
            message = stream.get_final_message()
    assert chunks[-1].choices[0].finish_reason == "length"
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert message.stop_reason == "max_tokens"
    assert {call.output_tokens for call in emulator.calls} == {5}


def test_a_refusal_is_streamed_as_one(emulator: Emulator) -> None:
    emulator.script(["refusal"] * 3)
    with gpt(emulator) as client, claude(emulator) as other:
        with client.chat.completions.stream(model="m", messages=ASKED) as stream:
            completion = stream.get_final_completion()
        events = list(client.responses.create(model="m", input=TEXT, stream=True))
        with other.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
            message = stream.get_final_message()
    refusal = "I can't help with that."
    assert completion.choices[0].message.refusal == refusal
    assert "".join(event.delta for event in events if event.type == "response.refusal.delta") == refusal
    assert message.stop_reason == "refusal"


def test_what_a_model_thinks_comes_before_what_it_says_and_is_billed(emulator: Emulator) -> None:
    emulator.script([Answer(thinking="Let me think it over.", text="Yes.")] * 4)
    with gpt(emulator) as client, claude(emulator) as other:
        response = client.responses.create(model="m", input=TEXT)
        with client.responses.stream(model="m", input=TEXT) as stream:
            events = list(stream)
            streamed = stream.get_final_response()
        message = other.messages.create(model="m", max_tokens=99, messages=ASKED)
        with other.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
            final = stream.get_final_message()
    assert (
        [item.type for item in streamed.output] == [item.type for item in response.output] == ["reasoning", "message"]
    )
    thoughts = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(thoughts) == "Let me think it over."
    assert response.output_text == streamed.output_text == "Yes."
    for thought, said in (message.content, final.content):
        assert thought.type == "thinking"
        assert said.type == "text"
        assert (thought.thinking, said.text) == ("Let me think it over.", "Yes.")
        assert thought.signature
    assert final.usage.output_tokens_details == message.usage.output_tokens_details is not None
    assert [(call.output_tokens, call.reasoning_tokens) for call in emulator.calls] == [(9, 7)] * 4


def test_a_reason_to_stop_may_be_any_that_the_api_has(emulator: Emulator) -> None:
    emulator.script([Answer(text="So far.", stop_reason="model_context_window_exceeded")] * 2)
    with claude(emulator) as client:
        whole = client.messages.create(model="m", max_tokens=99, messages=ASKED)
        with client.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
            streamed = stream.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "model_context_window_exceeded"


def test_what_a_filter_stopped_says_so(emulator: Emulator) -> None:
    emulator.script(["filtered"] * 3)
    with gpt(emulator) as client, claude(emulator) as other:
        completion = client.chat.completions.create(model="m", messages=ASKED)
        response = client.responses.create(model="m", input=TEXT)
        message = other.messages.create(model="m", max_tokens=99, messages=ASKED)
    assert completion.choices[0].finish_reason == "content_filter"
    assert response.incomplete_details
    assert response.incomplete_details.reason == "content_filter"
    assert message.stop_reason == "refusal"


# Tools and structured output ------------------------------------------------------------------------------------------


def test_a_scripted_call_of_a_tool_is_read_whole_by_both_sdks(emulator: Emulator) -> None:
    emulator.script([Answer(text="I look.", tool_calls=(CALL,))] * 3)
    with gpt(emulator) as client, claude(emulator) as other:
        completion = client.chat.completions.create(model="m", messages=ASKED, tools=CHAT_TOOLS)
        response = client.responses.create(model="m", input=TEXT, tools=RESPONSES_TOOLS)
        message = other.messages.create(model="m", max_tokens=99, messages=ASKED, tools=MESSAGES_TOOLS)
    [asked] = completion.choices[0].message.tool_calls or []
    assert asked.type == "function"
    assert (asked.id, json.loads(asked.function.arguments)) == ("call_7", CALL.arguments)
    assert completion.choices[0].finish_reason == "tool_calls"
    said, called = response.output
    assert (said.type, called.type) == ("message", "function_call")
    assert called.type == "function_call"
    assert (called.call_id, json.loads(called.arguments)) == ("call_7", CALL.arguments)
    text, used = message.content
    assert text.type == "text"
    assert used.type == "tool_use"
    assert (used.id, used.input, message.stop_reason) == ("call_7", CALL.arguments, "tool_use")


def test_a_streamed_call_of_a_tool_adds_up(emulator: Emulator) -> None:
    emulator.script([Answer(tool_calls=(CALL, CALL.model_copy(update={"id": "call_8"})))] * 3)
    with gpt(emulator) as client, claude(emulator) as other:
        with client.chat.completions.stream(model="m", messages=ASKED, tools=CHAT_TOOLS) as stream:
            completion = stream.get_final_completion()
        with client.responses.stream(model="m", input=TEXT, tools=RESPONSES_TOOLS) as stream:
            response = stream.get_final_response()
        with other.messages.stream(model="m", max_tokens=99, messages=ASKED, tools=MESSAGES_TOOLS) as stream:
            message = stream.get_final_message()
    calls = completion.choices[0].message.tool_calls or []
    assert [(call.id, call.function.parsed_arguments) for call in calls] == [
        ("call_7", CALL.arguments),
        ("call_8", CALL.arguments),
    ]
    assert [item.call_id for item in response.output if item.type == "function_call"] == ["call_7", "call_8"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [CALL.arguments] * 2


def test_a_tool_that_has_to_be_called_is_called_with_what_its_schema_allows(emulator: Emulator) -> None:
    with gpt(emulator) as client, claude(emulator) as other:
        completion = client.chat.completions.create(
            model="m",
            messages=ASKED,
            tools=CHAT_TOOLS,
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )
        response = client.responses.create(model="m", input=TEXT, tools=RESPONSES_TOOLS, tool_choice="required")
        message = other.messages.create(
            model="m", max_tokens=99, messages=ASKED, tools=MESSAGES_TOOLS, tool_choice={"type": "any"}
        )
    [chosen] = completion.choices[0].message.tool_calls or []
    assert chosen.type == "function"
    assert json.loads(chosen.function.arguments) == {"city": "emulated", "days": 1}
    assert [item.type for item in response.output] == ["function_call"]
    assert [block.type for block in message.content] == ["tool_use"]


def test_a_tool_that_may_be_called_is_not(emulator: Emulator) -> None:
    with gpt(emulator) as client:
        assert client.responses.create(model="m", input=TEXT, tools=RESPONSES_TOOLS).output_text == SAID


def test_an_agent_is_answered_turn_by_turn_with_the_results_of_its_tools(emulator: Emulator) -> None:
    emulator.script([Answer(tool_calls=(CALL,)), Answer(text="It rains.")])
    with claude(emulator) as client:
        first = client.messages.create(model="m", max_tokens=99, messages=ASKED, tools=MESSAGES_TOOLS)
        result: Any = {"type": "tool_result", "tool_use_id": "call_7", "content": "rain"}
        spoken: Any = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = client.messages.create(model="m", max_tokens=99, messages=spoken, tools=MESSAGES_TOOLS)
    assert second.content[0].type == "text"
    assert second.content[0].text == "It rains."
    assert emulator.calls[1].input_tokens > emulator.calls[0].input_tokens


def test_output_of_a_schema_is_parsed_whole_and_from_a_stream(emulator: Emulator) -> None:
    with gpt(emulator) as client, claude(emulator) as other:
        completion = client.chat.completions.parse(model="m", messages=ASKED, response_format=Verdict)
        response = client.responses.parse(model="m", input=TEXT, text_format=Verdict)
        message = other.messages.parse(model="m", max_tokens=99, messages=ASKED, output_format=Verdict)
        with client.responses.stream(model="m", input=TEXT, text_format=Verdict) as stream:
            streamed = stream.get_final_response()
    wanted = Verdict(passed=True, reasons=["emulated"])
    assert completion.choices[0].message.parsed == wanted
    assert response.output_parsed == streamed.output_parsed == message.parsed_output == wanted


# Beside answers -------------------------------------------------------------------------------------------------------


def test_embeddings_come_as_the_sdk_asks_for_them_and_near_texts_are_near(emulator: Emulator) -> None:
    texts = ["a river in the north", "the river in a valley", "accounting rules for 1984"]
    with gpt(emulator) as client:
        coded = client.embeddings.create(model="e", input=texts, dimensions=64)
        plain = client.embeddings.create(model="e", input=texts, dimensions=64, encoding_format="float")
    one, two, other = (each.embedding for each in coded.data)
    assert [each.embedding for each in plain.data] == [one, two, other]
    assert sum(a * a for a in one) == pytest.approx(1, abs=1e-5)
    assert sum(a * b for a, b in zip(one, two, strict=True)) > sum(a * b for a, b in zip(one, other, strict=True))
    assert coded.usage.prompt_tokens == emulator.calls[0].input_tokens > 0
    assert emulator.calls[0].output_tokens == 0


def test_tokens_are_embedded_as_text_is_and_nothing_is_not(emulator: Emulator) -> None:
    with gpt(emulator) as client:
        tokens = client.embeddings.create(model="e", input=[[1, 2], [3]])
        text = client.embeddings.create(model="e", input="1 2")
        assert tokens.data[0].embedding == text.data[0].embedding
        wrong: list[Any] = [{"input": []}, {"input": ["a", ""]}, {"input": "a", "dimensions": -1}]
        for bad in wrong:
            with pytest.raises(openai.BadRequestError, match="cannot read this request"):
                client.embeddings.create(model="e", **bad)
    assert len(emulator.calls) == 2


def test_models_are_listed_as_each_client_expects() -> None:
    with Emulator(setup=Setup(models=("big", "small"))) as emulator, gpt(emulator) as client, claude(emulator) as other:
        assert [model.id for model in client.models.list()] == ["big", "small"]
        assert [model.id for model in other.models.list()] == ["big", "small"]
        assert (client.models.retrieve("big").id, other.models.retrieve("small").display_name) == ("big", "small")
        with pytest.raises(openai.NotFoundError, match="lists no model huge"):
            client.models.retrieve("huge")


def test_a_deployment_of_azure_is_the_model(emulator: Emulator) -> None:
    with openai.AzureOpenAI(
        api_key="key", azure_endpoint=emulator.url, api_version="2026-01-01", max_retries=0
    ) as client:
        answer = client.chat.completions.create(model="mine", messages=ASKED)
    assert (answer.model, emulator.calls[0].model) == ("mine", "mine")


def test_tokens_are_counted_as_they_are_billed(emulator: Emulator) -> None:
    with claude(emulator) as client:
        counted = client.messages.count_tokens(model="m", messages=ASKED, system="Be brief.", tools=MESSAGES_TOOLS)
        used = client.messages.create(
            model="m", max_tokens=9, messages=ASKED, system="Be brief.", tools=MESSAGES_TOOLS
        ).usage
    assert counted.input_tokens == used.input_tokens


def test_counting_tokens_costs_nothing_and_can_fail(emulator: Emulator) -> None:
    with claude(emulator) as client, gpt(emulator) as other:
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            client.messages.count_tokens(model="fault-overloaded", messages=ASKED)
        with pytest.raises(openai.RateLimitError):
            other.responses.input_tokens.count(model="m", input=TEXT, extra_headers={"x-emulator-fault": "rate_limit"})
    assert emulator.calls == ()


# Streams that break ---------------------------------------------------------------------------------------------------


def test_an_error_in_mid_stream_comes_after_as_many_pieces_as_told(emulator: Emulator) -> None:
    emulator.script(["overloaded@2", "server_error@2", Fault(kind="rate_limit", after=2)])
    got: list[str] = []
    with gpt(emulator) as client, claude(emulator) as other:
        with (
            pytest.raises(anthropic.APIStatusError, match="Overloaded") as overloaded,
            other.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream,
        ):
            got.extend(stream.text_stream)
        with pytest.raises(openai.APIError, match="told to reply with server_error") as failed:
            got.extend(pieces_of(client.chat.completions.create(model="m", messages=ASKED, stream=True)))
        events = list(client.responses.create(model="m", input=TEXT, stream=True))
    assert got == ["[emulator] ", "Rivers ", "", "[emulator] ", "Rivers "]
    assert overloaded.value.type == "overloaded_error"
    assert failed.value.code == "server_error"
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["[emulator] ", "Rivers "]
    assert events[-1].type == "error"
    assert events[-1].code == "rate_limit_exceeded"
    # What was brought is billed: 11 and 7 bytes, at 3 bytes a token.
    assert [(call.status, call.output_tokens) for call in emulator.calls] == [(200, 6)] * 3


@pytest.mark.parametrize("fault", ["disconnect@3", "truncated@3"])
def test_a_connection_that_breaks_in_mid_stream_is_an_error_of_the_connection(emulator: Emulator, fault: str) -> None:
    emulator.script([fault] * 2)
    got: list[str] = []
    with gpt(emulator) as client, claude(emulator) as other:
        with pytest.raises(openai.APIConnectionError):
            got.extend(pieces_of(client.chat.completions.create(model="m", messages=ASKED, stream=True)))
        # This SDK lets the errors of its transport through once a stream has begun.
        with (
            pytest.raises(httpx2.RemoteProtocolError),
            other.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream,
        ):
            got.extend(stream.text_stream)
    assert got == ["", "[emulator] ", "Rivers ", "carry ", "[emulator] ", "Rivers ", "carry "]


def test_a_stall_in_mid_stream_is_a_timeout_after_what_came(emulator: Emulator) -> None:
    emulator.script([Fault(kind="stall", after=1)] * 2)
    got: list[str] = []
    with gpt(emulator) as client, pytest.raises(openai.APITimeoutError):
        got.extend(pieces_of(client.chat.completions.create(model="m", messages=ASKED, stream=True, timeout=5)))
    with (
        claude(emulator) as client,
        pytest.raises(httpx2.ReadTimeout),
        client.messages.stream(model="m", max_tokens=99, messages=ASKED, timeout=5) as stream,
    ):
        got.extend(stream.text_stream)
    assert got == ["", "[emulator] ", "[emulator] "]


def test_a_stall_that_ends_brings_the_rest(emulator: Emulator) -> None:
    emulator.script([Fault(kind="stall", after=1, seconds=0.05)] * 2)
    with claude(emulator) as client:
        with client.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
            assert stream.get_final_text() == SAID
        assert client.messages.create(model="m", max_tokens=99, messages=ASKED).stop_reason == "end_turn"


def test_an_event_that_is_no_json_is_met_in_mid_stream(emulator: Emulator) -> None:
    emulator.script(["malformed@2"])
    with gpt(emulator) as client, pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        list(client.chat.completions.create(model="m", messages=ASKED, stream=True))


def test_a_response_that_fails_ends_its_stream_as_failed(emulator: Emulator) -> None:
    emulator.script(["failed"])
    with gpt(emulator) as client:
        [*_, last] = client.responses.create(model="m", input=TEXT, stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"


def test_a_body_that_ends_too_early_is_an_error_of_the_connection(emulator: Emulator) -> None:
    emulator.script(["truncated"] * 2)
    with gpt(emulator) as client, claude(emulator) as other:
        with pytest.raises(openai.APIConnectionError):
            client.responses.create(model="m", input=TEXT)
        with pytest.raises(anthropic.APIConnectionError):
            other.messages.create(model="m", max_tokens=9, messages=ASKED)
