"""The worker's answers to a child: model calls with its keys, the journal under the claim that it holds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.memory import memory_request
from orchestrator.contracts.shared import Change, Look
from orchestrator.journal.base import Journal, Recording
from orchestrator.observability.logging import get_logger
from orchestrator.store.agent_runs import Claim
from worker.effects.attempt import Host
from worker.effects.callees import Callees
from worker.effects.parking import Events
from worker.effects.ports import Mail
from worker.effects.progress import NotYet, Progress
from worker.effects.window import FitWindow
from worker.isolation import wire
from worker.isolation.mail import answer_mail
from worker.llm.base import LLMRequest
from worker.tools.needs import ServiceLimit

log = get_logger("nightfleet.worker")


class Serving:
    """Answers what one child asks."""

    def __init__(
        self,
        claim: Claim,
        host: Host,
        journal: Journal,
        events: Events,
        mail: Mail | None = None,
        callees: Callees | None = None,
    ) -> None:
        self._claim = claim
        self._host = host
        self._journal = journal
        self._events = events
        self._mail = mail
        self._callees = callees
        self._recording: Recording | None = None
        #: Its calls of services that are under way.
        self._turns: dict[Slot, AbstractContextManager[None]] = {}
        self._closed = False
        self._lock = threading.Lock()

    def told(self, message: Mapping[str, Any]) -> None:
        """Take what has no answer: lines for the log. None of them ends the agent, whatever it has in it."""
        try:
            match message:
                case {"tell": "log", "event": event, "fields": fields}:
                    self._host.log(event, fields)
                case {"tell": "line", "logger": name, "level": level, "text": text}:
                    logging.getLogger(name).log(level, "%s", text)
                case _:
                    log.warning("an isolated agent says what nobody understands", tell=str(message.get("tell"))[:100])
        except Exception as error:  # noqa: BLE001
            log.warning("a line of an isolated agent could not be written", error=str(error))

    def answer(self, message: Mapping[str, Any]) -> Any:
        """Give the answer, as JSON values; raises what the child shall see raised. From any thread."""
        match message:
            case {"ask": "model" | "memory" | "window" | "admit" | "leave"}:
                return self._hosted(message)
            case {"ask": "now" | "question" | "reply"}:
                return self._waited(message)
            case {"ask": "mail"} if self._mail is not None:
                return answer_mail(self._mail, self._claim, message)
            case {"ask": "call" | "standing" | "ends" | "failure"} if self._callees is not None:
                return self._called(message, self._callees)
            case {"ask": "look" | "change"}:
                return self._shared(message)
            case _:
                return self._journaled(message)

    def _waited(self, message: Mapping[str, Any]) -> Any:
        """Answer what waits ask: the time, and people."""
        match message:
            case {"ask": "question", "slot": slot, "inquiry": inquiry}:
                return self._events.ask(self._claim, wire.slot_in(slot), wire.inquiry_in(inquiry))
            case {"ask": "reply", "slot": slot}:
                return wire.reply_out(self._events.reply(self._claim.id, wire.slot_in(slot)))
            case _:
                return self._events.now().isoformat()

    def _called(self, message: Mapping[str, Any], callees: Callees) -> Any:
        """Do what a child asks of the agents that it calls."""
        match message:
            case {"ask": "call", "begun": begun, "order": order}:
                return wire.standing_out(callees.begin(self._claim, wire.entry_in(begun), wire.order_in(order)))
            case {"ask": "standing", "slot": slot}:
                standing = callees.standing(self._claim, wire.slot_in(slot))
                return None if standing is None else wire.standing_out(standing)
            case {"ask": "ends", "identity": identity}:
                return callees.ends(identity)
            case {"ask": "failure", "identity": identity}:
                return callees.failure(identity)
            case _:
                raise ValueError(f"an agent's process calls agents in a way that nobody understands: {message['ask']}")

    def _hosted(self, message: Mapping[str, Any]) -> Any:
        """Do what the host does for an effect; what cannot be done yet is said, with how far it has come."""
        try:
            return self._performed(message)
        except NotYet as later:
            return {"later": [later.seconds, later.waiting_for, list(later.progress)]}

    def _performed(self, message: Mapping[str, Any]) -> Any:
        match message:
            case {"ask": "model", "request": request, "slot": slot, "progress": progress}:
                response = self._host.call(
                    LLMRequest.model_validate(request), wire.slot_in(slot), Progress.of(progress)
                )
                return {"response": response.model_dump(mode="json")}
            case {"ask": "memory", "request": request, "slot": slot, "progress": progress}:
                outcome = self._host.memory(
                    memory_request.validate_python(request), wire.slot_in(slot), Progress.of(progress)
                )
                return {"outcome": outcome.model_dump(mode="json")}
            case {"ask": "admit", "limit": limit, "slot": slot, "progress": progress}:
                return self._admitted(ServiceLimit.model_validate(limit), wire.slot_in(slot), Progress.of(progress))
            case {"ask": "leave", "slot": slot}:
                return self._leave(wire.slot_in(slot))
            case {"ask": "window", "request": request}:
                return self._host.perform(FitWindow(LLMRequest.model_validate(request)))
            case _:
                raise ValueError(f"an agent's process asks for {message['ask']} in a way that nobody understands")

    def _shared(self, message: Mapping[str, Any]) -> Any:
        """Do what a child asks of what its run shares."""
        match message:
            case {"look": look}:
                return self._host.shared.look(Look.model_validate(look))
            case {"change": change, "entry": entry}:
                return self._host.shared.change(Change.model_validate(change), wire.entry_in(entry))
            case _:
                raise ValueError(f"an agent's process asks for {message['ask']} in a way that nobody understands")

    def _admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> Any:
        turn = self._host.admitted(limit, slot, progress)
        turn.__enter__()
        with self._lock:
            closed = self._closed
            if not closed:
                self._turns[slot] = turn
        if closed:
            turn.__exit__(None, None, None)
        return {}

    def _leave(self, slot: Slot) -> None:
        with self._lock:
            turn = self._turns.pop(slot, None)
        if turn is not None:
            turn.__exit__(None, None, None)

    def close(self) -> None:
        """Give back the places that a child has held until its end, and those that are granted to it from now on."""
        with self._lock:
            self._closed = True
            slots = list(self._turns)
        for slot in slots:
            self._leave(slot)

    def _journaled(self, message: Mapping[str, Any]) -> Any:
        """Do what a child asks of the journal: under the claim that this process holds, whatever the child says."""
        journal, claim = self._journal, self._claim
        match message:
            case {"ask": "record", "entry": entry}:
                return journal.record(claim, wire.entry_in(entry))
            case {"ask": "begin", "entry": entry}:
                return journal.begin(claim, wire.entry_in(entry))
            case {"ask": "void", "slots": slots}:
                return journal.void(claim, None if slots is None else [wire.slot_in(slot) for slot in slots])
            case {"ask": "read"}:
                self._recording = journal.read(claim)
                return None
            case {"ask": "take", "slot": slot} if self._recording is not None:
                return _shown(self._recording.take(wire.slot_in(slot)))
            case {"ask": "left"} if self._recording is not None:
                return _shown(self._recording.left())
            case _:
                raise ValueError(f"an agent's process asks for {message.get('ask')!r}, which nobody answers")


def _shown(entry: Entry | None) -> Any:
    return None if entry is None else wire.entry_out(entry)
