"""Builds a worker from settings and runs it: the composition root of the data plane."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.clock import ids
from orchestrator.kernel import Kernel
from orchestrator.observability.logging import get_logger
from orchestrator.recovery import Sweep
from orchestrator.settings import Settings
from worker.events import EventBatches
from worker.lifecycle import CeleryDecisions, Member, member_step
from worker.llm.providers import Providers
from worker.loader import AgentLoader, LoadedAgents
from worker.prefetch import Prefetch
from worker.runtime import Runtime
from worker.tasks import register

log = get_logger("nightfleet.worker")


@dataclass(slots=True)
class WorkerParts:
    """What one worker process has beyond the kernel."""

    kernel: Kernel
    runtime: Runtime
    sweep: Sweep
    members: list[Member] = field(default_factory=list[Member])

    def close(self) -> None:
        """Let go of loop and providers; the kernel belongs to who made it."""
        self.runtime.loop.close()
        self.runtime.providers.close()


def load_agents(settings: Settings) -> LoadedAgents:
    """Load every agent that the settings name, and say which could not be loaded."""
    loaded = AgentLoader(settings.agents_path, base=Path.cwd()).load()
    for problem in loaded.problems:
        log.error("agent not loaded", origin=problem.origin, error=problem.message)
    return loaded


def build(kernel: Kernel, agents: LoadedAgents) -> WorkerParts:
    """Put a worker together on a kernel; nothing is started and nothing is connected."""
    runtime = Runtime(
        store=kernel.store,
        advancer=kernel.advancer,
        agents=agents,
        providers=Providers(dict(os.environ)),
        settings=kernel.settings,
        worker_id=ids.new(),
    )
    sweep = Sweep(kernel.store, kernel.advancer, kernel.publisher, kernel.settings, kernel.own_runs)
    parts = WorkerParts(kernel, runtime, sweep)
    register(kernel.app, runtime, sorted(agents.agents))
    kernel.app.store_backend.decisions = CeleryDecisions(runtime)
    kernel.app.bootsteps["worker"].add(member_step(runtime, sweep, parts.members))
    kernel.app.bootsteps["consumer"].update((EventBatches, Prefetch))
    return parts
