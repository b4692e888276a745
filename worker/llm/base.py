"""What a language model is to us: a request in, a response or one of our errors out."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelRefused

#: Every message costs a few tokens beside its text: its role, and where it begins and ends.
_TOKENS_PER_MESSAGE = 4
_BYTES_PER_TOKEN = 3


class Message(Value):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class LLMRequest(Value):
    """One call of a model, named `provider:model`, or plain `offline`.

    `output_schema` is a JSON schema of an object: the response's text is then JSON of that shape. `timeout_seconds`
    bounds every silence of the provider, not the whole call: that is what an agent's timeouts are for.
    """

    model: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    max_output_tokens: int = Field(default=4096, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    output_schema: dict[str, Any] | None = None
    timeout_seconds: float = Field(default=120, gt=0)

    @property
    def model_name(self) -> str:
        """The model's name as its provider knows it."""
        return self.model.partition(":")[2]

    @property
    def system(self) -> str:
        """The text of all system messages."""
        return "\n\n".join(message.content for message in self.messages if message.role == "system")


class LLMResponse(Value):
    """What a model answered. `model` is the id of the one that did, which may be more exact than the one asked for.

    `stop_reason` is `end_turn` for an answer that is whole, `max_tokens` for one that was cut off, `refusal` for one
    that the model or a filter declined (`text` then says what the provider said); any other word is the provider's own.
    """

    text: str
    model: str
    usage: Usage
    stop_reason: str
    request_id: str | None = None


class BaseLLMProvider(ABC):
    """Answers requests to the models of one provider; thread-safe, never sleeps, and tries each request once.

    Whatever goes wrong is raised as a `ModelError` that says whether a retry can help; no message holds a key.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Make a provider from environment variables; raises `ModelRefused` naming the one that is missing."""

    @abstractmethod
    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Give the model's answer, as a whole."""

    def count_tokens(self, request: LLMRequest) -> int:
        """Count the input tokens of a request; an estimate that errs high, where a provider has no exact count."""
        content = sum(estimate_tokens(message.content) + _TOKENS_PER_MESSAGE for message in request.messages)
        return content + (estimate_tokens(json.dumps(request.output_schema)) if request.output_schema else 0)

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; safe to call twice."""


def required_key(variable: str, env: Mapping[str, str]) -> str:
    """Give the key that a provider needs, without the line end that copying it may have left; see `from_env`."""
    key = env.get(variable, "").strip()
    if not key:
        raise ModelRefused(f"this model needs a key: set {variable}, or choose the model 'offline' to work without one")
    return key


def estimate_tokens(text: str) -> int:
    """Estimate tokens as one for each three bytes of UTF-8; of English they hold four or five, of Chinese three."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
