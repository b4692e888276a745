"""Remembering and recalling, conversations and documents: one effect for each question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.effect import Slot
from orchestrator.contracts.jsonvalue import JsonValue, dump
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.errors import OutputInvalid
from worker.effects.attempt import Attempt, Host
from worker.effects.base import Account, Flow
from worker.effects.progress import Progress
from worker.effects.recorder import Operation
from worker.effects.turns import Asking


@dataclass(frozen=True, slots=True)
class UseMemory(Asking):
    """One question to the memory. What it writes has ids that follow from its place, so it is written once."""

    request: MemoryRequest
    kind = "memory"

    def asked(self) -> JsonValue:
        return self.request.model_dump(mode="json", exclude_defaults=True) | {"op": self.request.op}

    def encode(self, outcome: MemoryOutcome, limit_bytes: int) -> JsonValue:
        dump(outcome.value, what="what the memory holds of this", limit_bytes=limit_bytes, error=OutputInvalid)
        return {"value": outcome.value, "usage": outcome.usage.stored()}

    def spent(self, outcome: MemoryOutcome) -> Mapping[str, Any]:
        return {} if outcome.model is None else {"usage": outcome.usage, "model": outcome.model}

    def trying(self, attempt: Attempt, slot: Slot, progress: Progress) -> Operation:
        return _Try(attempt, self.request, slot, progress)


class _Try:
    """The operation that asks the memory once, and records what came of it."""

    __slots__ = ("_attempt", "_progress", "_request", "_slot")

    def __init__(self, attempt: Attempt, request: MemoryRequest, slot: Slot, progress: Progress) -> None:
        self._attempt = attempt
        self._request = request
        self._slot = slot
        self._progress = progress

    def run(self, host: Host) -> JsonValue:
        return self._attempt.perform(lambda: host.memory(self._request, self._slot, self._progress))

    async def run_async(self, host: Host) -> JsonValue:
        return await self._attempt.perform_in_thread(
            host, lambda: host.memory(self._request, self._slot, self._progress)
        )


def memory_flow(account: Account, request: MemoryRequest) -> Flow[JsonValue]:
    """Ask the memory; gives its answer as JSON."""
    recorded = yield UseMemory(request)
    account.add(recorded["usage"])
    return recorded["value"]
