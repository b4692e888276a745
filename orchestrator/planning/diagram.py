"""Workflows drawn as text, in stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.contracts.workflow import OUTPUT, TaskDefinition, WorkflowDefinition, find_references
from orchestrator.planning.graph import topological
from orchestrator.planning.steps import is_composite
from orchestrator.planning.words import count, labels_of, notes_of, one_line, title_of

#: What is inside of a task stands below it, so far to the right.
_INDENT = " " * 5


def as_text(workflow: WorkflowDefinition) -> str:
    """Give the plan in stages: what can run at the same time, each task with what it waits for and what is special.

    ::

        press-review: 4 tasks in 3 stages
          1  reader
          2  summarizer  after reader
             critic      after reader; on error continue
          3  editor      after summarizer, critic

    What is inside of a task stands below it. Where the workflow says what its output is, a last line tells from which tasks.
    """
    return "\n".join(_drawn(workflow))


def _drawn(workflow: WorkflowDefinition) -> Iterator[str]:
    stages = _stages(workflow)
    yield f"{one_line(workflow.name)}: {count(len(workflow.tasks), 'task')} in {count(len(stages), 'stage')}"
    width = max((len(title_of(task)) for task in workflow.tasks), default=0)
    for number, stage in enumerate(stages, start=1):
        for index, task in enumerate(stage):
            label = "" if index else str(number)
            yield f"{label:>3}  {title_of(task):<{width}}  {'; '.join(notes_of(task))}".rstrip()
            yield from (f"{_INDENT}{line}" for line in _inside(task))
    if workflow.output is not None:
        told = dict.fromkeys(path.partition(".")[0] for path in find_references(workflow.output))
        yield f"     {OUTPUT:<{width}}  from {', '.join(told)}".rstrip() if told else f"     {OUTPUT}"


def _inside(task: TaskDefinition) -> Iterator[str]:
    """Draw what is inside of a task; nothing where its title has said it."""
    if task.workflow is not None:
        _, *lines = _drawn(task.workflow)
        yield from lines
        return
    steps = list(labels_of(task))
    if all(label in {step.does, "do"} for label, step in steps) and not any(map(_is_special, steps)):
        return
    labels = max((len(label) for label, _ in steps), default=0)
    width = max((len(step.does) for _, step in steps), default=0)
    for label, step in steps:
        yield f"  {label:<{labels}}  {step.does:<{width}}  {'; '.join(notes_of(step))}".rstrip()
        yield from (f"  {' ' * labels}{line}" for line in _inside(step))


def _is_special(named: tuple[str, TaskDefinition]) -> bool:
    _, step = named
    return is_composite(step) or bool(notes_of(step))


def _stages(workflow: WorkflowDefinition) -> Sequence[Sequence[TaskDefinition]]:
    """Give the tasks by the length of the longest path to them."""
    depths: dict[str, int] = {}
    stages: list[list[TaskDefinition]] = []
    for task in (each for each in topological(workflow) if each.id in workflow.by_id):
        depth = depths[task.id] = 1 + max((depths[before] for before in task.after), default=-1)
        if depth == len(stages):
            stages.append([])
        stages[depth].append(task)
    return stages
