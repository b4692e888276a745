"""What guards decide, as effects: what has passed once passes again, whatever a later version of a guard makes of it.

A text that passes as it is leaves no row where something else is recorded right after it: that stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.contracts.effect import Entry, EventLine, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from worker.effects.attempt import Attempt, Host
from worker.effects.findings import line_of
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.waits import Settle
from worker.guards.base import Ruling, Stage


@dataclass(frozen=True, slots=True)
class CheckTexts(Waiting):
    """What all guards make of some texts. `alone`: nothing that follows would tell that they passed, so it is recorded too."""

    rule: Callable[[], Ruling]
    stage: Stage
    alone: bool = False
    kind = "guard"
    leaves_out: ClassVar[bool] = True

    def asked(self) -> JsonValue:
        # Not the texts, they follow from what is recorded before; nor the guards, of which there may be others by now.
        return {"stage": str(self.stage)}

    def told(self) -> str:
        return f"the {self.stage}"

    def encode(self, outcome: Ruling, limit_bytes: int) -> JsonValue:  # noqa: ARG002 - it is no longer than what was looked at
        return outcome.model_dump(mode="json", exclude_defaults=True)

    def decode(self, recorded: JsonValue) -> Ruling:
        return Ruling.model_validate(recorded or {})

    def event(self, outcome: JsonValue) -> EventLine | None:
        return line_of(self.decode(outcome).findings)

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        del entry  # it has no beginning: only what it comes to is recorded
        ruling: Ruling = yield _Look(self.rule)
        if not ruling.findings and not self.alone:
            return None
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        return (yield Settle(attempt, lambda: ruling))


@dataclass(frozen=True, slots=True)
class _Look:
    """The operation that shows texts to guards; of an async agent in a thread."""

    rule: Callable[[], Ruling]

    def run(self, host: Host) -> Ruling:  # noqa: ARG002 - an operation's
        return self.rule()

    async def run_async(self, host: Host) -> Ruling:
        return await host.in_thread(self.rule)
