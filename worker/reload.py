"""`nightfleet worker --reload`: plugins that change, come or go are used without a restart of the worker.

What runs goes on with the code it began with; each content of a plugin is a module of its own. What is claimed from now on
gets the new code. A plugin that cannot be loaded changes nothing: its last version stays in use.
"""

# Celery has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import bootsteps

from orchestrator.contracts.dispatch import queue_of
from orchestrator.errors import NightfleetError, ServiceUnavailable, SettingsInvalid
from orchestrator.observability.logging import get_logger
from orchestrator.settings import Settings
from worker.app import WorkerParts, chosen
from worker.loader import MODULE_PREFIX, AgentLoader, LoadedAgents
from worker.plugin import LoadedAgent
from worker.tasks import register_task

log = get_logger("nightfleet.reload")

#: Agents that are no longer served and can still run what this process was handed before.
_MOST_RETIRED = 16
#: Versions of one plugin that stay importable, for what in them imports or looks itself up late.
_MOST_VERSIONS = 3
#: How soon what could not be done because a service was away is tried again.
_AGAIN_SECONDS = 1.0
#: Writing a file is several changes: they are looked at together when there was none for this long.
_SETTLED_MILLISECONDS = 50


@dataclass(frozen=True, slots=True)
class ReloadedAgents(LoadedAgents):
    """What is served now, and the last of what no longer is, for messages that are here already."""

    retired: Mapping[str, LoadedAgent] = field(default_factory=dict[str, LoadedAgent])

    def get(self, name: str) -> LoadedAgent:
        """Give an agent, a retired one too; raises `UnknownAgent`."""
        if name in self.retired and name not in self.agents:
            return self.retired[name]
        return LoadedAgents.get(self, name)


def successor(old: LoadedAgents, new: LoadedAgents) -> ReloadedAgents:
    """Give the agents to use after `old`, when the plugins now say `new`: what is broken there stays as it was."""
    broken = {problem.agent for problem in new.problems} | {problem.origin for problem in new.problems}
    kept = {
        name: loaded
        for name, loaded in old.agents.items()
        if name not in new.agents and not broken.isdisjoint({name, loaded.card.origin})
    }
    agents = dict(sorted({**new.agents, **kept}.items()))
    retired = {**(old.retired if isinstance(old, ReloadedAgents) else {}), **old.agents}
    gone = [(name, loaded) for name, loaded in retired.items() if name not in agents]
    return ReloadedAgents(agents, new.problems, new.tools.keeping(old.tools), dict(gone[-_MOST_RETIRED:]))


class Versions:
    """Lets the modules of old versions go: from `sys.modules`, so that what still runs keeps its own."""

    def __init__(self) -> None:
        #: Names of modules, by plugin, the last that was used at the end.
        self._of: dict[str, dict[str, None]] = {}

    def keep(self, agents: ReloadedAgents) -> None:
        """Keep what is in use, and the last few versions of each plugin beside it."""
        in_use = {loaded.agent_class.__module__ for loaded in (*agents.agents.values(), *agents.retired.values())}
        known = [name for name in sys.modules if name.startswith(MODULE_PREFIX) and "." not in name]
        for name in sorted(known, key=lambda name: name in in_use):
            names = self._of.setdefault(name.rpartition("_")[0], {})
            if name in in_use:
                names.pop(name, None)
            names.setdefault(name)
        for names in self._of.values():
            old = [name for name in names if name not in in_use]
            for name in old[: max(0, len(names) - _MOST_VERSIONS)]:
                del names[name]
                _forget(name)


def _forget(name: str) -> None:
    for module in [known for known in list(sys.modules) if f"{known}.".startswith(f"{name}.")]:
        del sys.modules[module]


