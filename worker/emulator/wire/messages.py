"""Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Iterator

from worker.emulator.answers import Reply
from worker.emulator.tokens import Tokens, json_text, pieces
from worker.emulator.wire.events import Body, Event, Heading

_REASONS = {"end": "end_turn", "length": "max_tokens", "tool": "tool_use", "refusal": "refusal", "filter": "refusal"}
#: How a block begins in a stream.
_EMPTY: dict[str, Body] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
_REFUSED = {"type": "refusal", "category": None, "explanation": None}


def whole(reply: Reply, heading: Heading) -> Body:
    """Give the message."""
    return {
        **_shell(heading),
        "content": _blocks(reply, heading),
        **_ending(reply),
        "usage": usage(reply.tokens),
    }


def events(reply: Reply, heading: Heading) -> Iterator[Event]:
    """Give the events of the message: what the input counts comes first, what the output counts last."""
    start = {**_shell(heading), "usage": usage(reply.tokens.model_copy(update={"output": 1, "reasoning": 0}))}
    yield _event("message_start", message=start)
    yield _event("ping")
    for index, block in enumerate(_blocks(reply, heading)):
        yield _event("content_block_start", index=index, content_block={**block, **_EMPTY[block["type"]]})
        for piece, delta in _deltas(block):
            yield _event("content_block_delta", piece, index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    yield _event("message_delta", delta=_ending(reply), usage=_output(reply.tokens))
    yield _event("message_stop")


def usage(tokens: Tokens) -> Body:
    """Give what was used; here `input_tokens` leaves out what the cache has to do with."""
    return {
        "input_tokens": tokens.uncached,
        "cache_creation_input_tokens": tokens.cache_written,
        "cache_read_input_tokens": tokens.cached,
        **_output(tokens),
    }


def _output(tokens: Tokens) -> Body:
    details = {"output_tokens_details": {"thinking_tokens": tokens.reasoning}} if tokens.reasoning else {}
    return {"output_tokens": tokens.output, **details}


def _shell(heading: Heading) -> Body:
    return {
        "id": f"msg_{heading.request_id}",
        "type": "message",
        "role": "assistant",
        "model": heading.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _ending(reply: Reply) -> Body:
    reason = reply.stop_reason or _REASONS[reply.ending]
    details = {"stop_details": _REFUSED} if reason == "refusal" else {}
    return {"stop_reason": reason, "stop_sequence": None, **details}


def _blocks(reply: Reply, heading: Heading) -> list[Body]:
    thinking: Body = {"type": "thinking", "thinking": reply.thinking, "signature": f"sig_{heading.request_id}"}
    said: list[Body] = [thinking] if reply.thinking else []
    if reply.text:
        said.append({"type": "text", "text": reply.text})
    calls: list[Body] = [
        {
            "type": "tool_use",
            "id": call.id or f"toolu_{heading.request_id}_{index}",
            "name": call.name,
            "input": call.arguments,
        }
        for index, call in enumerate(reply.tool_calls)
    ]
    return said + calls


def _deltas(block: Body) -> Iterator[tuple[str, Body]]:
    """Give the pieces of a block, each with the delta that brings it."""
    match block["type"]:
        case "text":
            for piece in pieces(block["text"]):
                yield piece, {"type": "text_delta", "text": piece}
        case "thinking":
            for piece in pieces(block["thinking"]):
                yield piece, {"type": "thinking_delta", "thinking": piece}
            yield "", {"type": "signature_delta", "signature": block["signature"]}
        case _:
            for piece in pieces(json_text(block["input"])):
                yield piece, {"type": "input_json_delta", "partial_json": piece}


def _event(kind: str, piece: str = "", /, **fields: object) -> Event:
    return Event(kind, {"type": kind, **fields}, delta=piece)
