"""What an agent run of sub-work is to do, in the form of a task: the workflow knows nothing of it."""

from __future__ import annotations

from typing import Protocol

from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.subwork import SubworkOptions, root_task
from orchestrator.contracts.workflow import Fallback, TaskDefinition
from orchestrator.planning.frontier import Plan


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
