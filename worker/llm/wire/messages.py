"""The Messages API of Anthropic."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, ClassVar

from orchestrator.contracts.usage import Usage
from worker.llm.base import Delta, LLMRequest, LLMResponse
from worker.llm.endpoints import Manner
from worker.llm.message import File, Image, Message, Text, ToolCall, ToolSpec
from worker.llm.schema import strict
from worker.llm.wire.base import Body, ErrorSaid, Fold, Part, Said, Unreadable, Wire

#: What takes the answer where its schema is no closed one.
_ANSWER_TOOL = "answer"
_CHOICES = {"required": "any", "none": "none"}
_STOP_REASONS = {"stop_sequence": "end_turn", "tool_use": "end_turn", "model_context_window_exceeded": "max_tokens"}


class MessagesWire(Wire):
    """`adapted` gives a closed schema as this API takes it."""

    path: ClassVar[str] = "/v1/messages"
    count_path: ClassVar[str] = "/v1/messages/count_tokens"

    def __init__(self, provider: str, manner: Manner, adapted: Callable[[Body], Body]) -> None:
        super().__init__(provider, manner)
        self._adapted = adapted

    def body(self, request: LLMRequest) -> Body:
        body: Body = {
            "model": request.model_name,
            "messages": _turns(request.messages),
            "max_tokens": request.max_output_tokens,
        }
        if request.system:
            body["system"] = request.system
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        if request.tools and self.manner.marks_prompts:
            # What a tool gives is asked with all of this before it: reading it again costs a tenth, keeping it a quarter more.
            body["cache_control"] = {"type": "ephemeral"}
        if request.tools and request.tool_choice != "auto":
            body["tool_choice"] = {"type": _CHOICES[request.tool_choice]}
        if request.output_schema is not None:
            body |= self._output(request, request.output_schema, body)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return body

    def streaming(self, body: Body) -> Body:
        return {**body, "stream": True}

    def counting(self, body: Body) -> Body:
        return {key: value for key, value in body.items() if key not in ("max_tokens", "temperature")}

    def answer(self, content: bytes, request: LLMRequest) -> LLMResponse:
        answer = _Answer.model_validate_json(content)
        answering = _answer_tool(request.tools)
        text = "".join(_text_of(block, answering) for block in answer.content)
        calls = [call for block in answer.content if (call := _call_of(block, answering))]
        return self.read(request, answer, answer.end, text, calls)

    def fold(self, request: LLMRequest) -> Fold:
        return _Fold(self, request)

    def read(self, request: LLMRequest, start: _Start, end: _End, text: str, calls: list[ToolCall]) -> LLMResponse:
        """Give the response of the parts of an answer, however they came."""
        reason = end.stop_reason or "end_turn"
        explanation = (end.stop_details and end.stop_details.explanation) or ""
        said = Said(text or explanation, _STOP_REASONS.get(reason, reason), calls)
        return self.made(request, start.model, said, start.usage.to_usage())

    def _output(self, request: LLMRequest, schema: Body, body: Body) -> Body:
        """Ask for output of a schema: natively if it is a closed one, else as the input of a tool that has to be called."""
        closed = strict(schema)
        if closed is not None:
            return {"output_config": {"format": {"type": "json_schema", "schema": self._adapted(closed)}}}
        name = _answer_tool(request.tools)
        tool = {"name": name, "description": "Takes your answer.", "input_schema": schema}
        others: list[Body] = body.get("tools", [])
        choosing = others and request.tool_choice != "none"
        choice = {"type": "any"} if choosing else {"type": "tool", "name": name}
        return {"tools": [*others, tool], "tool_choice": choice}


def _answer_tool(tools: Sequence[ToolSpec]) -> str:
    """Give the name of the tool that takes the answer: that of none of the author's."""
    return f"{_ANSWER_TOOL}_" if any(tool.name == _ANSWER_TOOL for tool in tools) else _ANSWER_TOOL


def _turns(messages: Sequence[Message]) -> list[Body]:
    """Give messages as this API takes them: the results of calls beside each other are one turn of the user."""
    turns: list[Body] = []
    for is_result, several in groupby(
        (message for message in messages if message.role != "system"), key=lambda message: message.role == "tool"
    ):
        if is_result:
            turns.append({"role": "user", "content": [_result(message) for message in several]})
        else:
            # What is empty is refused, and says nothing.
            turns += [_turn(message) for message in several if message.content or message.tool_calls]
    return turns


def _turn(message: Message) -> Body:
    content: Any = message.content
    if message.tool_calls or not isinstance(content, str):
        content = [*(_part(part) for part in message.parts), *(_use(call) for call in message.tool_calls)]
    return {"role": message.role, "content": content}


