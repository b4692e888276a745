"""Calls of tools as effects: at once, or as soon as the service that they ask may be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.contracts.effect import Entry, EventLine, Slot
from orchestrator.contracts.jsonvalue import JsonValue, storable
from orchestrator.contracts.policy import Value
from worker.effects import steps
from worker.effects.attempt import Attempt, Host
from worker.effects.base import RunStep
from worker.effects.findings import line_of
from worker.effects.motion import Motion
from worker.effects.progress import Progress
from worker.effects.recorder import Operation, Recorder, Waiting, uncertain
from worker.effects.turns import in_turn
from worker.guards.base import Finding
from worker.llm.message import Message
from worker.tools.needs import ServiceLimit

#: In the place of a result: what guards made of it. A result that has this key by itself stands below it.
_REVIEWED = "nightfleet.reviewed"


class Passed(Value):
    """A result as guards let it pass, as the model is told it, and what they have found."""

    message: Message
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class CallTool(RunStep):
    """A function that a model has asked for by the name of a tool, called once.

    What it gives goes through `review` before it is recorded; None of it says that it passes as it is.
    """

    tool: str = ""
    review: Callable[[Any], Passed | None] | None = None
    kind = "tool"

    def asked(self) -> JsonValue:
        return {"tool": self.tool, "arguments": self._arguments()}

    def told(self) -> str:
        given = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self._arguments().items())
        return f"{self.tool}({', '.join(given)})"

    def encode(self, outcome: Any, limit_bytes: int) -> JsonValue:
        # What a page or a file holds is no fault of the agent's.
        given = storable(outcome) if isinstance(outcome, str) else outcome
        value = steps.encode(self.function, given, limit_bytes=limit_bytes)
        passed = None if self.review is None else self.review(steps.decode(self.function, value))
        if passed is not None:
            return {_REVIEWED: passed.model_dump(mode="json")}
        return {_REVIEWED: {}, "value": value} if isinstance(value, dict) and _REVIEWED in value else value

    def decode(self, recorded: JsonValue) -> Any:
        if not (isinstance(recorded, dict) and _REVIEWED in recorded):
            return steps.decode(self.function, recorded)
        if "value" in recorded:
            return steps.decode(self.function, recorded["value"])
        return Passed.model_validate(recorded[_REVIEWED])

    def event(self, outcome: JsonValue) -> EventLine | None:
        reviewed = isinstance(outcome, dict) and outcome.get(_REVIEWED)
        return line_of(Passed.model_validate(reviewed).findings) if reviewed else None

    def _arguments(self) -> Mapping[str, Any]:
        return {name: steps.plain(value) for name, value in self.kwargs.items()}


@dataclass(frozen=True, slots=True)
class CallLimited(CallTool, Waiting):
    """A call of a tool that waits, without a slot, until the whole fleet's limit of its service lets it through."""

    limit: ServiceLimit | None = None

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        assert self.limit is not None
        # A call that waits has begun too, with how far it has come: nothing has happened then.
        if entry is not None and entry.outcome is None and self.at_most_once:
            raise uncertain(entry)
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        return (
            yield from in_turn(
                recorder, self, slot, entry, partial(_Admitted, attempt, recorder.motion, self.limit, slot)
            )
        )


@dataclass(frozen=True, slots=True)
class _Admitted:
    """The operation that calls where the limit lets it, and tells the limit when that has ended."""

    attempt: Attempt
    motion: Motion
    limit: ServiceLimit
    slot: Slot
    progress: Progress

    def run(self, host: Host) -> JsonValue:
        with self.motion.flight(self.slot), host.admitted(self.limit, self.slot, self.progress):
            return self.attempt.run(host)

    async def run_async(self, host: Host) -> JsonValue:
        with self.motion.flight(self.slot):
            async with host.admitted_async(self.limit, self.slot, self.progress):
                return await self.attempt.run_async(host)
