"""What model calls used: counts of tokens and calls, added up along agent run and run."""

from __future__ import annotations

from pydantic import Field

from orchestrator.contracts.policy import Value


class Usage(Value):
    """Tokens and calls; `cached_input_tokens` are part of `input_tokens`, `reasoning_tokens` of `output_tokens`."""

    model_calls: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_input_tokens: int = Field(default=0, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            model_calls=self.model_calls + other.model_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )
