"""The Responses API of OpenAI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from orchestrator.contracts.usage import Usage
from worker.llm.base import Delta, LLMRequest, LLMResponse
from worker.llm.message import File, Image, Message, Text, ToolCall, ToolSpec
from worker.llm.schema import exact, strict
from worker.llm.wire.base import Body, ErrorSaid, Fold, Part, Said, Unreadable, Wire

_STOP_REASONS = {"completed": "end_turn", "max_output_tokens": "max_tokens", "content_filter": "refusal"}
_TEXT_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class ResponsesWire(Wire):
    """Nothing is stored at the provider."""

    path: ClassVar[str] = "/responses"
    count_path: ClassVar[str] = "/responses/input_tokens"

    def body(self, request: LLMRequest) -> Body:
        body: Body = {
            "model": request.model_name,
            "input": [item for message in request.messages for item in _items(message)],
            "max_output_tokens": request.max_output_tokens,
            "store": False,
        }
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        if request.tools and request.tool_choice != "auto":
            body["tool_choice"] = request.tool_choice
        if request.output_schema is not None:
            closed = strict(request.output_schema)
            schema = {"name": "answer", "schema": closed or request.output_schema, "strict": closed is not None}
            body["text"] = {"format": {"type": "json_schema", **schema}}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return body

    def streaming(self, body: Body) -> Body:
        return {**body, "stream": True}

    def counting(self, body: Body) -> Body:
        return {key: body[key] for key in ("model", "input", "text", "tools", "tool_choice") if key in body}

    def answer(self, content: bytes, request: LLMRequest) -> LLMResponse:
        return self.read(Answer.model_validate_json(content), request)

    def fold(self, request: LLMRequest) -> Fold:
        return _Fold(self, request)

    def read(self, answer: Answer, request: LLMRequest) -> LLMResponse:
        """Give the response that an answer holds; raises `ErrorSaid` where it holds an error."""
        if answer.error is not None or answer.status == "failed":
            raise ErrorSaid({"error": answer.error or {"code": "server_error", "message": "it gives no reason"}})
        contents = [part for item in answer.output if item.type == "message" for part in item.content or []]
        refusal = "".join(part.refusal or "" for part in contents)
        text = "".join(part.text or "" for part in contents if part.type == "output_text")
        reason = (answer.incomplete_details and answer.incomplete_details.reason) or answer.status
        reason = "refusal" if refusal else _STOP_REASONS.get(reason, reason)
        calls = [item.call() for item in answer.output if item.type == "function_call"]
        said = Said(text or refusal, reason, calls)
        return self.made(request, answer.model, said, answer.usage and answer.usage.to_usage())


def _items(message: Message) -> Iterator[Body]:
    """Give a message as this API takes it: what is called, and what came of that, are items of their own."""
    content: Any = message.content
    if not isinstance(content, str):
        content = [_part(part) for part in content]
    if message.role == "tool":
        yield {"type": "function_call_output", "call_id": message.call_id, "output": content}
        return
    if message.content or not message.tool_calls:
        yield {"role": message.role, "content": message.text if message.role == "assistant" else content}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _part(part: Text | Image | File) -> Body:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text}
        case Image():
            return {"type": "input_image", "image_url": part.data_url, "detail": "auto"}
        case File():
            return {"type": "input_file", "filename": part.name, "file_data": part.data_url}


def _tool(tool: ToolSpec) -> Body:
    # Unless told otherwise this API makes every field required.
    closed = exact(tool.parameters)
    parameters = {"parameters": closed or tool.parameters, "strict": closed is not None}
    return {"type": "function", "name": tool.name, "description": tool.description, **parameters}


class _Fold(Fold):
    """The last event holds the whole answer."""

    def __init__(self, wire: ResponsesWire, request: LLMRequest) -> None:
        self._wire = wire
        self._request = request
        self._response: LLMResponse | None = None

    def feed(self, event: Body) -> Delta | None:
        kind = event.get("type")
        if kind in _TEXT_EVENTS:
            return Delta(text=event["delta"])
        if kind in _LAST_EVENTS:
            self._response = self._wire.read(Answer.model_validate(event["response"]), self._request)
            self.done = True
        elif kind == "error" or event.get("error"):
            raise ErrorSaid(event)
        return None

    def response(self) -> LLMResponse:
        if self._response is None:
            raise Unreadable
        return self._response


class _InputDetails(Part):
    cached_tokens: int | None = 0
    cache_write_tokens: int | None = 0


class _OutputDetails(Part):
    reasoning_tokens: int | None = 0


class _Usage(Part):
    input_tokens: int
    output_tokens: int
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def to_usage(self) -> Usage:
        given, produced = self.input_tokens_details or _InputDetails(), self.output_tokens_details or _OutputDetails()
        return Usage(
            model_calls=1,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cached_input_tokens=given.cached_tokens or 0,
            cache_write_input_tokens=given.cache_write_tokens or 0,
            reasoning_tokens=produced.reasoning_tokens or 0,
        )


class _Content(Part):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Item(Part):
    type: str
    content: list[_Content] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""

    def call(self) -> ToolCall:
        return ToolCall(id=self.call_id, name=self.name, arguments=self.arguments or "{}")


class _Incomplete(Part):
    reason: str | None = None


class Answer(Part):
    """A `response` object, whole or as the last event of a stream holds it."""

    model: str
    status: str
    output: list[_Item]
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: Body | None = None
