"""How long replies take: distributions with a seed."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from orchestrator.contracts.policy import Value

if TYPE_CHECKING:
    from random import Random

#: How many standard deviations the 99th percentile lies above the median of a normal distribution.
_Z99 = NormalDist().inv_cdf(0.99)
_FORMS = "SECONDS, uniform:LOW:HIGH, lognormal:MEDIAN:P99 or exponential:MEAN"


class Latency(Value):
    """How long the first piece of a reply takes, and how fast the rest of it comes; a whole reply takes both together.

    `low` is the time itself (`constant`), the least (`uniform`), the median (`lognormal`) or the mean (`exponential`);
    `high` the most (`uniform`) or the 99th percentile (`lognormal`).
    """

    shape: Literal["constant", "uniform", "lognormal", "exponential"] = "constant"
    low: float = Field(default=0.0, ge=0)
    high: float = Field(default=0.0, ge=0)
    tokens_per_second: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Latency:
        if self.shape in {"uniform", "lognormal"} and self.high < self.low:
            raise ValueError(f"{self.shape}: the higher figure {self.high:g} is below the lower one {self.low:g}")
        if self.shape == "lognormal" and not self.low:
            raise ValueError("lognormal: the median must be above 0")
        return self

    def first(self, numbers: Random) -> float:
        """Draw the seconds until the first piece."""
        match self.shape:
            case "constant":
                return self.low
            case "uniform":
                return numbers.uniform(self.low, self.high)
            case "lognormal":
                return numbers.lognormvariate(math.log(self.low), math.log(self.high / self.low) / _Z99)
            case "exponential":
                return numbers.expovariate(1 / self.low) if self.low else 0.0

    def of_tokens(self, tokens: int) -> float:
        """Give the seconds that so many tokens of output take."""
        return tokens / self.tokens_per_second if self.tokens_per_second else 0.0


def to_latency(text: str) -> Latency:
    """Read a latency as it is written on a command line; raises `ValueError` naming the forms that there are."""
    shape, *figures = text.split(":") if ":" in text else ["constant", text]
    wanted = {"constant": 1, "exponential": 1, "uniform": 2, "lognormal": 2}.get(shape)
    try:
        numbers = [float(figure) for figure in figures]
    except ValueError:
        numbers = []
    if wanted is None or len(numbers) != wanted or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{text!r} is no latency: write {_FORMS}")
    return Latency.model_validate({"shape": shape, **dict(zip(("low", "high"), numbers, strict=False))})
