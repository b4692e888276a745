"""Waits without waiting, for tests: time passes at once, and people answer as it is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.question import Inquiry, QuestionState, Reply
from orchestrator.store.agent_runs import Claim
from worker.effects.parking import Parking, Wait
from worker.effects.scopes import Scopes


@dataclass(slots=True)
class ScriptedPeople:
    """Answers questions by their text; one without an answer expires if it can, else the test has forgotten it."""

    answers: Mapping[str, Any]
    _replies: dict[Slot, Reply] = field(default_factory=dict[Slot, Reply])

    def now(self) -> datetime:
        return system_clock.now()

    def has_come(self, moment: datetime) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        del claim
        self._replies[slot] = self._reply(inquiry)
        return ids.new()

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        del agent_run_id
        return self._replies[slot]

    def _reply(self, inquiry: Inquiry) -> Reply:
        if inquiry.text not in self.answers:
            if inquiry.expires_seconds is not None:
                return Reply(QuestionState.EXPIRED)
            raise AssertionError(
                f"the agent asks {inquiry.text!r}: say what it is answered, run_agent(..., answers={{{inquiry.text!r}: ...}})"
            )
        answer = self.answers[inquiry.text]
        if inquiry.choices and answer not in inquiry.choices:
            raise AssertionError(f"the agent asks {inquiry.text!r}: {answer!r} is none of {list(inquiry.choices)}")
        given = answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer
        return Reply(QuestionState.ANSWERED, json.dumps(given))


class NoWaiting(Parking):
    """Every wait is over at once; one that only others could end shows what a test has forgotten."""

    def is_over(self, until: float | None) -> bool:
        if until is None:
            raise AssertionError(
                "the agent waits for a message that nobody sends: say what it finds, run_agent(..., inbox=[Incoming(...)]), or "
                "what it is replied, run_agent(..., replies={task: ...})"
            )
        return True

    def left(self, wait: Wait, scopes: Scopes) -> float:
        del wait, scopes
        self.motion.check()
        return 0.0
