"""Models of OpenAI, through the Responses API, and of any compatible server, through Chat Completions."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelError, ModelRefused
from orchestrator.settings import mask
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse, required_key
from worker.llm.errors import Failure, model_error, timed_out, unreachable, unreadable
from worker.llm.schema import strict

if TYPE_CHECKING:
    import openai

API = Literal["responses", "chat"]

OFFICIAL_URL = "https://api.openai.com/v1"
_CONNECT_TIMEOUT_SECONDS = 10.0
_STOP_REASONS = {
    "completed": "end_turn",
    "stop": "end_turn",
    "max_output_tokens": "max_tokens",
    "length": "max_tokens",
    "content_filter": "refusal",
}


class OpenAIProvider(BaseLLMProvider):
    """Answers `openai:<model>`; `api` follows from the base URL: all compatible servers have Chat Completions."""

    name: ClassVar[str] = "openai"

    def __init__(
        self, api_key: str, *, base_url: str | None = None, api: API | None = None, clock: Clock = system_clock
    ) -> None:
        import openai

        self._sdk = openai
        self._key = api_key
        self._url = base_url or OFFICIAL_URL
        self._api: API = api or _api_of(self._url)
        self._clock = clock
        self._client = openai.OpenAI(api_key=api_key, base_url=self._url, max_retries=0)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Take `OPENAI_API_KEY` and `OPENAI_BASE_URL`; `NIGHTFLEET_OPENAI_API` is for gateways with `responses`."""
        api = env.get("NIGHTFLEET_OPENAI_API") or None
        if api not in ("responses", "chat", None):
            raise ModelRefused(f"NIGHTFLEET_OPENAI_API is {api!r}: it can be 'responses' or 'chat'")
        return cls(required_key("OPENAI_API_KEY", env), base_url=env.get("OPENAI_BASE_URL"), api=api)

    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Ask once, through the API of this provider's server."""
        with self._translated(request):
            if self._api == "responses":
                raw = self._client.responses.with_raw_response.create(
                    **responses_body(request), timeout=self._timeout(request)
                )
            else:
                raw = self._client.chat.completions.with_raw_response.create(
                    **chat_body(request), timeout=self._timeout(request)
                )
        try:
            if self._api == "chat":
                return _Completion.model_validate_json(raw.content).to_response(raw.request_id)
            answer = _Response.model_validate_json(raw.content)
        except ValidationError:
            raise unreadable(self.name, request.model_name, request_id=raw.request_id) from None
        if answer.error is not None:
            raise self._error(
                request, raw.status_code, answer.error.model_dump(), request_id=raw.request_id, headers=raw.headers
            )
        return answer.to_response(raw.request_id)

    def count_tokens(self, request: LLMRequest) -> int:
        """Count exactly, by a request of its own; a compatible server has no such API: there it is the estimate."""
        if self._api == "chat":
            return super().count_tokens(request)
        body = responses_body(request)
        counted = {key: body[key] for key in ("model", "input", "text") if key in body}
        with self._translated(request):
            return self._client.responses.input_tokens.count(**counted, timeout=self._timeout(request)).input_tokens

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()

    def _timeout(self, request: LLMRequest) -> openai.Timeout:
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
            raise self._error(
                request, error.status_code, error.body, request_id=error.request_id, headers=error.response.headers
            ) from None

    def _error(
        self, request: LLMRequest, status: int, body: object, *, request_id: str | None, headers: Mapping[str, str]
    ) -> ModelError:
        said: dict[str, Any] = body if isinstance(body, dict) else {"message": str(body or "")}
        failure = Failure(
            provider=self.name,
            model=request.model_name,
            status=status,
            codes=tuple(str(said[key]) for key in ("code", "type") if said.get(key)),
            message=str(said.get("message") or ""),
            request_id=request_id,
            headers=dict(headers),
        )
        return model_error(failure, now=self._clock.now(), key=self._key)


