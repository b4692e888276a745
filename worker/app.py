"""Builds a worker from settings and runs it: the composition root of the data plane."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.broker.hints import Hints
from orchestrator.clock import ids
from orchestrator.contracts.dispatch import queue_of
from orchestrator.errors import SettingsInvalid
from orchestrator.kernel import Kernel
from orchestrator.observability.logging import get_logger
from orchestrator.recovery import Sweep
from orchestrator.retention import Keeper
from orchestrator.settings import Settings
from worker.consumer.doors import doors_of
from worker.consumer.events import EventBatches
from worker.consumer.gate import Gate
from worker.consumer.prefetch import Prefetch
from worker.control import RemoteControl
from worker.lifecycle import CeleryDecisions, Member, member_step
from worker.llm.providers import Providers
from worker.loader import AgentLoader, LoadedAgents
from worker.runtime import Runtime
from worker.tasks import register
from worker.tools.servers.adapters import use_adapters_file
from worker.tools.servers.process import close_servers

log = get_logger("nightfleet.worker")


@dataclass(slots=True)
class WorkerParts:
    """What one worker process has beyond the kernel."""

    kernel: Kernel
    runtime: Runtime
    sweep: Sweep
    keeper: Keeper
    members: list[Member] = field(default_factory=list[Member])

    def close(self) -> None:
        """Let go of loop and providers; the kernel belongs to who made it."""
        self.runtime.loop.finish(self.runtime.desk.aclose)
        self.runtime.loop.close()
        self.runtime.nodes.close()
        self.runtime.isolation.close()
        close_servers()
        self.runtime.desk.close()
        self.runtime.show.close()
        self.runtime.post.close()


def load_agents(settings: Settings) -> LoadedAgents:
    """Load every agent that the settings name, and say which could not be loaded."""
    loaded = AgentLoader(settings.agents_path, base=Path.cwd()).load()
    for problem in loaded.problems:
        log.error("agent not loaded", origin=problem.origin, error=problem.message)
    return loaded


def served(agents: LoadedAgents, settings: Settings) -> LoadedAgents:
    """Give those that `queues` names, all of them without it; raises `UnknownAgent` with a hint for a name that is none."""
    for name in _named(settings) or ():
        agents.get(name)
    return chosen(agents, settings)


def chosen(agents: LoadedAgents, settings: Settings) -> LoadedAgents:
    """Give those that `queues` names and that there are, all of them without it."""
    names = _named(settings)
    if names is None:
        return agents
    return replace(agents, agents={name: agents.agents[name] for name in names if name in agents.agents})


def _named(settings: Settings) -> list[str] | None:
    """Give the agents that `queues` names, with or without what comes before a name at the broker."""
    if settings.queues is None:
        return None
    given = (name.strip().removeprefix(f"{settings.namespace}.") for name in settings.queues.split(","))
    names = sorted({name.removeprefix(queue_of("")) for name in given if name})
    if not names:
        raise SettingsInvalid(f"NIGHTFLEET_QUEUES names no agent: {settings.queues!r}; unset it to serve all")
    return names


def build(kernel: Kernel, agents: LoadedAgents) -> WorkerParts:
    """Put a worker together on a kernel; nothing is started and nothing is connected."""
    if kernel.settings.adapters_file is not None:
        use_adapters_file(kernel.settings.adapters_file)
    runtime = Runtime(
        store=kernel.store,
        advancer=kernel.advancer,
        agents=agents,
        providers=Providers(dict(os.environ), kernel.settings.models_file),
        settings=kernel.settings,
        worker_id=ids.new(),
    )
    kernel.mail_listeners.append(runtime.post.heard)
    if kernel.app.kind != "memory":
        runtime.post.hints = Hints(kernel.app, runtime.worker_id, runtime.post.heard, runtime.post.missed)
    sweep = Sweep(kernel.store, kernel.advancer, kernel.publisher, kernel.settings, kernel.own_runs)
    memory = runtime.memory
    keeper = Keeper(kernel.store.deletions, kernel.settings, memories=memory.store, sessions=memory.sessions)
    parts = WorkerParts(kernel, runtime, sweep, keeper)
    register(kernel.app, runtime, sorted(agents.agents))
    kernel.app.store_backend.decisions = CeleryDecisions(runtime)
    kernel.app.bootsteps["worker"].add(member_step(parts.runtime, parts.sweep, parts.keeper, parts.members))
    kernel.app.bootsteps["consumer"].update((EventBatches, Prefetch, Gate, RemoteControl, doors_of(runtime.pools)))
    return parts


class _Advice(str):
    """A message that the `celery` command prints as it is; it would write all of it but the first letter small."""

    __slots__ = ()

    def capitalize(self) -> str:
        return self


def __getattr__(name: str) -> Any:
    """Give `app`, the Celery app of the installation that the environment names, for `celery -A worker.app`."""
    # Where there is no `app`, Celery looks for `celery`.
    if name not in {"app", "celery"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        app = Kernel.build(_fleet_settings()).app
    except SettingsInvalid as error:
        raise AttributeError(_Advice(error.message)) from None
    globals()[name] = app
    return app


def _fleet_settings() -> Settings:
    settings = Settings.load()
    if settings.embedded:
        raise SettingsInvalid("there is no fleet: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL")
    return settings
