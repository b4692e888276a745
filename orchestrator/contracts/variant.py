"""A variant: what differs from a workflow as it is, to be compared with it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from orchestrator.contracts.policy import Value
from orchestrator.contracts.workflow import NODE_KINDS, ModelName, Name, SystemPrompt

#: Names of evaluations, variants and experiments: they stand in labels, separated by `/`.
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]

#: The arm of an experiment that nothing is changed for.
CONTROL = "control"


class Changes(Value):
    """What a variant changes about a workflow whose tasks stay the same.

    `model`, `system` (the system prompt) and `agent` take the place of a task's own: of `task`, or without one of every task
    that has an agent. A system prompt or an agent takes the place of one agent's alone.
    """

    task: Name | None = None
    model: ModelName | None = None
    system: SystemPrompt | None = None
    agent: Name | None = None

    @model_validator(mode="after")
    def _names_an_agent(self) -> Self:
        if self.agent in NODE_KINDS:
            raise ValueError(f"agent: a task that has one keeps one, and {self.agent!r} is none")
        return self


class Variant(Changes):
    """The same for an evaluation: `workflow` may take the place of the whole, and `input` is laid over each case's."""

    workflow: str | None = Field(default=None, min_length=1)
    input: dict[str, Any] | None = None
