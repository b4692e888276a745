"""Asking a model: an effect that waits while the fleet's limits, a budget or the provider let nobody ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from orchestrator.contracts.effect import EventLine, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from worker.effects.attempt import Attempt, Host
from worker.effects.findings import line_of
from worker.effects.progress import Progress
from worker.effects.recorder import Operation
from worker.effects.turns import Asking
from worker.guards.base import Finding
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.message import Message

_NOT_COMPARED = {"model", "fallbacks", "cache", "sample", "stream"}


class Reviewed(LLMResponse):
    """An answer as guards let it pass, and what they have found."""

    findings: tuple[Finding, ...] = ()


class Shown(Sequence[JsonValue]):
    """Messages as JSON for people, made one by one: those of a long conversation are never there all at once."""

    __slots__ = ("_messages",)

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, place: int) -> JsonValue: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[JsonValue]: ...
    def __getitem__(self, place: int | slice) -> JsonValue:
        found = self._messages[place]
        return found.shown() if isinstance(found, Message) else Shown(found)


@dataclass(frozen=True, slots=True)
class CallModel(Asking):
    """One model call. What it is answered goes through `review` before it is recorded, so that no other answer ever is."""

    request: LLMRequest
    review: Callable[[LLMResponse], LLMResponse] | None = None
    kind = "model"

    def asked(self) -> JsonValue:
        # Not the models' names: they are the installation's choice, and what an agent was answered stays an answer.
        # Nor where else it may be answered: the place in the agent's code tells equal questions apart.
        return self.request.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_COMPARED)

    def told(self) -> str:
        return self.request.messages[-1].text

    def encode(self, outcome: Any, limit_bytes: int) -> JsonValue:  # noqa: ARG002
        passed = outcome if self.review is None else self.review(outcome)
        return passed.model_dump(mode="json", exclude_defaults=True, exclude_computed_fields=True)

    def decode(self, recorded: JsonValue) -> LLMResponse:
        return (Reviewed if "findings" in recorded else LLMResponse).model_validate(recorded)

    def event(self, outcome: JsonValue) -> EventLine | None:
        return line_of(Reviewed.model_validate(outcome).findings) if "findings" in outcome else None

    def conversation(self) -> Sequence[JsonValue]:
        return Shown(self.request.messages)

    def spent(self, outcome: LLMResponse) -> Mapping[str, Any]:
        return {"usage": outcome.usage, "model": outcome.model}

    def trying(self, attempt: Attempt, slot: Slot, progress: Progress) -> Operation:
        return _Try(attempt, self.request, slot, progress)


class _Try:
    """The operation that asks once, and records what came of it."""

    __slots__ = ("_attempt", "_progress", "_request", "_slot")

    def __init__(self, attempt: Attempt, request: LLMRequest, slot: Slot, progress: Progress) -> None:
        self._attempt = attempt
        self._request = request
        self._slot = slot
        self._progress = progress

    def run(self, host: Host) -> JsonValue:
        return self._attempt.perform(lambda: host.call(self._request, self._slot, self._progress))

    async def run_async(self, host: Host) -> JsonValue:
        if host.blocks:
            return await self._attempt.perform_in_thread(
                host, lambda: host.call(self._request, self._slot, self._progress)
            )
        return await self._attempt.perform_async(
            host, lambda: host.call_async(self._request, self._slot, self._progress)
        )
