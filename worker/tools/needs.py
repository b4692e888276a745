"""What a tool needs of the outside, and how often a service may be asked: values that others enforce."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from orchestrator.contracts.permissions import Needs
from orchestrator.contracts.policy import Value

__all__ = ["Needs", "ServiceLimit"]


class ServiceLimit(Value):
    """How often the whole fleet may ask an external service in a minute, and how many calls may be under way.

    Tools that name one `service` share its limit. A call that has to wait holds no slot.
    """

    service: str = Field(min_length=1, max_length=200)
    requests_per_minute: float | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    #: How much may be saved up for a burst, in seconds; a minute's worth by default.
    burst_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is None and self.concurrency is None:
            raise ValueError("it limits nothing: give requests_per_minute, or concurrency")
        return self
