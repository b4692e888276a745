"""The mail of the executions of one process: addresses, rows, and who is told to look when something has come.

That may be mail, the end of what was called, or a change of what is shared. Nobody depends on being told: it spares a
wait that its agent's other branches keep in the process the time until it looks by itself.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from orchestrator.advance import Advancer
from orchestrator.broker.hints import ALL, Hints
from orchestrator.bus.addresses import Recipient, resolve
from orchestrator.bus.database import DatabaseMail
from orchestrator.bus.reading import packed
from orchestrator.clock import run_id_of
from orchestrator.contracts.effect import Entry
from orchestrator.contracts.interest import InterestKind
from orchestrator.contracts.mail import Filter, Letter, Look, Posted
from orchestrator.errors import InputInvalid
from orchestrator.observability.logging import get_logger
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim
from worker.effects.declared import adapter_of
from worker.effects.mail import body_faults, check_body
from worker.effects.parking import Events, Parking
from worker.execution import Execution
from worker.loader import LoadedAgents

log = get_logger("nightfleet.mail")


class Waiter(Protocol):
    """Who looks for what it waits for when it is told to, for all of that or for one kind."""

    def poke(self, kind: InterestKind | None = None) -> None: ...


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
    #: By run and agent run: its task and who waits for it.
    _waiting: dict[str, dict[str, tuple[str, Waiter]]] = field(
        default_factory=dict[str, "dict[str, tuple[str, Waiter]]"]
    )
    #: Those who hear of other processes.
    _listening: set[str] = field(default_factory=set[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def parking(self, execution: Execution, events: Events, moment_seconds: float) -> Parking:
        """Give where the effects of an execution wait, mail among what they wait for."""
        parking = Parking(execution.motion, events, moment_seconds)
        parking.mail = self.mailbox(execution, parking)
        return parking

    def mailbox(self, execution: Execution, waiter: Waiter) -> Mailbox:
        """Give the mail of one execution, which is told from now on of what happens in this process."""
        claim = execution.claim
        with self.lock:
            self._waiting.setdefault(claim.run_id, {})[claim.id] = (claim.task, waiter)
        loaded = self.agents.agents.get(claim.agent)
        return Mailbox(self, execution.plan, waiter, None if loaded is None else loaded.agent_class.RECEIVES)

    def listen(self, claim: Claim, waiter: Waiter) -> None:
        """Tell an execution of what happens in other processes too."""
        with self.lock:
            known = claim.id in self._listening
            self._listening.add(claim.id)
            self._waiting.setdefault(claim.run_id, {})[claim.id] = (claim.task, waiter)
        if not known and self.hints is not None:
            self.hints.listen(claim.run_id)

    @contextmanager
    def told(self, agent_run_id: str) -> Generator[None]:
        """Tell an execution of what comes until the end of a `with` block."""
        try:
            yield
        finally:
            self._leave(agent_run_id)

    def _leave(self, agent_run_id: str) -> None:
        run_id = run_id_of(agent_run_id)
        with self.lock:
            known = agent_run_id in self._listening
            self._listening.discard(agent_run_id)
            here = self._waiting.get(run_id, {})
            here.pop(agent_run_id, None)
            if not here:
                self._waiting.pop(run_id, None)
        if known and self.hints is not None:
            self.hints.ignore(run_id)

    def tell(self, run_id: str, letters: Sequence[Letter], posted: Posted) -> None:
        """Publish who was woken, and let those look that are running, here or elsewhere."""
        if posted.woken:
            self.advancer.republish(posted.woken)
        self._tell_running(
            run_id, {letter.recipient_id: letter.recipient for letter in letters}, posted.running, "mail"
        )

    def tell_callers(self, run_id: str, callers: Mapping[str, str]) -> None:
        """Let those look, by id and task, that are running and have called for what has just ended."""
        self._tell_running(run_id, callers, tuple(callers), "calls")

    def tell_changed(self, run_id: str, elsewhere: bool) -> None:  # noqa: FBT001 - what is told is what came of a change
        """Let those look that wait for a change of what their run shares: of this process, and those `elsewhere`."""
        self._poke(self._here(run_id), "keys")
        if elsewhere and self.hints is not None:
            self.hints.publish(run_id, [ALL])

    def heard(self, run_id: str, task: str) -> None:
        """Let those look that a hint is for. This process hears its own hints too: they are for others."""
        with self.lock:
            here = self._waiting.get(run_id, {}).values()
            meant = [waiter for own, waiter in here if task in (own, ALL)]
        self._poke(meant, None)

    def missed(self) -> None:
        """Let all look: hints may have been lost."""
        with self.lock:
            meant = [waiter for here in self._waiting.values() for _, waiter in here.values()]
        self._poke(meant, None)

    def _here(self, run_id: str) -> list[Waiter]:
        with self.lock:
            return [waiter for _, waiter in self._waiting.get(run_id, {}).values()]

    def _tell_running(
        self, run_id: str, tasks: Mapping[str, str], running: Collection[str], kind: InterestKind
    ) -> None:
        """Let those look that are running, in this process or in another one, which hears a hint."""
        with self.lock:
            known = self._waiting.get(run_id, {})
            here = [known[identity][1] for identity in running if identity in known]
            away = {tasks[identity] for identity in running if identity not in known}
        self._poke(here, kind)
        if away and self.hints is not None:
            self.hints.publish(run_id, [ALL] if len(away) > 1 else away)

    @staticmethod
    def _poke(waiters: Iterable[Waiter], kind: InterestKind | None) -> None:
        for waiter in waiters:
            waiter.poke(kind)

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

    def listen(self, claim: Claim) -> None:
        self.post_office.listen(claim, self.waiter)

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

    def body(self, recipient: str, text: str, *, reply: bool = False) -> bytes:
        check_body(text, limit_bytes=self.post_office.limit_bytes)
        agent = self._agent_of(recipient)
        loaded = self.post_office.agents.agents.get(agent)
        declared = None if loaded is None or reply else loaded.agent_class.RECEIVES
        if declared is not None:
            try:
                adapter_of(declared).validate_json(text)
            except ValidationError as error:
                raise InputInvalid(f"{recipient} ({agent}) does not take this message: {body_faults(error)}") from None
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
        self.listen(claim)
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
