"""Sub-work: agent runs of the same run that an agent run asks for (`ctx.call`, `ctx.map`). What holds for it, and how it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

from orchestrator.cached_property import cached_property
from orchestrator.contracts.composite import STEP
from orchestrator.contracts.policy import RetryPolicy, Timeouts, Value
from orchestrator.contracts.workflow import Name, TaskDefinition


class SubworkState(StrEnum):
    """`open` goes on. `done` and `failed` are outcomes; `stopped` was cancelled before it had one.

    What failed or was stopped goes on when it is asked for again. `void`: something else is asked for in its place now.
    """

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    VOID = "void"


class SubworkOptions(Value):
    """What holds for each agent run of sub-work; `agent` is given where a `fallback` may do its work.

    Of a step `task` says all of it, with its policies.
    """

    retry: RetryPolicy | None = None
    timeouts: Timeouts | None = None
    agent: Name | None = None
    fallback: Name | None = None
    task: TaskDefinition | None = None

    def stored(self) -> str | None:
        """Give them as JSON text, None where nothing differs from what holds anyway."""
        text = self.model_dump_json(exclude_defaults=True)
        return None if text == "{}" else text


@dataclass(frozen=True)
class Order:
    """What an agent asks another one for: a result for each of `inputs`, which are JSON texts.

    `agent` is the word for what else a step may be, and empty for one that names a capability: then `chosen` says who does
    it for each input, and `able` who could. At most `max_concurrency` of them are under way at once. With `fail_fast` the first
    failure cancels the rest; with `return_exceptions` failures are results.
    """

    agent: str
    inputs: tuple[str, ...]
    max_concurrency: int | None = None
    fail_fast: bool = True
    return_exceptions: bool = False
    #: `SubworkOptions` as JSON text.
    options: str | None = None
    chosen: tuple[str, ...] = ()
    able: tuple[str, ...] = ()

    @cached_property
    def step(self) -> TaskDefinition | None:
        """What is asked for where that is more than an agent."""
        return None if self.options is None else SubworkOptions.model_validate_json(self.options).task

    @property
    def fallback(self) -> str | None:
        """Who gets the same inputs where an agent that is called by its name has failed for good."""
        return None if self.options is None else SubworkOptions.model_validate_json(self.options).fallback

    @classmethod
    def of_step(cls, step: TaskDefinition) -> Self:
        """Give an order for a step, without inputs."""
        order = cls(step.agent, (), options=SubworkOptions(task=step).stored())
        vars(order)["step"] = step  # it need not be read from its text
        return order

    def asking(self, **changes: Any) -> Self:
        """Give the same order with other inputs, bounds, or agents that were chosen."""
        order = replace(self, **changes)
        vars(order)["step"] = self.step
        return order

    @property
    def does(self) -> str:
        """Who does it, for people: `agent 'reader'`, `loop of reader`."""
        return f"agent {self.agent!r}" if self.step is None or self.agent == self.step.does else self.step.does

    @property
    def label(self) -> str | None:
        """What its caller calls it; None where it says nothing."""
        return None if self.step is None or self.step.id == STEP else self.step.id

    def whose(self, index: int) -> str:
        """Give the agent, or the word in its place, that does it for an input."""
        return self.chosen[index] if self.chosen else self.agent

    @cached_property
    def digest(self) -> str:
        """A hash of the inputs."""
        found = hashlib.sha256()
        for text in self.inputs:
            found.update(text.encode())
            found.update(b"\n")  # in no JSON text
        return found.hexdigest()[:32]

    @property
    def first(self) -> int:
        """How many may begin at once."""
        return min(len(self.inputs), self.max_concurrency or len(self.inputs))


@dataclass(frozen=True, slots=True)
class Standing:
    """How sub-work stands; `tasks` names its agent runs for people."""

    id: str
    state: SubworkState
    tasks: str


class Ended(NamedTuple):
    """How one agent run of sub-work has ended; `error` as data."""

    task: str
    state: str
    output: Any
    error: dict[str, Any] | None


class Failure(NamedTuple):
    """The first failure of sub-work in the order of its inputs, and how many of how many there are."""

    task: str
    error: dict[str, Any]
    failed: int
    size: int


def listened_to(listening: dict[str, Sequence[Any]] | None) -> set[str]:
    """Give the sub-work whose end wakes an agent run, by what stands in its row (`Interest` of the kind `calls`)."""
    return {str(each["subwork"]) for each in (listening or {}).get("calls", ())}
