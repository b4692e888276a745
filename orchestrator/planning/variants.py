"""A workflow with the changes of a variant: a definition like any other, so a run keeps it however often it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.contracts.variant import Changes
from orchestrator.contracts.workflow import NODE_KINDS, TaskDefinition, WorkflowDefinition
from orchestrator.errors import UsageError
from orchestrator.planning.hints import did_you_mean


def changed(workflow: WorkflowDefinition, changes: Changes, *, of_agent: str | None = None) -> WorkflowDefinition:
    """Give the workflow with the changes; its tasks and their order stay. `of_agent` leaves all other agents' tasks alone.

    Raises `UsageError` for a task that is not there, and where a system prompt or an agent would take the place of several.
    """
    wanted: dict[str, Any] = {
        name: value for name in ("model", "system", "agent") if (value := getattr(changes, name)) is not None
    }
    if not wanted:
        return workflow
    meant = {task.id for task in _meant(workflow, changes, of_agent)}
    if "agent" in wanted:
        wanted["capability"] = None  # an agent is named now
    tasks = (task.model_copy(update=wanted) if task.id in meant else task for task in workflow.tasks)
    return workflow.with_tasks(tasks)


def _meant(workflow: WorkflowDefinition, changes: Changes, of_agent: str | None) -> Sequence[TaskDefinition]:
    agents = [task for task in workflow.tasks if task.agent not in NODE_KINDS and of_agent in {None, task.agent}]
    if changes.task is None:
        if not agents:
            raise UsageError(f"the variant changes nothing: workflow {workflow.name!r} has no task of an agent")
        names = list(dict.fromkeys(task.does for task in agents))
        if len(names) > 1 and (changes.system or changes.agent) is not None:
            raise UsageError(
                f"the variant has a system prompt or an agent for {' and '.join(names)} alike: say which `task` is meant"
            )
        return agents
    found = [task for task in agents if task.id == changes.task]
    if not found:
        ids = [task.id for task in agents]
        hint = did_you_mean(changes.task, ids) or f": those of agents are {', '.join(ids)}"
        raise UsageError(
            f"the variant is about a task {changes.task!r}, which workflow {workflow.name!r} does not have{hint}"
        )
    return found
