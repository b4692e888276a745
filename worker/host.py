"""Performs the effects of one execution: the live host of an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from orchestrator.clock import system_clock
from orchestrator.context.base import Sharing
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.observability.logging import get_logger
from worker.calls.models import Models
from worker.calls.services import Services
from worker.effects.base import Effect, ReadClock, Report
from worker.effects.progress import Progress
from worker.effects.window import FitWindow, surplus
from worker.llm.base import LLMRequest, LLMResponse
from worker.memory.remembering import Remembering
from worker.pool import EventLoop

T = TypeVar("T")

log = get_logger("nightfleet.worker")

#: What every line of an agent run has; an agent's own fields of these names are put beside them.
_TAKEN = frozenset({"event", "run_id", "agent_run_id", "task", "agent", "epoch", "tenant_id", "worker"})


class Host:
    """Calls models, asks the memory, tells the time and writes log lines; from any thread."""

    blocks = False

    def __init__(self, models: Models, loop: EventLoop, remembering: Remembering, shared: Sharing) -> None:
        self._models = models
        self._loop = loop
        self._remembering = remembering
        self.shared = shared
        services = Services(models.desk, models.place)
        self.admitted, self.admitted_async = services.admitted, services.admitted_async

    def perform(self, effect: Effect) -> Any:
        """Do an effect that is neither a step nor a model call."""
        match effect:
            case ReadClock():
                return system_clock.now()
            case Report():
                return None  # the line is stored with its record
            case FitWindow(request):
                return surplus(request, self._models.window_of(request.model))
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        """Ask a model."""
        return self._models.call(request, slot, progress)

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        """Ask a model, from the loop."""
        return await self._models.call_async(request, slot, progress, self._loop.run_blocking)

    def memory(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        """Ask the memory."""
        return self._remembering.perform(request, slot, progress)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what blocks, from the loop."""
        return await self._loop.run_blocking(work)

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        log.info(event, **{f"agent_{key}" if key in _TAKEN else key: fields[key] for key in fields})
