"""What a request asks for, whichever API it came by: pure functions of its body."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from worker.emulator.tokens import json_text

API = Literal["responses", "chat", "messages", "embeddings"]
Body = dict[str, Any]
Who = Literal["system", "user", "model", "tool"]

_ROLES: dict[str, Who] = {
    "assistant": "model",
    "developer": "system",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
_ITEMS: dict[str, Who] = {"function_call": "model", "reasoning": "model", "function_call_output": "tool"}
_LIMITS = ("max_output_tokens", "max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; `marked` if the client wants the prompt cached up to here."""

    who: Who
    text: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    schema: Body


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `tools` is what they add to the input, `forced` the one that has to be called."""

    api: API
    model: str
    key: str = field(repr=False)
    turns: tuple[Turn, ...]
    tools: str
    forced: Tool | None
    schema: Body | None
    max_tokens: int | None
    streams: bool
    stream_usage: bool

    @property
    def provider(self) -> Literal["openai", "anthropic"]:
        """Whose API it is."""
        return "anthropic" if self.api == "messages" else "openai"

    @property
    def key_alias(self) -> str:
        """What the key is called wherever it is shown: the beginning of its SHA-256."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:8]

    @property
    def user_text(self) -> str:
        """What the user said last."""
        return next((turn.text for turn in reversed(self.turns) if turn.who == "user"), "")

    @property
    def system_text(self) -> str:
        """All that the system says."""
        return "\n".join(turn.text for turn in self.turns if turn.who == "system")

    @property
    def turn(self) -> int:
        """How often the model has answered in this conversation; calls of tools beside each other are one answer."""
        by = [turn.who == "model" for turn in self.turns]
        return sum(now and not before for before, now in zip([False, *by], by, strict=False))

    @property
    def input_text(self) -> str:
        """All of the input, as it is counted."""
        return "\n".join([*([self.tools] if self.tools else []), *(turn.text for turn in self.turns)])


def read(api: API, body: Any, *, key: str, model: str = "") -> Asked:
    """Read a request; `model` is the one that the address names. Raises `ValueError` for what no API would take."""
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")  # noqa: TRY004 - every wrong body is the same to its sender
    given: Body = body
    tools = [_tool(entry) for entry in given.get("tools") or []]
    asked = Asked(
        api=api,
        model=str(given.get("model") or model),
        key=key,
        turns=tuple(_texts(given) if api == "embeddings" else _turns(given)),
        tools=json_text(given["tools"]) if tools else "",
        forced=_forced(given.get("tool_choice"), tools),
        schema=_schema_of(given),
        max_tokens=next((int(given[name]) for name in _LIMITS if given.get(name)), None),
        streams=api != "embeddings" and bool(given.get("stream")),
        stream_usage=bool((given.get("stream_options") or {}).get("include_usage")),
    )
    if not asked.model:
        raise ValueError("it names no model")
    if not asked.turns:
        raise ValueError("it says nothing: messages or input are empty")
    return asked


def _texts(body: Body) -> Iterator[Turn]:
    """Read the texts to embed; tokens are as good as text here."""
    given: Any = body.get("input")
    texts: list[Any] = [given] if isinstance(given, str) else list(given or [])
    if texts and isinstance(texts[0], int):
        texts = [texts]
    if not all(texts):
        raise ValueError("one of its inputs is empty")
    for text in texts:
        yield Turn("user", text if isinstance(text, str) else " ".join(map(str, text)))


def _turns(body: Body) -> Iterator[Turn]:
    for name in ("system", "instructions"):
        if body.get(name):
            yield Turn("system", _text_of(body[name]), marked=_is_marked(body[name]))
    said: Any = body.get("messages", body.get("input", []))
    items: list[Body] = [{"role": "user", "content": said}] if isinstance(said, str) else said
    for left, item in zip(reversed(range(len(items))), items, strict=True):
        marked = _is_marked(item.get("content")) or (not left and "cache_control" in body)
        yield Turn(_who(item), _said(item), marked=marked)


def _who(item: Body) -> Who:
    """Tell who speaks. A message that brings nothing but results of tools is the tools'."""
    content: Any = item.get("content")
    if isinstance(content, list) and content and all(part.get("type") == "tool_result" for part in content):
        return "tool"
    role = str(item.get("role", ""))
    return _ROLES.get(role) or _ITEMS.get(str(item.get("type", "")), "user")


def _said(item: Body) -> str:
    """Read a turn: its content, the calls of tools beside it, or the one that it is."""
    calls = item.get("tool_calls")
    if calls:
        return "\n".join(filter(None, [_text_of(item.get("content")), json_text(calls)]))
    if item.get("type") == "function_call":
        return f"{item.get('name')} {item.get('arguments')}"
    return _text_of(item.get("content", item.get("output")))


def _text_of(content: Any) -> str:
    """Read content: text, or parts of which some are text, or calls of tools, or their results."""
    if isinstance(content, list):
        parts: list[Body] = content
        return "\n".join(_part(part) for part in parts)
    return str(content or "")


def _part(part: Body) -> str:
    if part.get("type") == "tool_use":
        return f"{part.get('name')} {json_text(part.get('input'))}"
    return _text_of(part.get("content")) if part.get("type") == "tool_result" else str(part.get("text", ""))


def _is_marked(content: Any) -> bool:
    return isinstance(content, list) and any("cache_control" in part for part in content)


def _tool(entry: Body) -> Tool:
    function: Body = entry.get("function") or entry
    return Tool(str(function.get("name", "")), function.get("parameters") or function.get("input_schema") or {})


def _forced(choice: Any, tools: list[Tool]) -> Tool | None:
    """Find the tool that has to be called: by its name, or the first one if it has to be any."""
    if not tools or not choice:
        return None
    if isinstance(choice, str):
        return tools[0] if choice == "required" else None
    if choice.get("type") == "any":
        return tools[0]
    name = choice.get("name") or (choice.get("function") or {}).get("name")
    return next((tool for tool in tools if tool.name == name), None)


def _schema_of(body: Body) -> Body | None:
    """Find the schema that the output has to have, wherever the API has its place for it."""
    chat_format: Body = body.get("response_format") or {}
    formats: tuple[Body | None, ...] = (
        (body.get("text") or {}).get("format"),
        chat_format.get("json_schema"),
        (body.get("output_config") or {}).get("format"),
    )
    found = next((entry["schema"] for entry in formats if entry and "schema" in entry), None)
    return {"type": "object"} if found is None and chat_format.get("type") == "json_object" else found
