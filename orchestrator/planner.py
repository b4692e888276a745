"""Plans of workflows, checked against the agents that are known."""

from __future__ import annotations

from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import ImportConflictError, UnknownAgent
from orchestrator.imports import require_ours
from orchestrator.kernel import Kernel
from orchestrator.planning.frontier import Plan
from orchestrator.planning.validate import validate

#: How long known agents are remembered: a burst of submits asks the database once.
_AGENTS_SECONDS = 2.0
_MOST_PLANS = 256


class Planner:
    """Makes each plan once, and knows which agents workers have announced; thread-safe."""

    def __init__(self, kernel: Kernel, clock: Clock) -> None:
        self._kernel = kernel
        self._clock = clock
        self._known: tuple[float, frozenset[str]] = (-1e9, frozenset())
        self._plans: dict[str, Plan] = {}

    def plan(self, definition: WorkflowDefinition) -> Plan:
        """Give the plan of a workflow; raises `WorkflowInvalid` and `UnknownAgent`, with everything that is wrong with it."""
        known = self.known_agents()
        plan = self._plans.get(definition.digest)
        try:
            if plan is None or not plan.agents <= known:
                validate(definition, known)
        except UnknownAgent:
            # Announced since we last looked, or a plugin that is at hand here? Then it waits for a worker that serves it.
            self._known = (-1e9, frozenset())
            validate(definition, self.known_agents() | self._local_agents())
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[definition.digest] = Plan(definition)
        return plan

    def known_agents(self) -> frozenset[str]:
        """Give the agents that some worker has announced."""
        at, names = self._known
        now = self._clock.monotonic()
        if now - at > _AGENTS_SECONDS:
            names = self._kernel.store.fleet.agent_names()
            self._known = (now, names)
        return names

    def _local_agents(self) -> frozenset[str]:
        try:
            loader = require_ours("worker.loader")
        except ImportConflictError:
            return frozenset()  # a producer has no use for plugins, and may have a module `worker` of its own
        loaded = loader.AgentLoader(self._kernel.settings.agents_path, base=Path.cwd()).load()
        return frozenset(loaded.agents)
