"""Replies of the emulated APIs: pure functions of a request body."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.contracts.policy import Value
from worker.emulator.faults import API
from worker.emulator.instances import instance_of
from worker.llm.base import estimate_tokens
from worker.llm.offline import shorten, summary

PREFIX = "[emulator] "
REFUSAL = "I can't help with that."
_BYTES_PER_TOKEN = 3

Body = dict[str, Any]


class Reply(Value):
    """What a model says, before it is put into the words of an API."""

    text: str
    input_tokens: int
    output_tokens: int
    truncated: bool = False
    refused: bool = False


NO_REPLY = Reply(text="", input_tokens=0, output_tokens=0)


def reply_to(body: Body, *, refused: bool = False) -> Reply:
    """Answer a request to any of the APIs: by an instance of its schema, else by a summary of the last user message."""
    schema, limit = _schema_of(body), _limit_of(body)
    whole = REFUSAL if refused else _json_text(schema) if schema else PREFIX + summary(_last_user_text(body))
    text = shorten(whole, limit * _BYTES_PER_TOKEN)
    return Reply(
        text=text,
        input_tokens=input_tokens_of(body),
        output_tokens=min(estimate_tokens(text), limit),
        truncated=text != whole,
        refused=refused,
    )


def input_tokens_of(body: Body) -> int:
    """Count the input as the emulator bills it."""
    return estimate_tokens("\n".join(_text_of(turn.get("content")) for turn in _turns(body)))


def render(api: API, reply: Reply, body: Body, *, request_id: str) -> Body:
    """Put a reply into the words of an API."""
    model = str(body.get("model", ""))
    match api:
        case "responses":
            return _response(reply, model, request_id)
        case "chat":
            return _completion(reply, model, request_id)
        case "messages":
            return _message(reply, model, request_id, as_tool="tools" in body)


def failed(response: Body) -> Body:
    """Turn an answer of the Responses API into the one that has status 200 and an error inside."""
    error = {"code": "server_error", "message": "The model failed to generate a response."}
    return response | {"status": "failed", "output": [], "error": error}


def _response(reply: Reply, model: str, request_id: str) -> Body:
    part = (
        {"type": "refusal", "refusal": reply.text}
        if reply.refused
        else {"type": "output_text", "text": reply.text, "annotations": []}
    )
    message = {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": 0,
        "model": model,
        "status": "incomplete" if reply.truncated else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if reply.truncated else None,
        "error": None,
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        },
    }


def _completion(reply: Reply, model: str, request_id: str) -> Body:
    said = {"content": None, "refusal": reply.text} if reply.refused else {"content": reply.text, "refusal": None}
    choice = {
        "index": 0,
        "message": {"role": "assistant", **said},
        "finish_reason": "length" if reply.truncated else "stop",
        "logprobs": None,
    }
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.input_tokens + reply.output_tokens,
        },
    }


def _message(reply: Reply, model: str, request_id: str, *, as_tool: bool) -> Body:
    block: Body = {"type": "text", "text": reply.text}
    reason = "end_turn"
    if as_tool and not (reply.refused or reply.truncated):
        block = {"type": "tool_use", "id": f"toolu_{request_id}", "name": "answer", "input": json.loads(reply.text)}
        reason = "tool_use"
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [block],
        "stop_reason": "refusal" if reply.refused else "max_tokens" if reply.truncated else reason,
        "stop_sequence": None,
        "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
    }


def _turns(body: Body) -> list[Body]:
    turns = body.get("messages", body.get("input", []))
    said = [{"role": "user", "content": turns}] if isinstance(turns, str) else list(turns)
    return [{"role": "system", "content": body["system"]}, *said] if body.get("system") else said


def _last_user_text(body: Body) -> str:
    return next((_text_of(turn.get("content")) for turn in reversed(_turns(body)) if turn.get("role") == "user"), "")


def _text_of(content: Any) -> str:
    """Read a turn's content: text, or parts of which some are text."""
    if isinstance(content, list):
        parts: list[Any] = content
        return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return str(content or "")


def _limit_of(body: Body) -> int:
    names = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    return next((int(body[name]) for name in names if body.get(name)), 4096)


def _schema_of(body: Body) -> Body | None:
    """Find the schema that the output has to have, wherever the API has its place for it."""
    chat_format: Body = body.get("response_format") or {}
    formats: tuple[Body | None, ...] = (
        (body.get("text") or {}).get("format"),
        chat_format.get("json_schema"),
        (body.get("output_config") or {}).get("format"),
    )
    found = next((entry["schema"] for entry in formats if entry and "schema" in entry), None)
    tools: list[Body] = body.get("tools") or []
    return found if found is not None else tools[0].get("input_schema") if tools else None


def _json_text(schema: Body) -> str:
    return json.dumps(instance_of(schema), ensure_ascii=False)
