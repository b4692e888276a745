"""Messages in a test of one agent: what others have sent it, what they reply, and what it has sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from orchestrator.bus.matching import meant
from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Entry
from orchestrator.contracts.mail import NORMAL, AgentMessage, Filter, Found, Letter, Look, Posted
from orchestrator.journal.base import Journal
from orchestrator.store.agent_runs import Claim
from worker.effects.mail import check_body, make_sending

#: A reply as JSON or a model, or a function that makes one of the message.
Answer = Any | Callable[[AgentMessage], Any]


class Sent(NamedTuple):
    """A message that an agent has sent, to an address as it has given it; `body` is JSON."""

    to: str
    type: str
    body: Any
    priority: int = NORMAL
    wants_reply: bool = False


class Incoming(NamedTuple):
    """A message that an agent finds in a test: from a task, `OUTSIDE` too; `body` is JSON or a model."""

    sender: str
    body: Any = None
    type: str = ""
    priority: int = NORMAL
    wants_reply: bool = False

    def message(self, recipient: str) -> AgentMessage:
        """Give it as the agent gets it."""
        sending = make_sending(self.body, type_=self.type or None, priority=self.priority, ttl=None)
        return AgentMessage(
            id=ids.new(),
            sender=self.sender,
            recipient=recipient,
            type=sending.type,
            body=json.loads(sending.text),
            priority=self.priority,
            sent_at=system_clock.now(),
            wants_reply=self.wants_reply,
        )


@dataclass(slots=True)
class ScriptedMail:
    """The mail of one agent, as it is written down; what it sends is kept in `sent`."""

    agent: str
    journal: Journal
    receives: Any
    replies: Mapping[str, Answer]
    sent: list[Sent]
    waiting: list[Found] = field(default_factory=list[Found])
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def expect(self, inbox: Sequence[Incoming]) -> None:
        """Let messages wait for the agent."""
        for incoming in inbox:
            self._arrive(incoming.message(self.agent))

    def listen(self, claim: Claim) -> None:
        """Hear nobody: there is no other process."""
        del claim

    def recipients(self, claim: Claim, to: str | None) -> Sequence[tuple[str, str]]:
        del claim
        if to is not None:
            return [(to, to)]
        others = dict.fromkeys([*self.replies, *(found.message.sender for found in self.waiting)])
        return [(each, each) for each in others if not each.startswith("@")]

    def body(self, recipient: str, text: str, *, reply: bool = False) -> bytes:
        del recipient, reply
        check_body(text, limit_bytes=8_000_000)
        return text.encode()

    def post(self, claim: Claim, entry: Entry, letters: Sequence[Letter]) -> Posted:
        self.journal.record(claim, entry)
        for letter in letters:
            body = json.loads(letter.body)
            self.sent.append(Sent(letter.recipient, letter.type, body, letter.priority, letter.wants_reply))
            if letter.wants_reply and letter.recipient in self.replies:
                self._arrive(self._reply(letter, body))
        return Posted()

    def look(self, claim: Claim, wanted: Filter, most: int) -> Look:
        del claim
        in_order = sorted(self.waiting, key=lambda found: (-found.message.priority, found.number))
        found = [each for each in in_order if meant(wanted, each.message)]
        return Look(tuple(found[:most]), 0, company=False)

    def take(self, claim: Claim, entry: Entry, numbers: Sequence[int]) -> bool:
        self.journal.record(claim, entry)
        self.waiting = [found for found in self.waiting if found.number not in numbers]
        return True

    def close(self, claim: Claim, entry: Entry, request_id: str) -> bool:
        del request_id
        self.journal.record(claim, entry)
        return True

    def reject(self, claim: Claim, number: int, reason: str) -> None:
        del claim
        raise AssertionError(f"the agent cannot read message {number} of its inbox: {reason}")

    def _arrive(self, message: AgentMessage) -> None:
        self.waiting.append(Found(next(self._numbers), message))

    def _reply(self, letter: Letter, body: Any) -> AgentMessage:
        asked = AgentMessage(
            id=letter.id,
            sender=self.agent,
            recipient=letter.recipient,
            type=letter.type,
            body=body,
            priority=letter.priority,
            sent_at=system_clock.now(),
            wants_reply=True,
        )
        reply = self.replies[letter.recipient]
        given = reply(asked) if callable(reply) else reply
        return Incoming(letter.recipient, given).message(self.agent).model_copy(update={"answers": letter.id})
