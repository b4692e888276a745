"""Chat Completions, which every compatible server has; a server may leave out anything but the text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from orchestrator.contracts.usage import Usage
from worker.llm.base import Delta, LLMRequest, LLMResponse
from worker.llm.message import File, Image, Message, Text, ToolCall, ToolSpec
from worker.llm.schema import exact, strict
from worker.llm.wire.base import Body, ErrorSaid, Fold, Part, Said, Unreadable, Wire, told_to_match

_STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "end_turn",
    "function_call": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
}


class ChatWire(Wire):
    """The field of the output limit, and how structured output is asked for, are of the server's manner."""

    path: ClassVar[str] = "/chat/completions"
    count_path: ClassVar[str] = ""

    def body(self, request: LLMRequest) -> Body:
        body: Body = {
            "model": request.model_name,
            "messages": [_written(message) for message in request.messages],
            self.manner.max_tokens_field: request.max_output_tokens,
        }
        if request.tools:
            body["tools"] = [{"type": "function", "function": _tool(tool)} for tool in request.tools]
        if request.tools and request.tool_choice != "auto":
            body["tool_choice"] = request.tool_choice
        if request.output_schema is not None:
            body |= self._output(request)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return body

    def streaming(self, body: Body) -> Body:
        return {**body, "stream": True} | (
            {"stream_options": {"include_usage": True}} if self.manner.stream_usage else {}
        )

    def counting(self, body: Body) -> Body:
        raise NotImplementedError("this API counts no tokens")

    def answer(self, content: bytes, request: LLMRequest) -> LLMResponse:
        answer = _Answer.model_validate_json(content)
        if answer.error is not None:
            raise ErrorSaid({"error": answer.error})
        if not answer.choices:
            raise Unreadable
        said, reason = answer.choices[0].message, answer.choices[0].finish_reason
        calls = [call.told(place) for place, call in enumerate(said.tool_calls or [])]
        found = Said(said.content or said.refusal or "", _reason(reason, refusal=bool(said.refusal)), calls)
        return self.made(request, answer.model, found, answer.usage and answer.usage.to_usage())

    def fold(self, request: LLMRequest) -> Fold:
        return _Fold(self, request)

    def _output(self, request: LLMRequest) -> Body:
        if self.manner.structured == "json_schema":
            closed = strict(request.output_schema or {})
            schema = {"name": "answer", "schema": closed or request.output_schema, "strict": closed is not None}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        body: Body = {"messages": [_written(message) for message in (told_to_match(request), *request.messages)]}
        return body | ({"response_format": {"type": "json_object"}} if self.manner.structured == "json_object" else {})


def _written(message: Message) -> Body:
    """Give a message as this API takes it."""
    written: Body = {"role": message.role, "content": message.content}
    if message.role == "tool":  # here a result is text: of an image it tells that there is one
        written["content"] = message.shown()["content"]
    elif not isinstance(message.content, str):
        written["content"] = [_part(part) for part in message.content]
    if message.tool_calls:
        written["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return written | ({"tool_call_id": message.call_id} if message.call_id else {})


def _part(part: Text | Image | File) -> Body:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image_url", "image_url": {"url": part.data_url}}
        case File():
            return {"type": "file", "file": {"filename": part.name, "file_data": part.data_url}}


def _tool(tool: ToolSpec) -> Body:
    closed = exact(tool.parameters)
    written = {"name": tool.name, "description": tool.description, "parameters": closed or tool.parameters}
    return written | ({} if closed is None else {"strict": True})


def _reason(reason: str | None, *, refusal: bool) -> str:
    return "refusal" if refusal else _STOP_REASONS.get(reason or "stop", reason or "stop")


class _Fold(Fold):
    def __init__(self, wire: ChatWire, request: LLMRequest) -> None:
        self._wire = wire
        self._request = request
        self._model = ""
        self._texts: list[str] = []
        self._calls: dict[int, _CallPiece] = {}
        self._refused = False
        self._reason: str | None = None
        self._usage: _Usage | None = None

    def feed(self, event: Body) -> Delta | None:
        if event.get("error"):
            raise ErrorSaid(event)
        chunk = _Chunk.model_validate(event)
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        self._reason = choice.finish_reason or self._reason
        self._refused = self._refused or bool(choice.delta.refusal)
        for piece in choice.delta.tool_calls or []:
            self._calls[piece.index] = self._calls.get(piece.index, _CallPiece()).and_then(piece)
        text = choice.delta.content or choice.delta.refusal
        if not text:
            return None
        self._texts.append(text)
        return Delta(text=text)

    @property
    def whole(self) -> bool:
        # Usage comes after the reason, in an event of its own, and some servers send neither that nor an end.
        return self.done or self._reason is not None

    def response(self) -> LLMResponse:
        if not self.whole:
            raise Unreadable
        calls = [self._calls[index].told(place) for place, index in enumerate(sorted(self._calls))]
        said = Said("".join(self._texts), _reason(self._reason, refusal=self._refused), calls)
        return self._wire.made(self._request, self._model, said, self._usage and self._usage.to_usage())


class _InputDetails(Part):
    cached_tokens: int | None = 0
    cache_write_tokens: int | None = 0


class _OutputDetails(Part):
    reasoning_tokens: int | None = 0


class _Usage(Part):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None

    def to_usage(self) -> Usage:
        given = self.prompt_tokens_details or _InputDetails()
        produced = self.completion_tokens_details or _OutputDetails()
        return Usage(
            model_calls=1,
            input_tokens=self.prompt_tokens,
            output_tokens=self.completion_tokens,
            cached_input_tokens=given.cached_tokens or 0,
            cache_write_input_tokens=given.cache_write_tokens or 0,
            reasoning_tokens=produced.reasoning_tokens or 0,
        )


class _Function(Part):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(Part):
    """A call of a tool, or what the next event adds to one."""

    index: int = 0
    id: str | None = None
    function: _Function = _Function()

    def and_then(self, later: _CallPiece) -> _CallPiece:
        mine, more = self.function, later.function
        function = _Function(
            name=more.name or mine.name, arguments=f"{mine.arguments or ''}{more.arguments or ''}" or None
        )
        return _CallPiece(index=later.index, id=later.id or self.id, function=function)

    def told(self, place: int) -> ToolCall:
        # Some servers give calls no ids: what tells them apart within one answer is enough.
        name = self.function.name or ""
        return ToolCall(id=self.id or f"{name}-{place}", name=name, arguments=self.function.arguments or "{}")


class _Said(Part):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Choice(Part):
    message: _Said
    finish_reason: str | None = "stop"


class _Answer(Part):
    model: str = ""
    choices: list[_Choice] = Field(default=[])
    usage: _Usage | None = None
    error: Body | None = None


class _Piece(Part):
    delta: _Said = _Said()
    finish_reason: str | None = None


class _Chunk(Part):
    model: str | None = None
    choices: list[_Piece] = Field(default=[])
    usage: _Usage | None = None