class Reloader:
    """Follows the folders of a worker's agents from `start` to `stop`, in a thread of its own."""

    def __init__(self, parts: WorkerParts) -> None:
        """Raises `SettingsInvalid` when there is no folder to follow."""
        self._parts = parts
        self._runtime = parts.runtime
        self._app = parts.kernel.app
        self._settings: Settings = parts.kernel.settings
        self._loader = AgentLoader(self._settings.agents_path, base=Path.cwd())
        self._folders = folders_of(self._settings.agents_path)
        self._versions = Versions()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        #: The consumer, while there is one.
        self._consumer: Any = None
        #: What is to be done again because a service was away.
        self._undone: list[Callable[[], None]] = []
        self._app.bootsteps["consumer"].add(_step(self))

    def attach(self, consumer: Any) -> None:
        """Begin, with the consumer of this connection; it has been given the queues as they are now."""
        self._consumer = consumer
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="nightfleet-reload", daemon=True)
            self._thread.start()

    def detach(self) -> None:
        """Go on without a consumer: the next one will be given the queues as they are then."""
        self._consumer = None

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)

    def reload(self) -> None:
        """Load every plugin that has changed and use what can be used."""
        old = self._runtime.agents
        new = successor(old, chosen(self._loader.load(), self._settings))
        for problem in new.problems:
            if problem not in old.problems:
                log.error("agent not loaded", origin=problem.origin, error=problem.message)
        added, removed = sorted(new.agents.keys() - old.agents.keys()), sorted(old.agents.keys() - new.agents.keys())
        changed = sorted(name for name in new.agents.keys() & old.agents.keys() if _differs(old, new, name))
        # Whatever is wrong with a new queue is found out here, where it stops nothing.
        self._parts.kernel.publisher.ensure(queue_of(name) for name in added)
        self._runtime.agents = new
        self._versions.keep(new)
        if added or removed or changed:
            self._serve(added, removed)
            self._announce()
            log.info("agents reloaded", added=added, changed=changed, removed=removed)

    def _serve(self, added: list[str], removed: list[str]) -> None:
        """Consume what there is now. A removed agent keeps its task: a message of it may be on its way."""
        queues: Any = self._app.amqp.queues
        for name in map(queue_of, added):
            register_task(self._app, self._runtime, name)
            queues.select_add(self._app.queue_for(name))
        gone = [self._app.queue_for(queue_of(name)).name for name in removed]
        queues.deselect(gone)
        if (consumer := self._consumer) is not None:
            consumer.call_soon(_consume, consumer, gone)

    def _announce(self) -> None:
        for member in self._parts.members:
            member.announce()

    def _follow(self) -> None:
        from watchfiles import watch

        # It counts changes; what has become of them we say.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        # Something may have changed since the worker has loaded its agents, and until the watch has begun.
        self._attempt(self.reload)
        unseen = True
        for changes in watch(
            *self._folders,
            step=_SETTLED_MILLISECONDS,
            stop_event=self._stopping,
            rust_timeout=round(_AGAIN_SECONDS * 1000),
            yield_on_timeout=True,
        ):
            undone, self._undone = self._undone, []
            for action in dict.fromkeys([self.reload, *undone] if changes or unseen else undone):
                self._attempt(action)
            unseen = False

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ServiceUnavailable as error:
            log.warning("agents not reloaded, tries again", error=error.message)
            self._undone = [self.reload, self._announce]
        except NightfleetError as error:
            log.error("agents not reloaded", error=error.message)  # noqa: TRY400 - the message says it all
        except Exception:
            log.exception("agents not reloaded")


def folders_of(agents_path: str) -> list[Path]:
    """Give the folders of agents that exist; raises `SettingsInvalid` when there is none to watch."""
    folders = [path for entry in agents_path.split(os.pathsep) if entry and (path := Path(entry).resolve()).is_dir()]
    if not folders:
        raise SettingsInvalid(
            f"--reload has no folder to watch: {agents_path!r} names none that exists; make one, or name it with --agents-path"
        )
    return folders


def _differs(old: LoadedAgents, new: LoadedAgents, name: str) -> bool:
    before, after = old.agents[name], new.agents[name]
    return before.agent_class is not after.agent_class or before.card.digest != after.card.digest


def _consume(consumer: Any, gone: list[str]) -> None:
    """Bring a consumer in line with the queues of its app; in its own thread."""
    if consumer.task_consumer is None:
        return  # the next connection begins with them
    consumer.update_strategies()
    for name in gone:
        consumer.cancel_task_queue(name)
    for name in list(consumer.app.amqp.queues.consume_from):
        consumer.add_task_queue(name)


def _step(reloader: Reloader) -> type[bootsteps.StartStopStep]:
    """Make the step that tells a reloader of each consumer."""

    class ReloadStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Follows the agents while there is a connection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            reloader.attach(consumer)

        def stop(self, consumer: Any) -> None:
            del consumer
            reloader.detach()

    return ReloadStep
