"""A task that is a workflow of its own: its graph is walked by the rules of a run, and each of its tasks is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import CallFailed, NightfleetError, UsageError
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream, run_input_of, run_output, task_input
from orchestrator.planning.settling import Settled, settle
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import called, executor
from worker.effects.gather import walk_tasks
from worker.plugin import LoadedAgent

_SKIPPED = Upstream(AgentRunState.SKIPPED)


def workflow_agent(task: TaskDefinition, card: AgentCard, describe: Callable[[TaskDefinition], str]) -> LoadedAgent:
    """Give a nested workflow as an agent that can run: its output is what a run of its own would give."""
    del describe
    workflow = task.workflow
    assert workflow is not None, "validated with the definition"
    plan = Plan(workflow)

    class WorkflowTask(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            return await _Walk(plan, run_input_of(workflow, data), ctx).output(workflow)

    return executor(task, card, WorkflowTask)


class _Walk:
    """One way through a plan: each task in a branch of its own, in the order of the plan, so that it is the same each time."""

    def __init__(self, plan: Plan, run_input: Any, ctx: AsyncContext) -> None:
        self._plan = plan
        self._run_input = run_input
        self._ctx = ctx
        self._ended: dict[str, Upstream] = {}

    async def output(self, workflow: WorkflowDefinition) -> Any:
        """Walk it all; raises what has failed it."""
        branches = [partial(self._go, position) for position in range(len(self._plan.tasks))]
        await walk_tasks(branches, self._plan.predecessors)
        return run_output(workflow, self._ended)

    async def _go(self, position: int) -> None:
        """Decide a task whose predecessors are final, and call it if it runs."""
        verdict = settle(self._plan, position, self._run_input, self._ended)
        task = self._plan.tasks[position]
        if isinstance(verdict, Settled):
            self._ended[task.id] = Upstream(AgentRunState.SUCCEEDED, verdict.output)
        else:
            self._ended[task.id] = await self._called(task, position) if verdict else _SKIPPED

    async def _called(self, task: TaskDefinition, position: int) -> Upstream:
        step, goes_on = called(task, task.id), task.on_error == "continue"
        try:
            data = task_input(task, self._run_input, self._ended, self._plan.passed[position])
            if not goes_on:
                return Upstream(AgentRunState.SUCCEEDED, await self._ctx.call(step, data))
            [given] = await self._ctx.map(step, [data], return_exceptions=True)
        except UsageError as error:
            # What it cannot get, or nobody can do: of a task with an agent run of its own that would be the end of this.
            if not goes_on:
                raise
            given = error
        if isinstance(given, NightfleetError):
            return Upstream(AgentRunState.FAILED, None, _info(given, task.id))
        return Upstream(AgentRunState.SUCCEEDED, given)


def _info(error: NightfleetError, task: str) -> ErrorInfo:
    """Give why a task has failed, as those see it that go on without: the agent's own reason."""
    cause = error.__cause__
    reason = cause if isinstance(error, CallFailed) and isinstance(cause, NightfleetError) else error
    return ErrorInfo.model_validate({**reason.to_data(), "task": task})
