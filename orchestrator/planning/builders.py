"""Workflows built in Python.

::

    sequential("reader", parallel("summarizer", "critic", aggregate="editor"))
    sequential("reader", adaptive("chooser", {"billing": "accountant", "other": "writer"}), "editor")

A part is an agent's name or any other expression, a `TaskDefinition`, a workflow, or `any_agent("review")` for whichever
agent can do something. Ids stay unique: the first part to
have an id keeps it, later ones are renamed (`critic_2`), and their references and conditions follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import WorkflowInvalid
from orchestrator.planning import compose, condition
from orchestrator.planning.compose import Tasks
from orchestrator.planning.expression import parse_expression

Part = WorkflowDefinition | TaskDefinition | str
Key = TypeVar("Key", bound=str | int)


def sequential(*parts: Part, name: str | None = None) -> WorkflowDefinition:
    """Run the parts one after the other: all ends of a part lead to all first tasks of the next."""
    if not parts:
        raise WorkflowInvalid(["sequential() needs at least one part"])
    return _workflow(compose.in_sequence(map(_tasks_of, parts)), name)


def parallel(*branches: Part, aggregate: Part | None = None, name: str | None = None) -> WorkflowDefinition:
    """Run the branches at the same time; the first tasks of `aggregate` wait for all their ends."""
    if not branches:
        raise WorkflowInvalid(["parallel() needs at least one branch"])
    last = () if aggregate is None else _tasks_of(aggregate)
    return _workflow(compose.in_parallel([_tasks_of(branch) for branch in branches], last), name)


def adaptive(
    decide: Part,
    branches: Mapping[Key, Part],
    *,
    field: str | None = "choice",
    otherwise: Part | None = None,
    name: str | None = None,
) -> WorkflowDefinition:
    """Run the one branch that the output of `decide` asks for, or `otherwise`; the tasks of the others are skipped.

    The keys are values of `field` (a path such as `result.choice`). With `field=None` they are CEL conditions over the
    output of `decide` by its id, tried in their order: the first that holds takes its branch. What follows waits for
    the ends of all branches and gets the output of the one that ran.
    """
    asked = _tasks_of(decide)
    if not branches or len(compose.ends(asked)) != 1:
        raise WorkflowInvalid(["adaptive() needs at least one branch, and a `decide` part that ends in one task"])
    (decider,) = compose.ends(asked)
    parts = [*branches.values()] if otherwise is None else [*branches.values(), otherwise]
    conditions = _exclusive([*branches]) if field is None else _choices(decider, field, [*branches])
    first, *rest = compose.distinct([asked, *map(_tasks_of, parts)])
    chosen = (compose.after(tasks, (decider,), when) for tasks, when in zip(rest, conditions, strict=False))
    return _workflow((*first, *(task for tasks in chosen for task in tasks)), name)


def any_agent(capability: str, *, id: str | None = None) -> TaskDefinition:
    """Give a task for any agent that has a capability: each run gets the least busy one when it is submitted, and keeps it.

    The task's id is the capability where that is a name; `TaskDefinition(id=..., capability=...)` takes everything else that
    a task can have.
    """
    return TaskDefinition(id=capability if id is None else id, capability=capability)


def _choices(decider: str, field: str, values: list[Key]) -> list[str]:
    """Give a condition for each value, and one for none of them."""
    each = [condition.equals(decider, field, value) for value in values]
    return [*each, condition.none_of(*each)]


def _exclusive(keys: list[Key]) -> list[str]:
    """Give the conditions so that each excludes the later ones, and one for none of them."""
    given = [key for key in keys if isinstance(key, str)]
    if len(given) != len(keys):
        raise WorkflowInvalid(["adaptive(field=None) takes CEL conditions as keys, which are text"])
    first_wins = [
        f"{condition.none_of(*given[:index])} && ({key})" if index else key for index, key in enumerate(given)
    ]
    return [*first_wins, condition.none_of(*given)]


def _tasks_of(part: Part) -> Tasks:
    match part:
        case str():
            return parse_expression(part).tasks
        case TaskDefinition():
            return (part,)
        case WorkflowDefinition():
            return part.tasks
        case _:
            kind = type(part).__name__
            raise WorkflowInvalid([f"a part is a workflow, a task, or text such as 'reader | editor', but no {kind}"])


def _workflow(tasks: Tasks, name: str | None) -> WorkflowDefinition:
    return WorkflowDefinition(tasks=tasks) if name is None else WorkflowDefinition(name=name, tasks=tasks)
