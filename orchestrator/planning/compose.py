"""Groups of tasks put together: one after the other, side by side, one of several.

Ids stay unique: the first group to have an id keeps it, later ones are renamed (`critic_2`) together with everything
that refers to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.contracts.kinds import ELSE, Branch
from orchestrator.contracts.workflow import TaskDefinition, replace_references
from orchestrator.planning import condition

Tasks = tuple[TaskDefinition, ...]

_NUMBERED = re.compile(r"(.+?)_[0-9]+")
_MAX_ID = 63


class UniqueIds:
    """Gives out each id once: what is taken is numbered, `critic_2`, `critic_3`."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._taken

    def reserve(self, task_ids: Iterable[str]) -> None:
        """Take ids as they are."""
        self._taken.update(task_ids)

    def take(self, wanted: str) -> str:
        """Give `wanted`, or the first free number of it."""
        given = wanted
        if wanted in self._taken:
            numbered = _NUMBERED.fullmatch(wanted)
            # `critic_2` is followed by `critic_3`, but `gpt_4` by `gpt_4_2`: the number was its own.
            given = self._number(numbered[1] if numbered and numbered[1] in self._taken else wanted)
        self._taken.add(given)
        return given

    def _number(self, base: str) -> str:
        number = self._next.get(base, 2)
        while (given := _with_suffix(base, f"_{number}")) in self._taken:
            number += 1
        self._next[base] = number + 1
        return given


def in_sequence(groups: Iterable[Tasks]) -> Tasks:
    """Let the first tasks of each group wait for all ends of the group before it."""
    result: list[TaskDefinition] = []
    before: tuple[str, ...] = ()
    for group in distinct(groups):
        result += after(group, before)
        before = ends(group) or before
    return tuple(result)


def in_parallel(branches: Sequence[Tasks], aggregate: Tasks = ()) -> Tasks:
    """Put the branches side by side; the first tasks of `aggregate` wait for all their ends."""
    *apart, last = distinct([*branches, aggregate])
    side_by_side = tuple(task for branch in apart for task in branch)
    return side_by_side + after(last, tuple(task_id for branch in apart for task_id in ends(branch)))


def distinct(groups: Iterable[Tasks]) -> list[Tasks]:
    """Give the groups with ids that differ from each other."""
    unique = UniqueIds()
    result: list[Tasks] = []
    for group in groups:
        clashes = [task.id for task in group if task.id in unique]
        unique.reserve(task.id for task in group)
        result.append(rename(group, {task_id: unique.take(task_id) for task_id in clashes}))
    return result


def ends(tasks: Tasks) -> tuple[str, ...]:
    """Give the ids that no other task waits for."""
    waited_for = {task_id for task in tasks for task_id in task.after}
    return tuple(task.id for task in tasks if task.id not in waited_for)


def after(tasks: Tasks, before: tuple[str, ...], when: str | None = None) -> Tasks:
    """Let the first tasks wait for `before`, and run only `when` that holds."""
    return tuple(
        task if task.after else task.model_copy(update={"after": before, "when": condition.both(when, task.when)})
        for task in tasks
    )


def rename(tasks: Tasks, names: Mapping[str, str]) -> Tasks:
    """Give the tasks with new ids, followed by `after`, references and conditions."""
    return tuple(_rename_task(task, names) for task in tasks) if names else tasks


def _rename_task(task: TaskDefinition, names: Mapping[str, str]) -> TaskDefinition:
    def rename_reference(path: str) -> str:
        task_id, dot, rest = path.partition(".")
        return f"${{{names.get(task_id, task_id)}{dot}{rest}}}"

    undo = task.compensate
    if undo is not None and undo.input is not None:
        undo = undo.model_copy(update={"input": replace_references(undo.input, rename_reference)})
    return task.model_copy(
        update={
            "id": names.get(task.id, task.id),
            "after": tuple(names.get(task_id, task_id) for task_id in task.after),
            "input": replace_references(task.input, rename_reference),
            "when": task.when and condition.rename(task.when, names),
            "compensate": undo,
            "condition": None
            if task.condition is None
            else tuple(_rename_branch(each, names) for each in task.condition),
        }
    )


def _rename_branch(branch: Branch, names: Mapping[str, str]) -> Branch:
    return branch if branch.when == ELSE else branch.model_copy(update={"when": condition.rename(branch.when, names)})


def _with_suffix(base: str, suffix: str) -> str:
    return base[: _MAX_ID - len(suffix)] + suffix
