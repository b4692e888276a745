"""The mail of the executions of one process: addresses, rows, and who is told to look when something has come."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from orchestrator.advance import Advancer
from orchestrator.broker.hints import ALL, Hints
from orchestrator.bus.addresses import Recipient, resolve
from orchestrator.bus.database import DatabaseMail
from orchestrator.bus.rows import packed
from orchestrator.clock import run_id_of
from orchestrator.contracts.effect import Entry
from orchestrator.contracts.mail import Filter, Letter, Look, Posted
from orchestrator.errors import InputInvalid
from orchestrator.observability.logging import get_logger
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim
from worker.effects.mail import body_json
from worker.effects.parking import Events, Parking
from worker.execution import Execution
from worker.loader import LoadedAgents

log = get_logger("nightfleet.mail")


class Waiter(Protocol):
    """Who looks for mail when it is told to."""

    def poke(self) -> None: ...


@dataclass(slots=True)
class Post:
    """Who of this process waits for mail, and how others are told of it; thread-safe."""

    mail: DatabaseMail
    advancer: Advancer
    agents: LoadedAgents
    limit_bytes: int
    hints: Hints | None = None
    #: How many messages each agent has sent and received here.
    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    _waiting: dict[str, Waiter] = field(default_factory=dict[str, Waiter])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def parking(self, execution: Execution, events: Events, moment_seconds: float) -> Parking:
        """Give where the effects of an execution wait, mail among what they wait for."""
        parking = Parking(execution.motion, events, moment_seconds)
        parking.mail = self.mailbox(execution.plan, parking, execution.claim.agent)
        return parking

    def mailbox(self, plan: Plan, waiter: Waiter, agent: str) -> Mailbox:
        """Give the mail of one execution."""
        loaded = self.agents.agents.get(agent)
        return Mailbox(self, plan, waiter, None if loaded is None else loaded.agent_class.RECEIVES)

    def arrive(self, agent_run_id: str, waiter: Waiter) -> None:
        """Tell an execution of its mail from now on."""
        with self.lock:
            known = agent_run_id in self._waiting
            self._waiting[agent_run_id] = waiter
        if not known and self.hints is not None:
            self.hints.listen(run_id_of(agent_run_id))

    @contextmanager
    def told(self, agent_run_id: str) -> Generator[None]:
        """Tell an execution of its mail, once it looks for some, until the end of a `with` block."""
        try:
            yield
        finally:
            self._leave(agent_run_id)

    def _leave(self, agent_run_id: str) -> None:
        with self.lock:
            known = self._waiting.pop(agent_run_id, None) is not None
        if known and self.hints is not None:
            self.hints.ignore(run_id_of(agent_run_id))

    def tell(self, run_id: str, letters: Sequence[Letter], posted: Posted) -> None:
        """Publish who was woken, and let those look that are running, here or elsewhere."""
        if posted.woken:
            self.advancer.republish(posted.woken)
        running = set(posted.running)
        with self.lock:
            here = [waiter for identity in running if (waiter := self._waiting.get(identity)) is not None]
            away = running.difference(self._waiting)
        _poke(here)
        if away and self.hints is not None:
            tasks = [letter.recipient for letter in letters if letter.recipient_id in away]
            self.hints.publish(run_id, [ALL] if len(tasks) > 1 else tasks)

    def heard(self, run_id: str, task: str) -> None:
        """Let those look that a hint is for: all of the run, since a look costs little and a run has few here."""
        del task
        with self.lock:
            meant = [waiter for identity, waiter in self._waiting.items() if run_id_of(identity) == run_id]
        _poke(meant)

    def missed(self) -> None:
        """Let all look: hints may have been lost."""
        with self.lock:
            meant = list(self._waiting.values())
        _poke(meant)

    def close(self) -> None:
        """Hear no hints any more."""
        if self.hints is not None:
            self.hints.close()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The mail of one execution: the port of its effects."""

    post_office: Post
    plan: Plan
    waiter: Waiter
    receives: Any = None
    #: The agents of tasks, as far as the rows of the run were read.
    agents: dict[str, str] = field(default_factory=dict[str, str])

    def recipients(self, claim: Claim, to: str | None) -> Sequence[tuple[str, str]]:
        plan = self.plan
        if to in plan.position:
            return [(to, plan.id_at(claim.run_id, plan.position[to]))]
        # Who does what is in the rows: sub-work is in no plan, and whoever has a capability was chosen for this run.
        cards = {name: loaded.card for name, loaded in self.post_office.agents.agents.items()}
        known = [
            Recipient(task, identity, agent, tuple(cards[agent].capabilities) if agent in cards else ())
            for identity, task, agent in self.post_office.mail.members(claim.run_id)
        ]
        self.agents.update({each.task: each.agent for each in known})
        return [(each.task, each.id) for each in resolve(to, known, sender=claim.task)]

    def body(self, recipient: str, body: Any) -> bytes:
        text = body_json(body, limit_bytes=self.post_office.limit_bytes)
        agent = self._agent_of(recipient)
        loaded = self.post_office.agents.agents.get(agent)
        declared = None if loaded is None else loaded.agent_class.RECEIVES
        if declared is not None:
            try:
                TypeAdapter(declared).validate_json(text)
            except ValidationError as error:
                faults = "; ".join(
                    f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"
                    for fault in error.errors(include_url=False)[:3]
                )
                raise InputInvalid(f"{recipient} ({agent}) does not take this message: {faults}") from None
        return packed(text)

    def _agent_of(self, task: str) -> str:
        """Give the agent of a recipient; none where its run has chosen one and nobody has looked which."""
        if task in self.agents:
            return self.agents[task]
        position = self.plan.position.get(task)
        return "" if position is None else self.plan.tasks[position].agent

    def post(self, claim: Claim, entry: Entry, letters: Sequence[Letter]) -> Posted:
        posted = self.post_office.mail.post(claim, entry, letters)
        if not posted.refusals:
            self.post_office.tell(claim.run_id, letters, posted)
            self._count(claim, "sent", len(letters))
            for letter in letters:
                log.info("message sent", to=letter.recipient, type=letter.type, message=letter.id)
        return posted

    def look(self, claim: Claim, wanted: Filter, most: int) -> Look:
        # Before the first look, so that whatever comes after it is told.
        self.post_office.arrive(claim.id, self.waiter)
        return self.post_office.mail.look(claim, wanted, most)

    def take(self, claim: Claim, entry: Entry, numbers: Sequence[int]) -> bool:
        taken = self.post_office.mail.take(claim, entry, numbers)
        if taken:
            self._count(claim, "received", len(numbers))
            for number in numbers:
                log.info("message received", number=number)
        return taken

    def close(self, claim: Claim, entry: Entry, request_id: str) -> bool:
        return self.post_office.mail.close(claim, entry, request_id)

    def reject(self, claim: Claim, number: int, reason: str) -> None:
        self.post_office.mail.reject(claim, number, reason)
        log.warning("message rejected", number=number, reason=reason)

    def _count(self, claim: Claim, direction: str, messages: int) -> None:
        with self.post_office.lock:
            self.post_office.counts[claim.agent, direction] += messages


def _poke(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.poke()
