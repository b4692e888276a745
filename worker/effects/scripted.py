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
from worker.effects.motion import Motion
from worker.effects.parking import Events, Parking, Wait
from worker.effects.ports import Mail
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


#: How long nothing of an agent may have moved, and how often is looked for what its other branches may bring about.
_STILL_SECONDS, _LOOK_SECONDS = 0.2, 0.01


class NoWaiting(Parking):
    """Every wait is over at once; one for what other branches may bring about, as soon as none of them moves."""

    def __init__(self, motion: Motion, events: Events, mail: Mail | None = None) -> None:
        super().__init__(motion, events, _STILL_SECONDS, mail, look_seconds=_LOOK_SECONDS)
        #: Times that have come since nothing moved.
        self._come: set[float] = set()

    def is_over(self, until: float | None) -> bool:
        return until in self._come or super().is_over(until)

    def left(self, wait: Wait, scopes: Scopes) -> float:
        self.motion.check()
        if not wait.interests:
            return 0.0
        if wait.until is not None:
            with self.motion.moved:
                if self._idle_left(system_clock.monotonic(), scopes) <= 0:
                    self._come.add(wait.until)
                    return 0.0
        return super().left(wait, scopes)

    def _suspended(self) -> BaseException:
        text = ", ".join(dict.fromkeys(wait.waiting_for for wait in self._waits))
        return AssertionError(
            f"the agent {text}, and nothing in this test brings that about: give it what it waits for (run_agent(..., "
            "inbox=[Incoming(...)], replies={task: ...}, state=...)), or a timeout"
        )
