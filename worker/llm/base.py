"""What a language model is to us: a request in, a response or one of our errors out."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field

from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelCapabilityError, ModelRefused
from worker.llm.message import (
    Image,
    Message,
    ToolCall,
    ToolSpec,
    estimate_tokens,
    estimated_tokens,
    most_tokens_of,
    size_of,
)

#: What a provider may put before a conversation by itself: how to give structured output, say.
_TOKENS_OF_PROVIDERS = 600


class LLMRequest(Value):
    """One call of a model, named `provider:model`, or plain `offline`.

    The model may ask for calls of `tools`, has to with the `tool_choice` `required`, and may not with `none`.
    `output_schema` is a JSON schema of an object: the response's text is then JSON of that shape. `temperature` is left
    out for models that take none. `timeout_seconds` bounds every silence of the provider, not the whole call: that is
    what an agent's timeouts are for. `fallbacks` are asked in turn when the model cannot answer. Without `cache` it is
    asked even where the same question has an answer, and its own answer is nobody else's. `sample` tells questions apart
    that are equal otherwise: an agent that asks the same again wants another answer. With `stream` watchers of the run see
    the answer come.
    """

    model: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    max_output_tokens: int = Field(default=4096, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    output_schema: dict[str, Any] | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "required", "none"] = "auto"
    timeout_seconds: float = Field(default=120, gt=0)
    fallbacks: tuple[str, ...] = ()
    cache: bool = True
    stream: bool = False
    sample: int = Field(default=0, ge=0)

    @property
    def mark(self) -> int:
        """A number that is the same for equal questions, in this process."""
        given = (self.model, self.messages, self.max_output_tokens, self.temperature, self.tool_choice)
        return hash((*given, repr(self.output_schema), repr(self.tools)))

    @property
    def model_name(self) -> str:
        """The model's name as its provider knows it."""
        return self.model.partition(":")[2]

    @property
    def shows_images(self) -> bool:
        """Whether an image is among its messages."""
        return any(isinstance(part, Image) for message in self.messages for part in message.parts)

    @property
    def system(self) -> str:
        """The text of all system messages."""
        return "\n\n".join(message.text for message in self.messages if message.role == "system")


class Announced(Value):
    """What a provider's headers say of one of its limits: how much it is, what is left, and when it is whole again."""

    dimension: Literal["requests", "tokens", "input_tokens", "output_tokens"]
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None


class Delta(Value):
    """A piece of an answer's text, as it came."""

    text: str


class LLMResponse(Value):
    """What a model answered. `model` is the id of the one that did, which may be more exact than the one asked for.

    `stop_reason` is `end_turn` for an answer that is whole, `tool_use` for one that waits for results of `tool_calls`,
    `max_tokens` for one that was cut off, `refusal` for one that the model or a filter declined (`text` then says what the
    provider said); any other word is the provider's own.
    `estimated` says that the provider told no usage, and that it is our estimate. `announced` is of the moment, and no
    part of the response as JSON. `provenance` says whether the provider has answered this call, or an equal one before it
    (`cache`) or at the same time (`flight`): then `usage` is nothing.
    """

    provenance: Literal["provider", "cache", "flight"] = "provider"
    text: str
    model: str
    usage: Usage
    stop_reason: str
    tool_calls: tuple[ToolCall, ...] = ()
    request_id: str | None = None
    estimated: bool = False
    announced: tuple[Announced, ...] = Field(default=(), exclude=True, repr=False)


class EmbeddingRequest(LLMRequest):
    """A wish for vectors, one for the text of each message: limited, priced and billed as any call. See `embedding_of`."""


class EmbeddingResponse(LLMResponse):
    """A vector for each text, packed as `orchestrator.contracts.vector` says."""

    text: str = ""
    stop_reason: str = "end_turn"
    vectors: tuple[bytes, ...] = Field(repr=False)


