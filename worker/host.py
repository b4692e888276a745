"""Performs the effects of one execution: the live host of an agent."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InputInvalid
from orchestrator.observability.logging import get_logger
from orchestrator.observability.redact import Redact
from orchestrator.store.agent_runs import Claim
from orchestrator.store.store import Store
from worker.effects import CallModel, Effect, Report, RunStep
from worker.execution import storable
from worker.llm.providers import Providers
from worker.pool import EventLoop

log = get_logger("nightfleet.worker")

#: What every line of an agent run has; an agent's own fields of these names are put beside them.
_TAKEN = frozenset({"event", "run_id", "agent_run_id", "task", "agent", "epoch", "tenant_id", "worker"})


class Host:
    """Calls models, steps and the stream of progress on behalf of one claim; from any thread."""

    def __init__(self, claim: Claim, store: Store, providers: Providers, loop: EventLoop, redact: Redact) -> None:
        self._claim = claim
        self._store = store
        self._providers = providers
        self._loop = loop
        self._redact = redact

    def perform(self, effect: Effect) -> Any:
        match effect:
            case CallModel(request):
                return self._providers.provider_for(request.model).invoke(request)
            case RunStep(function, args, kwargs):
                outcome = function(*args, **kwargs)
                if inspect.isawaitable(outcome):
                    raise InputInvalid(
                        "ctx.step was given a coroutine function: make `execute` async, or pass a plain one"
                    )
                return outcome
            case Report(message, fraction):
                claim = self._claim
                data = None if fraction is None else json.dumps({"fraction": fraction})
                text = storable(self._redact(message))
                self._store.runs.add_event(claim.run_id, claim.tenant_id, claim.task, text, data)
                return None

    async def perform_async(self, effect: Effect) -> Any:
        if isinstance(effect, RunStep) and inspect.iscoroutinefunction(effect.function):
            return await effect.function(*effect.args, **effect.kwargs)
        return await self._loop.run_blocking(self.perform, effect)

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        log.info(event, **{f"agent_{key}" if key in _TAKEN else key: fields[key] for key in fields})
