"""Messages between the agents of a run: what is sent, what is received, and what a receiver waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.policy import Value

M = TypeVar("M", bound=BaseModel)

#: Senders that are no task: people and programs, and Nightfleet itself, which says why no other message can come.
OUTSIDE = "@outside"
RUNTIME = "@nightfleet"

#: Higher ones are received first; those of one sender and one priority in the order in which they were sent.
LOWEST, NORMAL, HIGHEST = 0, 4, 9


#: The setting that bounds a body.
LIMIT = "NIGHTFLEET_MAX_MESSAGE_BYTES"

#: The type of what Nightfleet says to whoever waits for messages or changes.
ERROR = "error"
#: What to do about a mailbox that nobody will empty.
ROOM_CURE = "Send less, receive meanwhile, or let a mailbox hold more (NIGHTFLEET_MAILBOX_SIZE)"


def no_room(slot: str, epoch: int) -> str:
    """Give the type of what Nightfleet says to the send at one place of one claim alone: nobody will make room for it."""
    return f"no-room.{slot}.{epoch}"


class MailState(StrEnum):
    """`dead`: nobody will receive it, its `reason` says why."""

    WAITING = "waiting"
    TAKEN = "taken"
    DEAD = "dead"


class AgentMessage(Value):
    """A message as its recipient gets it.

    `body` is JSON; `read` gives it as a model. `sender` is a task of the run, or `@outside`.
    """

    schema_version: Literal[1] = 1
    id: str
    sender: str
    recipient: str
    type: str
    body: Any = None
    priority: int = NORMAL
    sent_at: datetime
    #: Whether its sender waits for a reply (`ctx.reply`).
    wants_reply: bool = False
    #: The id of the message that this is the reply to.
    answers: str | None = None

    def read(self, model: type[M]) -> M:
        """Give the body as a model; raises pydantic's `ValidationError`, never for the one that the agent `RECEIVES`."""
        return model.model_validate(self.body)


class MailRecord(AgentMessage):
    """A message in the history of a run: what has become of it, and when."""

    state: MailState
    reason: str | None = None
    expires_at: datetime | None = None
    ended_at: datetime | None = None
    number: int = Field(ge=0)


class Sent(Value):
    """A message that was sent from outside: `task` is who gets it."""

    schema_version: Literal[1] = 1
    id: str
    run_id: str
    task: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way to one recipient; `body` is JSON as it will be stored."""

    id: str
    recipient: str
    recipient_id: str
    type: str
    body: bytes
    priority: int = NORMAL
    ttl_seconds: float | None = None
    wants_reply: bool = False
    answers: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which messages a receiver waits for: `type` may hold `*` and `?`, `where` is CEL, for which the store knows no words.

    One that `answers` is received by who waits for that answer alone. With `any_of`, one of those lets it pass.
    """

    sender: str | None = None
    type: str | None = None
    where: str | None = None
    answers: str | None = None
    any_of: tuple[Filter, ...] = ()

    @property
    def exact_type(self) -> str | None:
        """Give the type if it has to be this very one."""
        return None if self.type is None or any(sign in self.type for sign in "*?[") else self.type

    def lets_pass(self, sender: str, type_: str, answers: str | None) -> bool:
        """Tell whether a message may be meant, by all but its content. Errors of Nightfleet's are for whoever waits."""
        if answers != self.answers and not (sender == RUNTIME and answers is None):
            return False
        if sender == RUNTIME:
            return type_ == (self.type if self.sender == RUNTIME and self.type is not None else ERROR)
        return self.sender in {None, sender} and (self.type is None or fnmatchcase(type_, self.type))

    def interests(self, seen: int, of: str | None = None) -> tuple[Interest, ...]:
        """Give what wakes an agent run that waits for it: a message behind number `seen`; a reply is one of task `of`.

        One for each part of `any_of`: whether anybody can send what it waits for is told by these too.
        """
        if self.any_of:
            return tuple(found for part in self.any_of for found in self._narrowed(part).interests(seen, of))
        wanted = {"from": self.sender, "type": self.exact_type, "answers": self.answers, "of": of}
        given = {name: value for name, value in wanted.items() if value is not None}
        return (Interest("mail", {"seen": seen, **given}),)

    def _narrowed(self, part: Filter) -> Filter:
        """Give a part of `any_of` with what holds for all parts."""
        return replace(
            part, sender=part.sender or self.sender, type=part.type or self.type, answers=part.answers or self.answers
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A waiting message that a filter lets pass, with its place among those of its run."""

    number: int
    message: AgentMessage


@dataclass(frozen=True, slots=True)
class Look:
    """What a receiver finds: the first messages that its filter lets pass; all up to number `seen` have been looked at.

    What Nightfleet says, that none can come, is found only where there is no other: one has come all the same. `company` tells,
    where there is none, whether another agent run of the run is running: one may come at any moment.
    """

    found: tuple[Found, ...]
    seen: int
    company: bool = False
    #: The numbers of what Nightfleet has said beside: received with what is found, or it would end the next wait.
    along: tuple[int, ...] = ()

    @property
    def numbers(self) -> list[int]:
        """Give what is received by whoever receives what is found."""
        return [*(each.number for each in self.found), *self.along]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message was not sent: its recipient, which is in `state`, has `ended`, is `full`, or is `unknown` to the run.

    One that is full has room when at most `fits` messages wait for it, and if it is `hopeless` not before its sender ends.
    """

    recipient: str
    why: Literal["ended", "full", "unknown"]
    state: str | None = None
    fits: int = 0
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of sending: all was sent, or nothing because of `refusals`.

    Of the recipients, `running` may look for it at once if somebody tells them to; `woken` were suspended and are queued.
    """

    refusals: tuple[Refusal, ...] = ()
    running: tuple[str, ...] = ()
    woken: tuple[Dispatch, ...] = ()
