"""The tasks inside of a task: the steps of a loop, a map, a router or a team, and the tasks of a nested workflow. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.contracts.composite import COMPOSITES, Member
from orchestrator.contracts.workflow import TaskDefinition


def steps_of(task: TaskDefinition) -> Iterator[tuple[str, TaskDefinition]]:
    """Give the tasks directly inside of a task with their place in it: `loop.do`, `router.routes.billing`, `workflow.tasks.x`."""
    if task.workflow is not None:
        yield from ((f"workflow.tasks.{inner.id}", inner) for inner in task.workflow.tasks)
        return
    if task.agent not in COMPOSITES:
        return
    composite = getattr(task, task.agent)
    for name in type(composite).model_fields:
        match getattr(composite, name):
            case TaskDefinition() as step:
                yield f"{task.agent}.{name}", step
            case [Member(), *_] as members:
                yield from ((f"{task.agent}.{name}.{member.name}", member.do) for member in members)
            case _:
                pass


def within(task: TaskDefinition, place: str) -> Iterator[tuple[str, TaskDefinition]]:
    """Give a task at its place, and behind it everything inside of it, at any depth."""
    waiting = [(place, task)]
    while waiting:
        where, each = waiting.pop()
        yield where, each
        waiting += reversed([(f"{where}.{inside}", step) for inside, step in steps_of(each)])