def embedding_of(model: str, texts: Sequence[str]) -> EmbeddingRequest:
    """Make the request for vectors of texts."""
    # Nothing is put out, and an answer is as long as its question: there is nothing to share.
    messages = tuple(Message(role="user", content=text) for text in texts)
    return EmbeddingRequest(model=model, messages=messages, max_output_tokens=1, cache=False)


class BaseLLMProvider(ABC):
    """Answers requests to the models of one provider; thread-safe, never sleeps, and tries each request once.

    Whatever goes wrong is raised as a `ModelError` that says whether a retry can help; no message holds a key. A class
    needs `from_env`, `invoke` and `close`. It then answers asyncio from threads and streams an answer in one piece, until
    it defines those methods itself.
    """

    #: What stands before the colon in the id of a model.
    name: str
    #: The alias of the key that it uses: the same for the same key everywhere, and not to be traced back to it.
    credential: str = ""
    #: The host of the server that it asks.
    host: str = ""
    #: Whether its calls count in limits, budgets and the ledger.
    metered: bool = True

    @classmethod
    @abstractmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Make a provider from environment variables; raises `ModelRefused` naming the one that is missing."""

    @abstractmethod
    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Give the model's answer, as a whole."""

    async def invoke_async(self, request: LLMRequest) -> LLMResponse:
        """Give the model's answer, as a whole, without blocking the loop."""
        return await asyncio.to_thread(self.invoke, request)

    def invoke_streaming(self, request: LLMRequest) -> Generator[Delta | LLMResponse]:
        """Give the text of the answer piece by piece as it comes, and the whole response last."""
        response = self.invoke(request)
        yield Delta(text=response.text)
        yield response

    async def invoke_streaming_async(self, request: LLMRequest) -> AsyncGenerator[Delta | LLMResponse]:
        """Give the same as `invoke_streaming` without blocking the loop."""
        pieces = self.invoke_streaming(request)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)

    def embed(self, request: EmbeddingRequest) -> EmbeddingResponse:
        """Give a vector for each text; raises `ModelCapabilityError` where the provider makes none."""
        raise ModelCapabilityError(
            f"the provider of {request.model!r} makes no vectors of texts: NIGHTFLEET_EMBEDDING_MODEL names a model that does, "
            "such as openai:text-embedding-3-small; unset, it is done offline"
        )

    def count_tokens(self, request: LLMRequest) -> int:
        """Count the input tokens of a request; an estimate that errs high, where a provider has no exact count."""
        return request_tokens(request)

    async def count_tokens_async(self, request: LLMRequest) -> int:
        """Count the input tokens of a request without blocking the loop."""
        return await asyncio.to_thread(self.count_tokens, request)

    @abstractmethod
    def close(self) -> None:
        """Let go of the connections of threads; safe to call twice."""

    async def aclose(self) -> None:  # noqa: B027 - most have nothing of a loop's
        """Let go of the connections of the running loop; safe to call twice."""


def required_key(variable: str, env: Mapping[str, str]) -> str:
    """Give the key that a provider needs, without the line end that copying it may have left; see `from_env`."""
    key = env.get(variable, "").strip()
    if not key:
        raise ModelRefused(f"this model needs a key: set {variable}, or choose the model 'offline' to work without one")
    return key


def request_tokens(request: LLMRequest) -> int:
    """Estimate the input tokens of a request."""
    return estimated_tokens(request.messages) + sum(estimate_tokens(text) for text in _schemas(request))


def most_tokens(request: LLMRequest) -> int:
    """Give more input tokens than a request can have: none is shorter than a byte, and providers add a few of their own."""
    return most_tokens_of(request.messages) + sum(size_of(text) for text in _schemas(request)) + _TOKENS_OF_PROVIDERS


def _schemas(request: LLMRequest) -> list[str]:
    """Give what goes with a request beside its messages."""
    given = [] if request.output_schema is None else [json.dumps(request.output_schema)]
    return [*given, *(tool.model_dump_json() for tool in request.tools)]
