"""Plans of workflows, checked against the agents that are known."""

from __future__ import annotations

from pathlib import Path

from orchestrator.clock import Clock
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import ImportConflictError, UnknownAgent
from orchestrator.imports import require_ours
from orchestrator.kernel import Kernel
from orchestrator.planning.capabilities import Able, agents_by_capability
from orchestrator.planning.frontier import Plan
from orchestrator.planning.steps import capabilities_named
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
        self._announced: tuple[float, Able] = (-1e9, {})
        #: What the plugins here can do, once somebody has asked for something that no announced agent can.
        self._here: Able = {}
        self._plans: dict[str, Plan] = {}
        self._max_depth = kernel.settings.max_call_depth

    def plan(self, definition: WorkflowDefinition) -> Plan:
        """Give the plan of a workflow; raises `WorkflowInvalid` and `UnknownAgent`, with everything that is wrong with it."""
        known = self.known_agents()
        plan = self._plans.get(definition.digest)
        # Most workflows name agents alone: what these can is of no interest then.
        names_any = bool(capabilities_named(definition.tasks) if plan is None else plan.wanted)
        able = self.able() if names_any else {}
        try:
            if plan is None or not (plan.agents <= known and able.keys() >= plan.wanted):
                validate(definition, known, able, max_depth=self._max_depth)
        except UnknownAgent:
            # Announced since we last looked, or a plugin that is at hand here? Then it waits for a worker that serves it.
            self._known, self._announced = (-1e9, frozenset()), (-1e9, {})
            self._check_with_local(definition)
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

    def able(self) -> Able:
        """Give the agents that have each capability: those that some worker has announced, else the plugins here."""
        at, found = self._announced
        now = self._clock.monotonic()
        if now - at > _AGENTS_SECONDS:
            found = self._kernel.store.fleet.capabilities()
            self._announced = (now, found)
        return {**self._here, **found}

    def _check_with_local(self, definition: WorkflowDefinition) -> None:
        """Check a workflow with the plugins that are at hand too; what is wrong with one that it names is told."""
        agents, broken = self._local_agents()
        try:
            validate(definition, self.known_agents() | agents, self.able(), max_depth=self._max_depth)
        except UnknownAgent as error:
            told = [broken[agent] for agent in error.details.get("agents", ()) if agent in broken]
            if not told:
                raise
            raise type(error)("\n".join([error.message, *told]), details=error.details) from None

    def _local_agents(self) -> tuple[frozenset[str], dict[str, str]]:
        """Give the agents of the plugins here, and of those that cannot be used what is wrong with them."""
        try:
            loader = require_ours("worker.loader")
        except ImportConflictError:
            return frozenset(), {}  # a producer has no use for plugins, and may have a module `worker` of its own
        loaded = loader.AgentLoader(self._kernel.settings.agents_path, base=Path.cwd()).load()
        broken = {
            each.agent: f"the agent {each.agent!r} cannot be used: {each.origin}: {each.message}"
            for each in loaded.problems
            if each.agent
        }
        self._here = agents_by_capability((card.name, card.capabilities) for card in loaded.cards)
        return frozenset(loaded.agents), broken
