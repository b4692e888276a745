"""The worker's answers to a child: model calls with its keys, the journal under the claim that it holds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.effect import Entry
from orchestrator.journal.base import Journal, Recording
from orchestrator.observability.logging import get_logger
from orchestrator.store.agent_runs import Claim
from worker.effects.attempt import Host
from worker.effects.base import CallModel
from worker.effects.parking import Events
from worker.isolation import wire
from worker.llm.base import LLMRequest, LLMResponse

log = get_logger("nightfleet.worker")


class Serving:
    """Answers what one child asks."""

    def __init__(self, claim: Claim, host: Host, journal: Journal, events: Events) -> None:
        self._claim = claim
        self._host = host
        self._journal = journal
        self._events = events
        self._recording: Recording | None = None

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
            case {"ask": "model", "request": request}:
                response: LLMResponse = self._host.perform(CallModel(LLMRequest.model_validate(request)))
                return response.model_dump(mode="json")
            case {"ask": "now"}:
                return self._events.now().isoformat()
            case {"ask": "question", "slot": slot, "inquiry": inquiry}:
                return self._events.ask(self._claim, wire.slot_in(slot), wire.inquiry_in(inquiry))
            case {"ask": "reply", "slot": slot}:
                return wire.reply_out(self._events.reply(self._claim.id, wire.slot_in(slot)))
            case _:
                return self._journaled(message)

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