def _part(part: Text | Image | File) -> Body:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    return {"type": "image" if isinstance(part, Image) else "document", "source": source}


def _use(call: ToolCall) -> Body:
    try:
        given = call.parsed()
    except ValueError:
        given = call.arguments
    # This API has no other arguments than objects; of those of another model's call nobody knows.
    return {
        "type": "tool_use",
        "id": call.id,
        "name": call.name,
        "input": given if isinstance(given, dict) else {"": given},
    }


def _result(message: Message) -> Body:
    content: Any = message.content if isinstance(message.content, str) else [_part(part) for part in message.content]
    result = {"type": "tool_result", "tool_use_id": message.call_id, "content": content}
    return result | ({"is_error": True} if message.failed else {})


def _tool(tool: ToolSpec) -> Body:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


class _Fold(Fold):
    def __init__(self, wire: MessagesWire, request: LLMRequest) -> None:
        self._wire = wire
        self._request = request
        self._answer_tool = _answer_tool(request.tools)
        self._start: _Start | None = None
        self._texts: list[str] = []
        #: Which content block is an answer: of a schema that is not closed it is the input of a tool.
        self._answering: set[int] = set()
        #: The other calls of tools, by their block, and the text of what they are given.
        self._calls: dict[int, tuple[_Block, list[str]]] = {}
        self._end = _End()
        self._usage: _Usage | None = None

    def feed(self, event: Body) -> Delta | None:
        match event.get("type"):
            case "message_start":
                self._start = _Start.model_validate(event["message"])
                self._usage = self._start.usage
            case "content_block_start":
                self._start_block(event["index"], _Block.model_validate(event["content_block"]))
            case "content_block_delta":
                return self._add(event["index"], event["delta"])
            case "message_delta":
                self._end = _End.model_validate(event["delta"])
                self._usage = self._usage and self._usage.replaced(event.get("usage") or {})
            case "message_stop":
                self.done = True
            case "error":
                raise ErrorSaid(event)
            case _:
                pass
        return None

    def _start_block(self, index: int, block: _Block) -> None:
        if block.type == "tool_use" and block.name == self._answer_tool:
            self._answering.add(index)
        elif block.type == "tool_use":
            self._calls[index] = block, []

    def _add(self, index: int, delta: Body) -> Delta | None:
        if index in self._calls:
            self._calls[index][1].append(delta.get("partial_json") or "")
            return None
        text = delta.get("text") or (delta.get("partial_json") if index in self._answering else None)
        if not text:
            return None
        self._texts.append(text)
        return Delta(text=text)

    def response(self) -> LLMResponse:
        if not self.done or self._start is None or self._usage is None:
            raise Unreadable
        calls = [
            ToolCall(id=block.id, name=block.name, arguments="".join(texts) or "{}")
            for _, (block, texts) in sorted(self._calls.items())
        ]
        start = _Start(model=self._start.model, usage=self._usage)
        return self._wire.read(self._request, start, self._end, "".join(self._texts), calls)


class _OutputDetails(Part):
    thinking_tokens: int = 0


class _Usage(Part):
    """Here, unlike with us, what was read from or written to the cache is no part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def replaced(self, later: Body) -> _Usage:
        """Give the usage with what a later event says of it: its counts are sums, and may be incomplete."""
        said = {key: value for key, value in later.items() if value is not None}
        return _Usage.model_validate({**self.model_dump(), **said})

    def to_usage(self) -> Usage:
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        return Usage(
            model_calls=1,
            input_tokens=self.input_tokens + read + written,
            output_tokens=self.output_tokens,
            cached_input_tokens=read,
            cache_write_input_tokens=written,
            reasoning_tokens=self.output_tokens_details.thinking_tokens if self.output_tokens_details else 0,
        )


class _Block(Part):
    type: str
    id: str = ""
    text: str = ""
    name: str = ""
    input: Any = None


class _StopDetails(Part):
    explanation: str | None = None


class _End(Part):
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Start(Part):
    model: str
    usage: _Usage


class _Answer(_Start):
    content: list[_Block]
    stop_reason: str | None
    stop_details: _StopDetails | None = None

    @property
    def end(self) -> _End:
        return _End(stop_reason=self.stop_reason, stop_details=self.stop_details)


def _text_of(block: _Block, answering: str) -> str:
    if block.type == "tool_use" and block.name == answering:
        return json.dumps(block.input, ensure_ascii=False)
    return block.text if block.type == "text" else ""


def _call_of(block: _Block, answering: str) -> ToolCall | None:
    if block.type != "tool_use" or block.name == answering:
        return None
    return ToolCall(id=block.id, name=block.name, arguments=json.dumps(block.input or {}, ensure_ascii=False))
