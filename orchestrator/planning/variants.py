"""A workflow with the changes of a variant: a definition like any other, so a run keeps it however often it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.contracts.variant import Changes
from orchestrator.contracts.workflow import NODE_KINDS, TaskDefinition, WorkflowDefinition
from orchestrator.errors import UsageError
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.steps import changed_inside, is_composite, within


def changed(workflow: WorkflowDefinition, changes: Changes, *, of_agent: str | None = None) -> WorkflowDefinition:
    """Give the workflow with the changes; its tasks and their order stay. `of_agent` leaves all other agents' tasks alone.

    What is inside of a task is changed with it. Raises `UsageError` for a task that is not there, and where a system prompt or
    an agent would take the place of several.
    """
    wanted: dict[str, Any] = {
        name: value for name in ("model", "system", "agent") if (value := getattr(changes, name)) is not None
    }
    if not wanted:
        return workflow
    meant = {task.id for task in _meant(workflow, changes, of_agent)}
    if "agent" in wanted:
        wanted["capability"] = None  # an agent is named now

    def change(task: TaskDefinition) -> TaskDefinition:
        return task.model_copy(update=wanted) if _is_of(task, of_agent) else task

    tasks = (
        task if task.id not in meant else changed_inside(task, change) if is_composite(task) else change(task)
        for task in workflow.tasks
    )
    return workflow.with_tasks(tasks)


def _is_of(task: TaskDefinition, agent: str | None) -> bool:
    return task.agent not in NODE_KINDS and agent in {None, task.agent}


def _done_by(task: TaskDefinition, of_agent: str | None) -> list[str]:
    """Name what agents do the work of a task and of what is inside of it."""
    return [each.does for _, each in within(task, "") if _is_of(each, of_agent)]


def _meant(workflow: WorkflowDefinition, changes: Changes, of_agent: str | None) -> Sequence[TaskDefinition]:
    done_by = {task.id: _done_by(task, of_agent) for task in workflow.tasks}
    agents = [task for task in workflow.tasks if done_by[task.id]]
    if changes.task is None and not agents:
        raise UsageError(f"the variant changes nothing: workflow {workflow.name!r} has no task of an agent")
    found = [task for task in agents if changes.task in {None, task.id}]
    if not found:
        ids = [task.id for task in agents]
        hint = did_you_mean(str(changes.task), ids) or f": those of agents are {', '.join(ids)}"
        raise UsageError(
            f"the variant is about a task {changes.task!r}, which workflow {workflow.name!r} does not have{hint}"
        )
    names = list(dict.fromkeys(name for task in found for name in done_by[task.id]))
    if len(names) > 1 and (changes.system or changes.agent) is not None:
        which = "say which `task` is meant" if len(found) > 1 else "the task has several agents, change `model` alone"
        raise UsageError(f"the variant has a system prompt or an agent for {' and '.join(names)} alike: {which}")
    return found