def responses_body(request: LLMRequest) -> dict[str, Any]:
    """Give the request as the Responses API takes it; nothing is stored there."""
    body: dict[str, Any] = {
        "model": request.model_name,
        "input": _messages(request),
        "max_output_tokens": request.max_output_tokens,
        "store": False,
    }
    if request.output_schema is not None:
        body["text"] = {"format": {"type": "json_schema", **_format(request.output_schema)}}
    return body | _temperature(request)


def chat_body(request: LLMRequest) -> dict[str, Any]:
    """Give the request as Chat Completions takes it; `max_tokens` is the limit that every compatible server knows."""
    body: dict[str, Any] = {
        "model": request.model_name,
        "messages": _messages(request),
        "max_tokens": request.max_output_tokens,
    }
    if request.output_schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": _format(request.output_schema)}
    return body | _temperature(request)


def _api_of(base_url: str) -> API:
    host = urlsplit(base_url).hostname or ""
    return "responses" if host == "openai.com" or host.endswith(".openai.com") else "chat"


def _messages(request: LLMRequest) -> list[dict[str, str]]:
    return [message.model_dump() for message in request.messages]


def _temperature(request: LLMRequest) -> dict[str, float]:
    return {} if request.temperature is None else {"temperature": request.temperature}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    closed = strict(schema)
    return {"name": "answer", "schema": closed or schema, "strict": closed is not None}


# What we read of an answer. The SDK builds its types without validating; a compatible server may leave anything out.


class _Details(BaseModel):
    cached_tokens: int | None = 0
    reasoning_tokens: int | None = 0


class _ResponseUsage(BaseModel):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Content(BaseModel):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Item(BaseModel):
    type: str
    content: list[_Content] | None = None


class _Error(BaseModel):
    code: str
    message: str = ""


class _Incomplete(BaseModel):
    reason: str | None = None


class _Response(BaseModel):
    model: str
    status: str
    output: list[_Item]
    usage: _ResponseUsage | None = None
    incomplete_details: _Incomplete | None = None
    error: _Error | None = None

    def to_response(self, request_id: str | None) -> LLMResponse:
        contents = [part for item in self.output if item.type == "message" for part in item.content or []]
        refusal = "".join(part.refusal or "" for part in contents)
        reason = (self.incomplete_details and self.incomplete_details.reason) or self.status
        usage = self.usage or _ResponseUsage()
        return LLMResponse(
            text="".join(part.text or "" for part in contents if part.type == "output_text") or refusal,
            model=f"{OpenAIProvider.name}:{self.model}",
            usage=_usage(
                usage.input_tokens, usage.output_tokens, usage.input_tokens_details, usage.output_tokens_details
            ),
            stop_reason="refusal" if refusal else _STOP_REASONS.get(reason, reason),
            request_id=request_id,
        )


class _CompletionUsage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _ChatMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _ChatMessage
    finish_reason: str | None = "stop"


class _Completion(BaseModel):
    model: str
    choices: list[_Choice] = Field(min_length=1)
    usage: _CompletionUsage | None = None

    def to_response(self, request_id: str | None) -> LLMResponse:
        choice, usage = self.choices[0], self.usage or _CompletionUsage()
        reason = choice.finish_reason or "stop"
        return LLMResponse(
            text=choice.message.content or choice.message.refusal or "",
            model=f"{OpenAIProvider.name}:{self.model}",
            usage=_usage(
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.prompt_tokens_details,
                usage.completion_tokens_details,
            ),
            stop_reason="refusal" if choice.message.refusal else _STOP_REASONS.get(reason, reason),
            request_id=request_id,
        )


def _usage(given: int, produced: int, given_details: _Details | None, produced_details: _Details | None) -> Usage:
    return Usage(
        model_calls=1,
        input_tokens=given,
        output_tokens=produced,
        cached_input_tokens=(given_details and given_details.cached_tokens) or 0,
        reasoning_tokens=(produced_details and produced_details.reasoning_tokens) or 0,
    )
