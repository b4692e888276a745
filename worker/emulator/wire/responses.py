"""OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from worker.emulator.answers import Reply
from worker.emulator.tokens import Tokens, pieces
from worker.emulator.wire.events import Body, Event, Heading

_INCOMPLETE = {"length": "max_output_tokens", "filter": "content_filter"}
_FAILURE = {"code": "server_error", "message": "The model failed to generate a response."}


def whole(reply: Reply, heading: Heading) -> Body:
    """Give the response."""
    reason = reply.stop_reason or _INCOMPLETE.get(reply.ending)
    return {
        **_shell(heading, "incomplete" if reason else "completed"),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": _items(reply, heading),
        "usage": usage(reply.tokens),
    }


def failed(response: Body) -> Body:
    """Turn a response into the one that has status 200 and an error inside."""
    return response | {"status": "failed", "incomplete_details": None, "output": [], "error": _FAILURE}


def events(reply: Reply, heading: Heading, *, fails: bool = False) -> Iterator[Event]:
    """Give the typed events of the response, numbered from 0; the last one has the response as a whole."""
    numbers = count()

    def event(kind: str, piece: str = "", /, **fields: object) -> Event:
        return Event(kind, {"type": kind, "sequence_number": next(numbers), **fields}, delta=piece)

    begun = _shell(heading, "in_progress")
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    done = failed(whole(reply, heading)) if fails else whole(reply, heading)
    for index, item in enumerate(done["output"]):
        for kind, piece, fields in _EVENTS[item["type"]](item):
            yield event(kind, piece, output_index=index, **fields)
    yield event(f"response.{done['status']}", response=done)


def usage(tokens: Tokens) -> Body:
    """Give what was used."""
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_written},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }


def _shell(heading: Heading, status: str) -> Body:
    return {
        "id": f"resp_{heading.request_id}",
        "object": "response",
        "created_at": heading.created,
        "model": heading.model,
        "status": status,
        "incomplete_details": None,
        "error": None,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def _items(reply: Reply, heading: Heading) -> list[Body]:
    status = "incomplete" if reply.ending in _INCOMPLETE else "completed"
    part: Body = (
        {"type": "refusal", "refusal": reply.text}
        if reply.ending == "refusal"
        else {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
    )
    message: Body = {
        "id": f"msg_{heading.request_id}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }
    calls = [
        {
            "id": f"fc_{heading.request_id}_{index}",
            "type": "function_call",
            "status": status,
            "call_id": call.id or f"call_{heading.request_id}_{index}",
            "name": call.name,
            "arguments": call.written,
        }
        for index, call in enumerate(reply.tool_calls)
    ]
    summary = {"type": "summary_text", "text": reply.thinking}
    reasoning: Body = {"id": f"rs_{heading.request_id}", "type": "reasoning", "summary": [summary]}
    said = [message] if reply.text or not calls else []
    return [*([reasoning] if reply.thinking else []), *said, *calls]


_Told = tuple[str, str, Body]


def _reasoning_events(item: Body) -> Iterator[_Told]:
    """Give kind, piece and fields of the events that build the summary of what was thought."""
    yield "response.output_item.added", "", {"item": {**item, "summary": []}}
    [part] = item["summary"]
    kind = "response.reasoning_summary"
    at = {"item_id": item["id"], "summary_index": 0}
    yield f"{kind}_part.added", "", {**at, "part": {**part, "text": ""}}
    for piece in pieces(part["text"]):
        yield f"{kind}_text.delta", piece, {**at, "delta": piece}
    yield f"{kind}_text.done", "", {**at, "text": part["text"]}
    yield f"{kind}_part.done", "", {**at, "part": part}
    yield "response.output_item.done", "", {"item": item}


def _message_events(item: Body) -> Iterator[_Told]:
    """Give kind, piece and fields of the events that build a message."""
    yield "response.output_item.added", "", {"item": {**item, "status": "in_progress", "content": []}}
    [part] = item["content"]
    field = "refusal" if part["type"] == "refusal" else "text"
    kind = "response.refusal" if field == "refusal" else "response.output_text"
    # Only what is no refusal has probabilities.
    logprobs: Body = {} if field == "refusal" else {"logprobs": []}
    at = {"item_id": item["id"], "content_index": 0}
    yield "response.content_part.added", "", {**at, "part": {**part, field: ""}}
    for piece in pieces(part[field]):
        yield f"{kind}.delta", piece, {**at, "delta": piece, **logprobs}
    yield f"{kind}.done", "", {**at, field: part[field], **logprobs}
    yield "response.content_part.done", "", {**at, "part": part}
    yield "response.output_item.done", "", {"item": item}


def _call_events(item: Body) -> Iterator[_Told]:
    """Give kind, piece and fields of the events that build a call of a tool."""
    yield "response.output_item.added", "", {"item": {**item, "status": "in_progress", "arguments": ""}}
    kind = "response.function_call_arguments"
    for piece in pieces(item["arguments"]):
        yield f"{kind}.delta", piece, {"item_id": item["id"], "delta": piece}
    yield f"{kind}.done", "", {"item_id": item["id"], "name": item["name"], "arguments": item["arguments"]}
    yield "response.output_item.done", "", {"item": item}


_EVENTS = {"reasoning": _reasoning_events, "message": _message_events, "function_call": _call_events}
