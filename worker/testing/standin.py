"""What answers in place of a model in a test: it knows for whom it does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Self

from orchestrator.contracts.effect import Slot
from orchestrator.errors import ModelRefused
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse


class ModelCall(LLMRequest):
    """One call that was made in a test: the request, and the agent that made it."""

    agent: str = ""

    @classmethod
    def of(cls, request: LLMRequest, agent: str) -> Self:
        """Make one of a request that was checked already."""
        return cls.model_construct(**dict(request), agent=agent)

    @property
    def prompt(self) -> str:
        """What the user said last."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The tools that the model may call."""
        return tuple(each.name for each in self.tools)

    @property
    def output_name(self) -> str:
        """The name of the model that the answer is to be; empty where text is wanted."""
        return str((self.output_schema or {}).get("title", ""))


class By(NamedTuple):
    """On whose behalf a call is made: the agent, the run of it in this test, and the place in its code."""

    agent: str = ""
    run: int = 0
    slot: Slot = Slot("", 0)


class StandIn(BaseLLMProvider):
    """Answers in place of a model; no limit, budget or ledger counts what it says. Thread-safe."""

    metered = False

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:  # noqa: ARG003 - the environment makes none
        """Refuse: a test makes it."""
        raise ModelRefused(f"{cls.__name__} is made by a test, and named by no model")

    @abstractmethod
    def begin(self, declared: str | None) -> tuple[str, int]:
        """Begin a run of an agent that declares a model, or none: gives the model that it asks, and the run's number."""

    @abstractmethod
    def answer(self, request: LLMRequest, by: By) -> LLMResponse:
        """Give the answer to a request."""

    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Give the answer to a request that nobody stands behind."""
        return self.answer(request, By())

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""
