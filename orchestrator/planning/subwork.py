"""What an agent run of sub-work is to do, in the form of a task: the workflow knows nothing of it."""

from __future__ import annotations

from typing import Protocol

from orchestrator.contracts.composite import COMPOSITES
from orchestrator.contracts.lineage import root_task
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.subwork import SubworkOptions
from orchestrator.contracts.workflow import Fallback, TaskDefinition
from orchestrator.planning.frontier import Plan
from orchestrator.planning.steps import within

#: Kinds of tasks that do nothing by themselves.
_FREE = frozenset({"workflow", "condition", *COMPOSITES})


class Placed(Protocol):
    """An agent run as its claim knows it."""

    @property
    def task(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def agent(self) -> str: ...
    @property
    def parent_id(self) -> str | None: ...
    @property
    def options(self) -> str | None: ...


def definition_of(plan: Plan, placed: Placed) -> TaskDefinition:
    """Give the task that an agent run is, or as which it was asked for: its failure is its caller's business alone."""
    if placed.parent_id is None:
        return plan.task_at(placed.position)
    options = SubworkOptions() if placed.options is None else SubworkOptions.model_validate_json(placed.options)
    if (step := options.task) is not None:
        on_error = step.on_error if isinstance(step.on_error, Fallback) else "continue"
        return step.model_copy(update={"id": placed.task, "on_error": on_error})
    made = TaskDefinition(
        id=root_task(placed.task),
        agent=options.agent or placed.agent,
        retry=options.retry or RetryPolicy(),
        timeouts=options.timeouts or Timeouts(),
        on_error="continue" if options.fallback is None else Fallback(fallback=options.fallback),
    )
    return made.model_copy(update={"id": placed.task})


def undoes(plan: Plan, task: str) -> bool:
    """Tell whether a task takes back what another one did, or does so on behalf of one that does."""
    return root_task(task) in plan.undo_tasks


def names_called(task: TaskDefinition) -> tuple[str, ...]:
    """Give what somebody has to be permitted who calls a task: every agent inside of it, and the words for what is none.

    Of a capability that is `capability:name`. What is made of others needs no permission of its own.
    """
    found: dict[str, None] = {}
    for _, each in within(task, ""):
        if each.capability is not None:
            found[f"capability:{each.capability}"] = None
        elif each.agent not in _FREE:
            found[each.agent] = None
        if isinstance(each.on_error, Fallback):
            found[each.on_error.fallback] = None
    return tuple(found)
