"""What undoes a run: which compensations there are, in which order they run, and what each of them gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.run import AgentRunResult, AgentRunState
from orchestrator.contracts.workflow import KINDS, Compensation, TaskDefinition
from orchestrator.errors import InputInvalid
from orchestrator.planning.compose import UniqueIds
from orchestrator.planning.inputs import Upstream, task_input


@dataclass(frozen=True, slots=True)
class Undo:
    """A compensation as a task of its own: `task` undoes the task at position `of`, which stands at `stage` of the workflow."""

    task: TaskDefinition
    of: int
    stage: int
    partial: bool

    def applies(self, state: AgentRunState) -> bool:
        """Tell whether there is anything to undo of a task that has begun and is in this state when its run ends."""
        return self.partial or state is AgentRunState.SUCCEEDED


def undos_of(tasks: Sequence[TaskDefinition], predecessors: Sequence[Sequence[int]]) -> tuple[Undo, ...]:
    """Give the compensations of tasks in topological order, in the order in which they run.

    Later stages are undone first; what one undoes was never needed by what another one of its stage undoes.
    """
    if all(task.compensate is None for task in tasks):
        return ()
    stages: list[int] = []
    for before in predecessors:
        stages.append(1 + max((stages[index] for index in before), default=-1))
    unique = UniqueIds(task.id for task in tasks)
    made = [
        Undo(_as_task(task, task.compensate, unique), index, stages[index], task.compensate.partial)
        for index, task in enumerate(tasks)
        if task.compensate is not None
    ]
    return tuple(sorted(made, key=lambda undo: (-undo.stage, undo.of)))


def undo_input(
    undo: Undo,
    of: TaskDefinition,
    run_input: Any,
    upstream: Mapping[str, Upstream],
    passed: Sequence[str] | None = None,
) -> Any:
    """Give what a compensation gets: its declared input, or `{input, output}` of the task that it undoes.

    `upstream` has that task and those before it; `passed` is as in `task_input`, of that task. The output is None where the
    task did not succeed.
    """
    if undo.task.input is not None:
        return task_input(undo.task, run_input, upstream)
    done = upstream[of.id]
    try:
        given = task_input(of, run_input, upstream, passed)
    except InputInvalid:
        if done.succeeded:
            raise
        given = None  # that is why it failed
    return {"input": given, "output": done.output if done.succeeded else None}


def told_of(parts: Sequence[AgentRunResult]) -> tuple[str, ...]:
    """Give what people have to know of the compensations of a run: which are to come, and which have failed for good."""
    made = [part for part in parts if part.undoes is not None]
    to_come = [part.task for part in made if not part.state.final]
    going = (f"it ends when what it did is undone; to come: {', '.join(to_come)}",) if to_come else ()
    return going + tuple(
        f"what task {part.undoes!r} did is not undone: {part.task} failed: {part.error.message}"
        for part in made
        if part.state is AgentRunState.FAILED and part.error is not None
    )


def _as_task(task: TaskDefinition, compensation: Compensation, unique: UniqueIds) -> TaskDefinition:
    """Give the compensation of a task as a task, which the run lives with when it fails."""
    return TaskDefinition(
        id=unique.take(f"undo_{task.id}"[:63]),
        agent=compensation.agent,
        after=(task.id, *task.after),
        input=compensation.input,
        retry=compensation.retry,
        timeouts=compensation.timeouts,
        on_error="continue",
        **{kind: getattr(compensation, kind) for kind, each in KINDS.items() if each.undoes},
    )
