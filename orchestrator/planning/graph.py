"""The order of a workflow: a topological one, or the cycles that there are instead. In time linear in tasks and dependencies."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import WorkflowInvalid

#: More are not read.
MAX_PROBLEMS = 100
_MAX_CYCLE_SHOWN = 12


def topological(workflow: WorkflowDefinition) -> tuple[TaskDefinition, ...]:
    """Give each node after those it waits for, among the ready ones in the order of the definition."""
    nodes = workflow.nodes
    before = _predecessors(nodes)
    order = _order(before)
    if len(order) < len(nodes):
        cycles = islice(_cycles(nodes, before, order), MAX_PROBLEMS)
        raise WorkflowInvalid(list(cycles), origin=f"workflow {workflow.name!r}")
    return tuple(nodes[index] for index in order)


def cycle_problems(workflow: WorkflowDefinition) -> Iterator[str]:
    """Name tasks that wait for each other."""
    before = _predecessors(workflow.tasks)
    return _cycles(workflow.tasks, before, _order(before))


def _predecessors(tasks: tuple[TaskDefinition, ...]) -> list[list[int]]:
    """Give for each task the positions of those it waits for, without itself and the unknown."""
    position = {task.id: index for index, task in enumerate(tasks)}
    known = ({position[key] for key in task.after if key in position} for task in tasks)
    return [sorted(before - {index}) for index, before in enumerate(known)]


def _order(before: list[list[int]]) -> list[int]:
    """Give the positions in topological order; those in a cycle or behind one are absent."""
    following: list[list[int]] = [[] for _ in before]
    for index, others in enumerate(before):
        for other in others:
            following[other].append(index)
    waiting = [len(others) for others in before]
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for successor in following[index]:
            waiting[successor] -= 1
            if not waiting[successor]:
                heapq.heappush(ready, successor)
    return order


def _cycles(tasks: tuple[TaskDefinition, ...], before: list[list[int]], order: list[int]) -> Iterator[str]:
    """Name a cycle for each way back to the path of a depth-first search through what has no place in the order."""
    done = set(order)
    for start in range(len(tasks)):
        path = {start: iter(before[start])} if start not in done else {}
        while path:
            index, others = next(reversed(path.items()))
            other = next((other for other in others if other not in done), None)
            if other is None:
                del path[index]
                done.add(index)
            elif other in path:
                waiting = list(path)
                first, *rest = waiting[waiting.index(other) :]
                yield _describe_cycle([tasks[index].id for index in (first, *reversed(rest), first)])
            else:
                path[other] = iter(before[other])


def _describe_cycle(task_ids: list[str]) -> str:
    shown = task_ids
    if len(task_ids) > _MAX_CYCLE_SHOWN:
        shown = [*task_ids[: _MAX_CYCLE_SHOWN - 2], f"({len(task_ids) - _MAX_CYCLE_SHOWN + 1:,} more)", task_ids[-1]]
    return f"tasks.{task_ids[0]}.after: these tasks wait for each other: {' -> '.join(shown)}"
