"""The built-in agents: each stands for what a task of its kind is: a function, a tool, or steps that it calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.composite import COMPOSITES
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import InputInvalid, SettingsInvalid
from worker.agent import BaseAgent
from worker.plugin import LoadedAgent, Shape

if TYPE_CHECKING:
    from orchestrator.contracts.workflow import TaskDefinition
    from orchestrator.settings import Settings
    from orchestrator.store.agent_runs import AgentRuns
    from worker.execution import Execution
    from worker.nodes.foreign_app import ForeignApp
    from worker.tools.registry import ToolRegistry


class _Unbound(BaseAgent):
    """Stands for a kind of task until a task of that kind is executed."""

    def execute(self, data: Any, ctx: Any) -> Any:
        del data
        raise InputInvalid(f"{ctx.task!r} is no agent of its own: it does what a task of a workflow names")


def _built_in(name: str, description: str) -> LoadedAgent:
    card = AgentCard(name=name, description=description, digest="built in", origin="built in")
    return LoadedAgent(card, _Unbound, is_async=False, takes=Shape(), gives=Shape())


#: What every worker can do beside its plugins; announced, and left out by NIGHTFLEET_QUEUES, as those are.
BUILT_IN: Mapping[str, LoadedAgent] = MappingProxyType(
    {
        name: _built_in(name, description)
        for name, description in (
            ("celery", "Run a task of a Celery app and wait for its result."),
            ("function", "Call a Python function."),
            ("tool", "Call a tool."),
            ("workflow", "Run a workflow inside of a run."),
            ("loop", "Do a step again until a condition holds."),
            ("map", "Do a step for each item of a list."),
            ("router", "Choose one of several ways to go on, and go it."),
            ("leader_follower", "Have a leader assign work to followers until it has the result."),
            ("consensus", "Ask several members until they agree."),
            ("handoff", "Let agents hand the work over to each other until one has the result."),
        )
    }
)


def is_built_in(loaded: LoadedAgent) -> bool:
    """Tell whether an agent stands for what a task names."""
    return loaded.agent_class is _Unbound


def bound(
    card: AgentCard,
    task: TaskDefinition,
    tools: Callable[[], ToolRegistry],
    describe: Callable[[str], str],
    *,
    limit_bytes: int,
) -> LoadedAgent:
    """Give what a built-in agent stands for that runs our own process alone; it may import modules of the user's.

    `describe` gives what an agent says of itself.
    """
    if task.workflow is not None or task.agent in COMPOSITES:
        from worker.composites import composite_agent

        return composite_agent(task, card, describe)
    if task.tool is not None:
        from worker.nodes.tool import tool_agent

        return tool_agent(task.tool, card, tools(), limit_bytes=limit_bytes)
    from worker.nodes.function import function_agent

    assert task.function is not None, "validated with the definition"
    return function_agent(task.function, card, limit_bytes=limit_bytes)


class Nodes:
    """Makes of a claimed task that names no agent what executes it; thread-safe."""

    def __init__(self, settings: Settings, agent_runs: AgentRuns, describe: Callable[[str], str]) -> None:
        self._settings = settings
        self._describe = describe
        self._agent_runs = agent_runs
        self._lock = threading.Lock()
        self._apps: dict[str, ForeignApp] = {}

    def bind(self, loaded: LoadedAgent, execution: Execution, tools: ToolRegistry) -> LoadedAgent:
        """Give what a built-in agent stands for in this execution; any other agent is given back as it is."""
        if not is_built_in(loaded):
            return loaded
        if loaded.card.name == "celery":
            return self._celery(loaded, execution)
        limit = self._settings.max_value_bytes
        return bound(loaded.card, execution.task, lambda: tools, self._describe, limit_bytes=limit)

    def close(self) -> None:
        """Let go of the Celery apps."""
        with self._lock:
            apps, self._apps = self._apps, {}
        for app in apps.values():
            app.close()

    def _celery(self, loaded: LoadedAgent, execution: Execution) -> LoadedAgent:
        from worker.nodes.celery import Attempt, celery_agent

        claim, task = execution.claim, execution.task.celery
        assert task is not None, "validated with the definition"

        def unwanted() -> bool:
            # That it was stopped says nothing: a takeover waits for the task, and so for all but these two reasons.
            if execution.timed_out():
                return True
            row = self._agent_runs.peek(claim.id)
            return row is not None and row[0] == AgentRunState.CANCELLED

        # Claims are more than failures where one was lost or handed back, or the run was opened again.
        fresh = claim.epoch == claim.failures + 1
        attempt = Attempt(claim.id, claim.failures, fresh, unwanted)
        app = self._app(task.app, execution.task.id)
        return celery_agent(task, app, attempt, loaded.card, limit_bytes=self._settings.max_value_bytes)

    def _app(self, named: str | None, task_id: str) -> ForeignApp:
        from worker.nodes.foreign_app import ForeignApp

        path = named or self._settings.celery_app
        if path is None:
            raise SettingsInvalid(
                f"task {task_id!r} does not say where its Celery app is: set NIGHTFLEET_CELERY_APP=package.module:app on "
                "the workers that serve `celery`, or give the task an `app`"
            )
        with self._lock:
            if path not in self._apps:
                self._apps[path] = ForeignApp(path)
            return self._apps[path]
