"""The messages of teams as pydantic models: each `...Turn` is what a member is asked with, the others what it gives."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

Answer = TypeVar("Answer")


class Fault(BaseModel):
    """Why something was not done; `task` is the agent run that has failed, where there was one."""

    code: str
    message: str
    task: str | None = None


# A leader and its followers -------------------------------------------------------------------------------------------


class Result(BaseModel):
    """How an assignment has ended: with what its follower gave, or with an `error`.

    Of one that is `left_out`, because the history was too long for a message, only the end itself is told.
    """

    id: str
    to: str
    round: int
    input: Any = None
    output: Any = None
    error: Fault | None = None
    left_out: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether a follower gave something."""
        return self.error is None


class LeaderTurn(BaseModel):
    """What a leader is asked with: the task, who can work, and how the assignments of its last round have ended.

    `followers` are names with what each can do, `history` the results of earlier rounds. `problems` are what of its last
    answer could not be followed. With no `rounds_left` it has to give a result.
    """

    task: Any
    round: int = 1
    rounds_left: int = 1
    followers: dict[str, str]
    results: list[Result] = []
    history: list[Result] = []
    problems: list[str] = []

    def answer(self, *, input: Any = Any, result: Any = Any) -> type[Assignments]:
        """Give the type of an answer that knows the followers at hand, for `ctx.llm(output=...)`.

        `input` and `result` are the types of what a follower is given, and of the result of the team.
        """
        assignment = create_model(
            "Assignment",
            __base__=Assignment,
            to=(one_of("Follower", self.followers), _field_of(Assignment, "to")),
            input=(input, _field_of(Assignment, "input")),
        )
        return create_model(
            "Assignments",
            __base__=Assignments,
            assignments=(_list_of(assignment), _field_of(Assignments, "assignments")),
            result=(_or_none(result), _field_of(Assignments, "result")),
        )


class Assignment(BaseModel):
    """A piece of work for a follower. It begins when those in `after` have ended, and is then given what they gave."""

    model_config = ConfigDict(use_enum_values=True)

    to: str = Field(description="the follower who does it")
    input: Any = Field(default=None, description="what the follower is given")
    id: str | None = Field(default=None, description="a name for it, where another one comes after it")
    after: list[str] = Field(default=[], description="ids of those whose results it needs")


class Assignments(BaseModel):
    """What a leader gives: assignments, or the `result`, which ends the team."""

    assignments: list[Assignment] = Field(default=[], description="what is to be done next; none with a result")
    result: Any = Field(default=None, description="the result of the whole task, once nothing is left to be done")


# Members who are to agree ---------------------------------------------------------------------------------------------


class Voice(BaseModel):
    """What a member gave in the last round: its answer and all that it said with it, or the `error` of one that gave none."""

    model_config = ConfigDict(extra="allow")

    member: str
    answer: Any = None
    error: str | None = None


class MemberTurn(BaseModel):
    """What a member is asked with: the task, and from the second round on what everybody said in the last one.

    `member` is its own name. `problem` says why its answer could not be taken for one: it is asked again, once in a round.
    """

    task: Any
    round: int = 1
    rounds_left: int = 0
    member: str = ""
    opinions: list[Voice] = []
    problem: str | None = None


class Opinion(BaseModel, Generic[Answer]):
    """What a member gives; answers that are equal as JSON are one. Without an `answer` (null) it abstains.

    `Opinion[Literal["merge", "mend"]]` lets a model choose: free texts are seldom equal.
    """

    answer: Answer = Field(description="the answer, and nothing but it")
    reason: str = Field(default="", description="why, in a few sentences, for the others")


# Agents who hand over -------------------------------------------------------------------------------------------------


class HandedOver(BaseModel):
    """One time that the work went from one agent to another, and what was said."""

    model_config = ConfigDict(populate_by_name=True)

    by: str = Field(alias="from")
    to: str
    message: Any = None
    left_out: bool = False


class HandoffTurn(BaseModel):
    """What an agent is asked with that has the work now: the task, what was said to it, and where the work has been.

    `agents` are the others with what each can do. `problem` says why its last answer could not be followed. With no
    `handoffs_left` it has to give a result.
    """

    task: Any
    message: Any = None
    history: list[HandedOver] = []
    agent: str = ""
    agents: dict[str, str] = {}
    handoffs_left: int = 1
    problem: str | None = None

    def answer(self, result: Any = Any) -> type[Turn]:
        """Give the type of an answer that knows the agents at hand, for `ctx.llm(output=...)`.

        `result` is the type of the result of the team.
        """
        names: Any = one_of("Agent", self.agents) | None if self.agents else None
        return create_model(
            "Turn",
            __base__=Turn,
            handoff=(names, _field_of(Turn, "handoff")),
            result=(_or_none(result), _field_of(Turn, "result")),
        )


class Turn(BaseModel):
    """What an agent gives that has the work: the `result`, or who takes over, with a message."""

    model_config = ConfigDict(use_enum_values=True)

    handoff: str | None = Field(default=None, description="who takes over; null with a result")
    message: str | None = Field(default=None, description="what whoever takes over should know")
    result: Any = Field(default=None, description="the result of the whole task; null with a handoff")


def one_of(name: str, words: Iterable[str]) -> Any:
    """Give a type of text that is one of some words, in its schema too."""
    return Enum(name, {f"CHOICE_{number}": word for number, word in enumerate(words)}, type=str)


def _or_none(kind: Any) -> Any:
    return kind if kind is Any else kind | None


def _list_of(model: Any) -> Any:
    return list[model]


def _field_of(model: type[BaseModel], name: str) -> Any:
    """Give the field of a model anew, for a type that narrows it."""
    known = model.model_fields[name]
    if known.is_required():
        return Field(description=known.description)
    return Field(default=known.get_default(call_default_factory=True), description=known.description)
