"""Limits as they are configured: the tables `[[limits]]` of a models file."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.contracts.policy import Value
from worker.limits.base import Dimension

Part = Literal["model", "credential", "tenant", "project"]
Limit = Annotated[float, Field(gt=0, le=1e12)]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Caller(NamedTuple):
    """Who makes a model call, where, with which key. `model` is `provider:model`, `credential` the key's alias."""

    model: str
    credential: str = ""
    host: str = ""
    tenant: str = ""
    project: str = ""


class LimitRule(Value):
    """What the calls that match may take together; patterns as in shells, of `model` several if need be.

    `per` names what is counted apart: `per = ["credential"]` gives each key limits of its own, and without it all calls that
    match share them. `assumed` limits are guesses until the provider's headers say more. `provider` says whether these are the
    provider's own limits, so that its headers and refusals concern them; by default those are that are counted per credential.
    `counts` is what a provider takes for the tokens of a call (`tokens_per_minute`): what it uses, or (`admission`) the
    greater of its `max_output_tokens` and its input. `burst_seconds` is how much may be saved up for a burst.
    """

    model: Annotated[tuple[str, ...], BeforeValidator(_several)] = ("*",)
    credential: str = "*"
    host: str = "*"
    tenant: str = "*"
    project: str = "*"
    per: tuple[Part, ...] = ()
    requests_per_minute: Limit | None = None
    requests_per_day: Limit | None = None
    tokens_per_minute: Limit | None = None
    input_tokens_per_minute: Limit | None = None
    output_tokens_per_minute: Limit | None = None
    concurrency: Limit | None = None
    counts: Literal["usage", "admission"] = "usage"
    assumed: bool = False
    provider: bool | None = None
    burst_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if all(self.of(dimension) is None for dimension in Dimension):
            raise ValueError(f"it limits nothing: give one of {', '.join(Dimension)}")
        return self

    @property
    def of_provider(self) -> bool:
        """Whether the provider's headers speak of it."""
        return "credential" in self.per if self.provider is None else self.provider

    def of(self, dimension: Dimension) -> float | None:
        """Give the limit of a dimension, None if it has none."""
        limit: float | None = getattr(self, dimension.value)
        return limit

    def matches(self, caller: Caller) -> bool:
        """Tell whether a call is one of those that it limits."""
        return all(
            any(pattern == "*" or fnmatchcase(value, pattern) for pattern in self._patterns(part))
            for part, value in caller._asdict().items()
        )

    def scope(self, caller: Caller) -> str:
        """Give what a call's limits are of: what is counted apart by value, the rest by pattern."""
        found: list[str] = []
        for part, value in caller._asdict().items():
            text = value if part in self.per else ",".join(self._patterns(part))
            if text != "*":
                found.append(f"{part}={text}")
        return " ".join(found) or "all"

    def _patterns(self, part: str) -> tuple[str, ...]:
        given: str | tuple[str, ...] = getattr(self, part)
        return (given,) if isinstance(given, str) else given
