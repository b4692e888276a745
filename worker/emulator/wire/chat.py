"""OpenAI's Chat Completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from worker.emulator.answers import Reply
from worker.emulator.tokens import Tokens, pieces
from worker.emulator.wire.events import Body, Event, Heading

_REASONS = {"end": "stop", "length": "length", "tool": "tool_calls", "refusal": "stop", "filter": "content_filter"}


def whole(reply: Reply, heading: Heading) -> Body:
    """Give the completion."""
    refused = reply.ending == "refusal"
    message: Body = {
        "role": "assistant",
        "content": None if refused or not reply.text else reply.text,
        "refusal": reply.text if refused else None,
    }
    if reply.tool_calls:
        message["tool_calls"] = _calls(reply, heading)
    choice = {"index": 0, "message": message, "finish_reason": _reason(reply), "logprobs": None}
    return {
        "id": f"chatcmpl-{heading.request_id}",
        "object": "chat.completion",
        "created": heading.created,
        "model": heading.model,
        "choices": [choice],
        "usage": usage(reply.tokens),
    }


def events(reply: Reply, heading: Heading) -> Iterator[Event]:
    """Give the chunks of the completion."""
    field = "refusal" if reply.ending == "refusal" else "content"
    yield _chunk(heading, {"role": "assistant", field: ""})
    for piece in pieces(reply.text):
        yield _chunk(heading, {field: piece}, piece=piece)
    for index, call in enumerate(_calls(reply, heading)):
        named = {"index": index, **call, "function": {**call["function"], "arguments": ""}}
        yield _chunk(heading, {"tool_calls": [named]})
        for piece in pieces(call["function"]["arguments"]):
            part = {"index": index, "function": {"arguments": piece}}
            yield _chunk(heading, {"tool_calls": [part]}, piece=piece)
    yield _chunk(heading, {}, reason=_reason(reply))
    if heading.stream_usage:
        yield Event(None, {**_head(heading), "choices": [], "usage": usage(reply.tokens)})
    yield Event(None, "[DONE]")


def usage(tokens: Tokens) -> Body:
    """Give what was used."""
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": 0},
    }


def _reason(reply: Reply) -> str:
    return reply.stop_reason or _REASONS[reply.ending]


def _calls(reply: Reply, heading: Heading) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id or f"call_{heading.request_id}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.written},
        }
        for index, call in enumerate(reply.tool_calls)
    ]


def _chunk(heading: Heading, delta: Body, *, piece: str = "", reason: str | None = None) -> Event:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    usage_so_far = {"usage": None} if heading.stream_usage else {}
    return Event(None, {**_head(heading), "choices": [choice], **usage_so_far}, delta=piece)


def _head(heading: Heading) -> Body:
    return {
        "id": f"chatcmpl-{heading.request_id}",
        "object": "chat.completion.chunk",
        "created": heading.created,
        "model": heading.model,
    }
