"""Fork: a new run that shares the recorded past of another one up to a task, and runs anew from there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import queue_of
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import InputInvalid, UsageError
from orchestrator.planning.hints import did_you_mean
from orchestrator.service import Service
from orchestrator.store.fork import NewFork, create_fork


def fork_run(
    service: Service,
    run_id: str,
    *,
    from_task: str,
    input: dict[str, Any] | None = None,
    deadline: timedelta | None = None,
) -> str:
    """Create and publish a fork of a run that has ended; gives its id. No effect of what it keeps happens again.

    What that has shared is there, and what it has sent to tasks that run anew waits for them.

    `from_task` and all after it run anew. `input` is what that task gets, written as in a workflow: `${...}` stands for
    the run's input and the outputs of the tasks before it; without one it gets what it got. `deadline` counts from now.
    Raises `RunNotFound`, `RunStateConflict` for an open run, `UsageError` for a task that is none, and what a submit
    raises.
    """
    kernel = service.kernel
    runs = kernel.store.runs
    head = runs.head(run_id)
    workflow = runs.plan(head.workflow_id).workflow
    if from_task not in workflow.by_id:
        hint = did_you_mean(from_task, workflow.by_id) or f": its tasks are {', '.join(workflow.by_id)}"
        raise UsageError(f"run {run_id} has no task {from_task!r}{hint}")
    kind = workflow.by_id[from_task].kind
    if input is not None and kind is not None and "input" in kind.lacks:
        raise UsageError(
            f"task {from_task!r} of run {run_id} is a {kind.name}, which takes no input: fork from a task before it"
        )
    if input is not None:
        workflow = _with_input(workflow, from_task, input, limit_bytes=kernel.settings.max_value_bytes)
    plan = service.plan(workflow)
    kernel.publisher.ensure(
        {queue_of(agent) for agent in plan.agents}
    )  # those of capabilities are there since the source
    anew = {plan.position[from_task]}
    new = NewFork(ids.new(), run_id, plan, anew, given=() if input is None else anew, deadline=deadline)
    if kernel.own_runs is not None:
        kernel.own_runs.add([new.id])
    try:
        ready = create_fork(kernel.store.database, runs, new, project=head.project)
    except BaseException:
        if kernel.own_runs is not None:
            kernel.own_runs.let_go([new.id])
        raise
    kernel.advancer.republish(ready)
    kernel.advancer.advance(new.id)
    return new.id


def _with_input(workflow: WorkflowDefinition, task_id: str, input: Any, *, limit_bytes: int) -> WorkflowDefinition:
    """Give a workflow in which a task has another declared input: so everybody sees it, and a retry keeps it."""
    if not isinstance(input, dict):
        raise InputInvalid(f"the input of a task is a JSON object, and this is a {type(input).__name__}")
    dump(input, what=f"the input of task {task_id!r}", limit_bytes=limit_bytes, error=InputInvalid)
    tasks = (
        task.model_copy(update={"input": input}) if task.id == task_id else task  # pyright: ignore[reportUnknownArgumentType]
        for task in workflow.tasks
    )
    return workflow.with_tasks(tasks)
