"""The tasks inside of a task: the steps of a loop, a map, a router or a team, and the tasks of a nested workflow. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from orchestrator.contracts.composite import Member
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition

#: The fields of each kind that are one step, and those that are several, each with a name.
ONE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "loop": ("do",),
        "map": ("do",),
        "router": ("by", "otherwise"),
        "leader_follower": ("leader",),
        "consensus": ("decides",),
        "handoff": (),
    }
)
SEVERAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"router": ("routes",), "leader_follower": ("followers",), "consensus": ("members",), "handoff": ("agents",)}
)

#: What the `input` of a step may refer to, and where that is otherwise for one of them. Members of a team get its messages.
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "loop": ("input", "output", "iteration"),
        "map": ("input", "item", "index"),
        "router": ("input", "by"),
        "router.by": ("input",),
    }
)

_WORKFLOW = "workflow"
#: The kinds of tasks that have others inside of them.
MADE_OF_OTHERS = frozenset({*ONE, _WORKFLOW})


def steps_of(task: TaskDefinition) -> Iterator[tuple[str, TaskDefinition]]:
    """Give the tasks directly inside of a task with their place in it: `loop.do`, `router.routes.billing`, `workflow.tasks.x`."""
    if task.workflow is not None:
        yield from ((f"{_WORKFLOW}.tasks.{inner.id}", inner) for inner in task.workflow.tasks)
        return
    if task.agent not in ONE:
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
    for where, each, _ in _walked(task, place):
        yield where, each


def _walked(task: TaskDefinition, place: str) -> Iterator[tuple[str, TaskDefinition, int]]:
    """Give a task and everything inside of it, each at its place and with its depth: 0 for the task itself."""
    waiting = [(place, task, 0)]
    while waiting:
        where, each, depth = waiting.pop()
        yield where, each, depth
        if is_composite(each):
            waiting += reversed([(f"{where}.{inside}", step, depth + 1) for inside, step in steps_of(each)])


def everything(workflow: WorkflowDefinition) -> Iterator[tuple[str, TaskDefinition]]:
    """Give all tasks of a workflow with their places, `tasks.reader`, each followed by everything inside of it."""
    for task in workflow.tasks:
        if is_composite(task):
            yield from within(task, f"tasks.{task.id}")
        else:
            yield f"tasks.{task.id}", task


def deepest(workflow: WorkflowDefinition) -> tuple[int, str]:
    """Give how deep tasks of a workflow stand inside of others, and the place of the deepest: 0 where none is."""
    composites = (task for task in workflow.tasks if is_composite(task))
    found = ((depth, place) for task in composites for place, _, depth in _walked(task, f"tasks.{task.id}"))
    return max(found, key=lambda each: each[0], default=(0, ""))


def is_composite(task: TaskDefinition) -> bool:
    """Tell whether a task is made of others."""
    return task.agent in MADE_OF_OTHERS


def agents_named(tasks: Iterable[TaskDefinition]) -> frozenset[str]:
    """Give the agents that tasks and what is inside of them name, and the words for kinds of tasks among these."""
    return frozenset(each.agent for each in _flat(tasks) if each.agent)


def capabilities_named(tasks: Iterable[TaskDefinition]) -> frozenset[str]:
    """Give the capabilities that tasks and what is inside of them name in the place of agents."""
    return frozenset(each.capability for each in _flat(tasks) if each.capability is not None)


def _flat(tasks: Iterable[TaskDefinition]) -> Iterator[TaskDefinition]:
    for task in tasks:
        if is_composite(task):
            yield from (each for _, each in within(task, ""))
        else:
            yield task


def changed_inside(task: TaskDefinition, change: Callable[[TaskDefinition], TaskDefinition]) -> TaskDefinition:
    """Give a task in which everything that is inside of it and no composite itself is what `change` gives for it."""

    def changed(each: TaskDefinition) -> TaskDefinition:
        return changed_inside(each, change) if is_composite(each) else change(each)

    if task.workflow is not None:
        inner = task.workflow.with_tasks(map(changed, task.workflow.tasks))
        return task.model_copy(update={_WORKFLOW: inner})
    if task.agent not in ONE:
        return task
    composite = getattr(task, task.agent)
    one = {name: changed(step) for name in ONE[task.agent] if (step := getattr(composite, name)) is not None}
    several = {
        name: tuple(member.model_copy(update={"do": changed(member.do)}) for member in getattr(composite, name))
        for name in SEVERAL.get(task.agent, ())
    }
    return task.model_copy(update={task.agent: composite.model_copy(update={**one, **several})})
