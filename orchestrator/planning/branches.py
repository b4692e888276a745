"""Conditions as tasks: which branch is taken, whom that lets run, and what shows through to those behind. Pure.

A condition decides and changes nothing: what comes after it sees what the condition has seen, and gets what that got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from orchestrator.contracts.kinds import ELSE, Branch
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.planning import condition
from orchestrator.planning.hints import did_you_mean

#: The field of a condition's output that says which branch is taken; null where none is.
TAKEN = "branch"


def conditions_before(task: TaskDefinition, by_id: Mapping[str, TaskDefinition]) -> dict[str, tuple[str, ...]]:
    """Give the conditions that a task waits for, with the names of their branches."""
    found = (by_id[key] for key in task.after if key in by_id)
    return {each.id: tuple(branch.name for branch in each.condition) for each in found if each.condition is not None}


def gate_of(task: TaskDefinition, by_id: Mapping[str, TaskDefinition]) -> str | None:
    """Give the condition in CEL that the branches hold which a task belongs to; None where it belongs to none.

    Of one condition any of its named branches will do; where there are several, each must have taken one of them.
    """
    held: str | None = None
    for key, names in conditions_before(task, by_id).items():
        meant = [condition.equals(key, TAKEN, name) for name in names if name in task.branch]
        if meant:
            held = condition.both(held, f"{key} != null && ({' || '.join(meant)})")
    return held


def chosen(branches: Sequence[Branch], holds: Callable[[str], bool]) -> str | None:
    """Give the name of the first branch whose expression holds, else that of `else`, else None."""
    found = (branch.name for branch in branches if branch.when != ELSE and holds(branch.when))
    otherwise = next((branch.name for branch in branches if branch.when == ELSE), None)
    return next(found, otherwise)


def seen_by(task: TaskDefinition, by_id: Mapping[str, TaskDefinition]) -> tuple[str, ...]:
    """Give the ids whose outputs a task may look at: what it waits for, and what is seen through conditions among that."""
    return tuple(_through(task, by_id, keep=True))


def passed_to(task: TaskDefinition, by_id: Mapping[str, TaskDefinition]) -> tuple[str, ...]:
    """Give the ids whose outputs a task gets that names no input: what it waits for, but for conditions what they got."""
    return tuple(_through(task, by_id, keep=False))


def branch_problems(task: TaskDefinition, by_id: Mapping[str, TaskDefinition]) -> Iterator[str]:
    """Say what is wrong with the branches that a task belongs to, or does not say that it belongs to."""
    before = conditions_before(task, by_id)
    place = f"tasks.{task.id}.branch"
    known = [each for names in before.values() for each in names]
    for name in task.branch:
        having = [key for key, names in before.items() if name in names]
        if not before:
            yield f"{place}: {name!r} is a branch of nothing: the task waits for no condition, add one to after"
        elif not having:
            hint = did_you_mean(name, known) or f": {_of(before)}"
            yield f"{place}: there is no branch {name!r}{hint}"
        elif len(having) > 1:
            yield f"{place}: {' and '.join(having)} both have a branch {name!r}: give one of them another name"
    looked_at = condition.names(task.when) if task.when else frozenset[str]()
    for key, names in before.items() if set(known).issuperset(task.branch) else ():
        if not set(names).intersection(task.branch) and key not in looked_at:
            yield (
                f"tasks.{task.id}.after: {key!r} is a condition, and the task does not say which branch it belongs to: "
                f"add `branch: {names[0]}`, or wait for what comes before {key!r}"
            )


def _of(before: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} has {', '.join(names)}" for key, names in before.items())


def _through(task: TaskDefinition, by_id: Mapping[str, TaskDefinition], *, keep: bool) -> Iterator[str]:
    """Give what a task waits for in its order, each condition replaced, or followed, by what that waits for."""
    done: set[str] = set()
    left = list(reversed(task.after))
    while left:
        key = left.pop()
        if key in done:
            continue
        done.add(key)
        before = by_id.get(key)
        is_condition = before is not None and before.condition is not None
        if keep or not is_condition:
            yield key
        if before is not None and is_condition:
            left.extend(reversed(before.after))
