"""What model calls used and cost: counts of tokens and calls, and money, added up along agent run and run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, computed_field, model_validator

from orchestrator.contracts.money import plain_usd
from orchestrator.contracts.policy import Value


class Usage(Value):
    """Tokens, calls and what they cost.

    `cached_input_tokens` (read from a provider's cache) and `cache_write_input_tokens` are parts of `input_tokens`,
    `reasoning_tokens` of `output_tokens`. `unpriced_calls` are those of models without a price: no part of the cost.
    """

    model_calls: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_input_tokens: int = Field(default=0, ge=0)
    cache_write_input_tokens: int = Field(default=0, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)
    cost_nanousd: int = Field(default=0, ge=0)
    unpriced_calls: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_usd(cls, data: Any) -> Any:
        """Take back what was given as JSON: `usd` says nothing that `cost_nanousd` does not."""
        return {key: value for key, value in data.items() if key != "usd"} if isinstance(data, dict) else data

    @computed_field(repr=False)
    @property
    def usd(self) -> str:
        """The cost in dollars, exactly, in decimal digits."""
        return plain_usd(self.cost_nanousd)

    def stored(self) -> dict[str, int]:
        """Give what tables keep: no zeros, and nothing twice."""
        return self.model_dump(exclude_defaults=True, exclude_computed_fields=True)

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})
