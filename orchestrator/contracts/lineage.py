"""The task ids of sub-work: whom each says that it was asked for by."""

from __future__ import annotations

#: Between the task of an agent run and the number of what it has asked for: no task of a workflow has it in its id, and a
#: routing key with it has as many words as one without.
_SEPARATOR = "-"


def child_task(parent: str, number: int) -> str:
    """Give the task id of what an agent run asks for as its `number`-th (from 1): `writer-1`, and below that `writer-1-1`."""
    return f"{parent}{_SEPARATOR}{number}"


def parent_task(task: str) -> str | None:
    """Give the task that has asked for this one; None for a task of the workflow."""
    return task.rpartition(_SEPARATOR)[0] or None


def root_task(task: str) -> str:
    """Give the task of the workflow that this one is, or was asked for on behalf of."""
    return task.partition(_SEPARATOR)[0]


def depth_of(task: str) -> int:
    """Give how deep below a task of the workflow this one is: 0 for such a task itself."""
    return task.count(_SEPARATOR)


def tree_key(task: str) -> tuple[int, ...]:
    """Give the numbers of a task below its task of the workflow: sorted by it, siblings are in the order of their inputs."""
    return tuple(int(number) for number in task.split(_SEPARATOR)[1:])


def tasks_text(parent: str, first_number: int, size: int) -> str:
    """Name some agent runs that one has asked for: `writer-1`, or `writer-1 to writer-9`."""
    first = child_task(parent, first_number)
    return first if size == 1 else f"{first} to {child_task(parent, first_number + size - 1)}"
