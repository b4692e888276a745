"""What every API has in common: a body from a request, a response from an answer, whole or event by event."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel

from orchestrator.contracts.usage import Usage
from worker.llm.base import Delta, LLMRequest, LLMResponse, request_tokens
from worker.llm.endpoints import Manner
from worker.llm.message import Message, ToolCall, estimate_tokens

Body = dict[str, Any]


class ErrorSaid(Exception):
    """A provider says in a successful reply that it has failed; `body` is how it says so."""

    def __init__(self, body: object) -> None:
        super().__init__("the provider says in its answer that it has failed")
        self.body = body


class Unreadable(Exception):
    """An answer is cut off, or not what its API promises."""


class Part(BaseModel):
    """What we read of an answer; everything else in it is ignored."""


class Fold(ABC):
    """A stream's events on their way to a response; `done` once nothing more can come."""

    done: bool = False

    @property
    def whole(self) -> bool:
        """Whether there is a response, even if more of the stream should come."""
        return self.done

    @abstractmethod
    def feed(self, event: Body) -> Delta | None:
        """Take the next event; gives the text that it adds. Raises `ErrorSaid`, `Unreadable` or pydantic's errors."""

    @abstractmethod
    def response(self) -> LLMResponse:
        """Give the whole response; raises `Unreadable` where the stream has ended before it was whole."""


class Wire(ABC):
    """One API as a server of some manner speaks it; `provider` stands before the model's name in responses."""

    path: ClassVar[str]
    count_path: ClassVar[str]

    def __init__(self, provider: str, manner: Manner) -> None:
        self.provider = provider
        self.manner = manner

    @abstractmethod
    def body(self, request: LLMRequest) -> Body:
        """Give the request as the API takes it."""

    @abstractmethod
    def streaming(self, body: Body) -> Body:
        """Give a body that asks for the same as a stream."""

    @abstractmethod
    def counting(self, body: Body) -> Body:
        """Give a body that asks how many tokens this one has."""

    @abstractmethod
    def answer(self, content: bytes, request: LLMRequest) -> LLMResponse:
        """Read an answer; raises `ErrorSaid` or pydantic's `ValidationError`."""

    @abstractmethod
    def fold(self, request: LLMRequest) -> Fold:
        """Give what takes the events of an answer to a request."""

    def made(self, request: LLMRequest, model: str, said: Said, usage: Usage | None) -> LLMResponse:
        """Make a response; what it used is estimated where the server does not say, so that it counts for something."""
        calls = tuple(said.tool_calls)
        return LLMResponse(
            text=said.text,
            tool_calls=calls,
            model=f"{self.provider}:{model or request.model_name}",
            usage=usage or estimated(request, said),
            stop_reason="tool_use" if calls and said.reason == "end_turn" else said.reason,
            estimated=usage is None,
        )


class Said(NamedTuple):
    """What a model has said, however it came."""

    text: str
    reason: str
    tool_calls: Sequence[ToolCall] = ()


def estimated(request: LLMRequest, said: Said) -> Usage:
    """Estimate the usage of a call of which nobody tells it; errs high."""
    produced = estimate_tokens(said.text) + sum(estimate_tokens(call.name + call.arguments) for call in said.tool_calls)
    return Usage(model_calls=1, input_tokens=request_tokens(request), output_tokens=produced)


def told(body: object) -> tuple[tuple[str, ...], str, int | None]:
    """Give an error's codes, the most exact first, its message, and the status where it is in the body."""
    if isinstance(body, list) and body:
        return told(body[0])
    inner: object = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(inner, Mapping):
        return (), str(inner or ""), None
    details = inner.get("details")
    exact = details.get("error_code") if isinstance(details, Mapping) else None
    codes = [value for value in (exact, inner.get("code"), inner.get("type")) if value]
    status = next((value for value in codes if isinstance(value, int) and 400 <= value < 600), None)
    return tuple(str(value) for value in codes), str(inner.get("message") or ""), status


def told_to_match(request: LLMRequest) -> Message:
    """Give the schema in words: for servers that only promise JSON, or not even that."""
    schema = json.dumps(request.output_schema, ensure_ascii=False)
    wish = f"Answer with one JSON object, and nothing else, that matches this JSON schema:\n{schema}"
    return Message(role="system", content=wish)
