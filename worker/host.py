"""Performs the effects of one execution: the live host of an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from orchestrator.clock import system_clock
from orchestrator.observability.logging import get_logger
from worker.effects.base import CallModel, Effect, ReadClock, Report
from worker.llm.providers import Providers
from worker.pool import EventLoop

T = TypeVar("T")

log = get_logger("nightfleet.worker")

#: What every line of an agent run has; an agent's own fields of these names are put beside them.
_TAKEN = frozenset({"event", "run_id", "agent_run_id", "task", "agent", "epoch", "tenant_id", "worker"})


class Host:
    """Calls models, tells the time and writes log lines; from any thread."""

    def __init__(self, providers: Providers, loop: EventLoop) -> None:
        self._providers = providers
        self._loop = loop

    def perform(self, effect: Effect) -> Any:
        """Do an effect that is no step: those are called where the agent's code is."""
        match effect:
            case CallModel(request):
                return self._providers.provider_for(request.model).invoke(request)
            case ReadClock():
                return system_clock.now()
            case Report():
                return None  # the line is stored with its record
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

    async def in_thread(self, work: Callable[[], T], effect: Effect | None = None) -> T:
        """Do what blocks, from the loop."""
        del effect
        return await self._loop.run_blocking(work)

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        log.info(event, **{f"agent_{key}" if key in _TAKEN else key: fields[key] for key in fields})
