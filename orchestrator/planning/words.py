"""A task in words: what it is called, and what is special about it; defaults are not mentioned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from orchestrator.contracts.composite import AtLeast, Map, Unmet
from orchestrator.contracts.kinds import ELSE
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.workflow import ITEMS, Fallback, TaskDefinition
from orchestrator.planning.steps import steps_of

#: The bound of each kind, and what is counted.
_BOUNDS = {
    "loop": ("max_iterations", "times"),
    "leader_follower": ("max_rounds", "rounds"),
    "consensus": ("max_rounds", "rounds"),
    "handoff": ("max_handoffs", "handoffs"),
}


def title_of(task: TaskDefinition) -> str:
    """Name a task of a workflow, and who does its work where that is not the same."""
    if task.condition is not None:
        return f"{task.id} (condition)"
    return task.id if task.id == task.does else f"{task.id} ({task.does})"


def labels_of(task: TaskDefinition) -> Iterator[tuple[str, TaskDefinition]]:
    """Give the steps of a task by what they are called in it: `do`, `by`, the name of a route or a member."""
    return ((place.rpartition(".")[2], step) for place, step in steps_of(task))


def notes_of(task: TaskDefinition) -> list[str]:
    """Say what is special about a task, or a step."""
    notes = [f"after {', '.join(task.after)}"] if task.after else []
    if task.branch:
        notes.append(f"branch {' or '.join(task.branch)}")
    notes += [f"{branch.name} if {one_line(branch.when)}" for branch in task.condition or () if branch.when != ELSE]
    notes += [f"else {branch.name}" for branch in task.condition or () if branch.when == ELSE]
    if task.when:
        notes.append(f"when {one_line(task.when)}")
    notes += own_notes_of(task)
    if task.retry != RetryPolicy():
        notes.append(f"{count(task.retry.retries, 'retry', 'retries')} from {_seconds(task.retry.first_delay)} on")
    if task.timeouts != Timeouts():
        limits = (("soft", task.timeouts.soft), ("hard", task.timeouts.hard))
        notes += [f"{kind} timeout {_seconds(limit)}" for kind, limit in limits if limit]
    if isinstance(task.on_error, Fallback):
        notes.append(f"on error {task.on_error.fallback}")
    elif task.on_error != "fail":
        notes.append(f"on error {task.on_error}")
    if task.compensate is not None:
        notes.append(f"undone by {task.compensate.does}")
    return notes


def own_notes_of(task: TaskDefinition) -> Iterator[str]:
    """Say what a loop, a map, a router or a team goes by."""
    if task.loop is not None:
        yield f"until {one_line(task.loop.until)}"
    if task.map is not None:
        yield from _of_map(task.map, task)
    if task.router is not None and task.router.choice != "choice":
        yield f"by {one_line(task.router.choice)}"
    if task.consensus is not None and task.consensus.rule != "majority":
        yield _rule(task.consensus.rule)
    if task.consensus is not None and task.consensus.quorum is not None:
        yield f"quorum {task.consensus.quorum}"
    if task.handoff is not None:
        yield f"{task.handoff.first or task.handoff.agents[0].name} first"
    if task.agent in _BOUNDS:
        yield from _bound(getattr(task, task.agent), *_BOUNDS[task.agent])


def one_line(text: str) -> str:
    """Give text without breaks, and without what cannot be seen."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def count(number: int, one: str, many: str | None = None) -> str:
    """Give a number with what is counted."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _of_map(mapped: Map, task: TaskDefinition) -> Iterator[str]:
    if mapped.over is not None:
        over = (task.input or {}).get(ITEMS) if mapped.over == ITEMS else None
        yield f"over {one_line(over) if isinstance(over, str) else mapped.over}"
    if mapped.max_concurrency is not None:
        yield f"{mapped.max_concurrency:,} at once"


def _bound(composite: Any, field: str, counted: str) -> Iterator[str]:
    most: int = getattr(composite, field)
    if most != type(composite).model_fields[field].default:
        yield f"at most {count(most, counted.removesuffix('s'), counted)}"
    unmet: Unmet = composite.unmet
    if unmet == "last":
        yield "then the last"


def _rule(rule: str | AtLeast) -> str:
    return f"at least {rule.at_least:g}" if isinstance(rule, AtLeast) else rule


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"
