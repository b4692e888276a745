"""Models of Anthropic, through the Messages API."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ValidationError

from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelError
from orchestrator.settings import mask
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse, required_key
from worker.llm.errors import Failure, model_error, timed_out, unreachable, unreadable
from worker.llm.schema import strict

if TYPE_CHECKING:
    import anthropic

OFFICIAL_URL = "https://api.anthropic.com"
_CONNECT_TIMEOUT_SECONDS = 10.0
#: What takes the answer where its schema is no closed one.
_ANSWER_TOOL = "answer"
_STOP_REASONS = {"stop_sequence": "end_turn", "tool_use": "end_turn"}


class AnthropicProvider(BaseLLMProvider):
    """Answers `anthropic:<model>`."""

    name: ClassVar[str] = "anthropic"

    def __init__(self, api_key: str, *, base_url: str | None = None, clock: Clock = system_clock) -> None:
        import anthropic

        self._sdk = anthropic
        self._key = api_key
        self._url = base_url or OFFICIAL_URL
        self._clock = clock
        self._client = anthropic.Anthropic(api_key=api_key, base_url=self._url, max_retries=0)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Take `ANTHROPIC_API_KEY`, and `ANTHROPIC_BASE_URL` for another server."""
        return cls(required_key("ANTHROPIC_API_KEY", env), base_url=env.get("ANTHROPIC_BASE_URL"))

    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Ask once."""
        # The SDK has no parameter for the temperature any more; models that have one still take it.
        extra = None if request.temperature is None else {"temperature": request.temperature}
        with self._translated(request):
            raw = self._client.messages.with_raw_response.create(
                **self._body(request),
                max_tokens=request.max_output_tokens,
                extra_body=extra,
                timeout=self._timeout(request),
            )
        try:
            answer = _Answer.model_validate_json(raw.read())
        except ValidationError:
            raise unreadable(self.name, request.model_name, request_id=raw.request_id) from None
        return answer.to_response(raw.request_id)

    def count_tokens(self, request: LLMRequest) -> int:
        """Count exactly, by a request of its own."""
        with self._translated(request):
            counted = self._client.messages.count_tokens(**self._body(request), timeout=self._timeout(request))
        return counted.input_tokens

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def _body(self, request: LLMRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model_name,
            "messages": [message.model_dump() for message in request.messages if message.role != "system"],
        }
        if request.system:
            body["system"] = request.system
        if request.output_schema is not None:
            body |= self._output(request.output_schema)
        return body

    def _output(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Ask for output of a schema: natively if it is a closed one, else as the input of a forced tool."""
        closed = strict(schema)
        if closed is not None:
            return {"output_config": {"format": {"type": "json_schema", "schema": self._sdk.transform_schema(closed)}}}
        tool = {"name": _ANSWER_TOOL, "description": "Takes your answer.", "input_schema": schema}
        return {"tools": [tool], "tool_choice": {"type": "tool", "name": _ANSWER_TOOL}}

    def _timeout(self, request: LLMRequest) -> anthropic.Timeout:
        seconds = request.timeout_seconds
        return self._sdk.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT_SECONDS))

    @contextmanager
    def _translated(self, request: LLMRequest) -> Generator[None]:
        """Raise the SDK's errors as ours, without the request (and its key) that they carry along."""
        sdk = self._sdk
        try:
            yield
        except sdk.APITimeoutError:
            raise timed_out(self.name, request.model_name, request.timeout_seconds) from None
        except sdk.APIConnectionError as error:
            raise unreachable(self.name, mask(self._url), error.__cause__, key=self._key) from None
        except sdk.APIStatusError as error:
            raise self._error(request, error) from None

    def _error(self, request: LLMRequest, error: anthropic.APIStatusError) -> ModelError:
        failure = Failure(
            provider=self.name,
            model=request.model_name,
            status=error.status_code,
            codes=tuple(code for code in (error.error_code, error.type) if code),
            message=error.api_message or "",
            request_id=error.request_id,
            headers=dict(error.response.headers),
        )
        return model_error(failure, now=self._clock.now(), key=self._key)


# What we read of an answer: the SDK builds its types without validating.


class _Block(BaseModel):
    type: str
    text: str = ""
    name: str = ""
    input: Any = None


class _OutputDetails(BaseModel):
    thinking_tokens: int = 0


class _Usage(BaseModel):
    """Here, unlike with us, what was read from or written to the cache is no part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def to_usage(self) -> Usage:
        read = self.cache_read_input_tokens or 0
        return Usage(
            model_calls=1,
            input_tokens=self.input_tokens + read + (self.cache_creation_input_tokens or 0),
            output_tokens=self.output_tokens,
            cached_input_tokens=read,
            reasoning_tokens=self.output_tokens_details.thinking_tokens if self.output_tokens_details else 0,
        )


class _StopDetails(BaseModel):
    explanation: str | None = None


class _Answer(BaseModel):
    model: str
    content: list[_Block]
    stop_reason: str | None
    stop_details: _StopDetails | None = None
    usage: _Usage

    def to_response(self, request_id: str | None) -> LLMResponse:
        reason = self.stop_reason or "end_turn"
        explanation = (self.stop_details and self.stop_details.explanation) or ""
        return LLMResponse(
            text="".join(_text_of(block) for block in self.content) or explanation,
            model=f"{AnthropicProvider.name}:{self.model}",
            usage=self.usage.to_usage(),
            stop_reason=_STOP_REASONS.get(reason, reason),
            request_id=request_id,
        )


def _text_of(block: _Block) -> str:
    if block.type == "tool_use" and block.name == _ANSWER_TOOL:
        return json.dumps(block.input, ensure_ascii=False)
    return block.text if block.type == "text" else ""
