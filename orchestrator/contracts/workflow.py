"""What runs: a workflow of tasks and the order that their dependencies ask for, and nothing more than that order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from orchestrator.contracts.policy import RetryPolicy, Timeouts, Value

#: Ids of tasks and names of agents: they become routing keys, queue names and Celery task names.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

#: No task has this id: it addresses every task of a run in messages.
RESERVED_TASK_IDS = frozenset({"all", "input"})

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class Fallback(Value):
    """Run another agent on the same input when this one has failed for good."""

    fallback: Name


OnError = Literal["fail", "continue"] | Fallback


class TaskDefinition(Value):
    """One node: an agent, what it waits for, what it gets, and what happens when it fails.

    `input` maps names to JSON values in which `${task.field}` and `${input.field}` are replaced; without it the task gets
    the run's input (a first task), its one predecessor's output, or `{id: output}` of several. `when` is a CEL condition
    over `input` and the outputs of the tasks in `after`, by id; a task whose condition is false is skipped.
    """

    id: Name
    agent: Name
    after: tuple[Name, ...] = ()
    input: dict[str, Any] | None = None
    when: str | None = Field(default=None, min_length=1, max_length=4096)
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    on_error: OnError = "fail"

    def references(self) -> tuple[str, ...]:
        """Give the paths inside every `${...}` of the declared input, such as `reader.text`."""
        return tuple(_find_references(self.input)) if self.input is not None else ()


class WorkflowDefinition(Value):
    """Tasks and their dependencies: any acyclic graph. `planning.validate` tells whether it can run.

    `digest` addresses the content: two equal workflows have one, whatever built them.
    """

    schema_version: Literal[1] = 1
    name: str = Field(default="workflow", min_length=1, max_length=200)
    tasks: tuple[TaskDefinition, ...]

    @cached_property
    def by_id(self) -> dict[str, TaskDefinition]:
        """Tasks by id, in the order in which they were written."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """For each task the ids that wait for it, in the order in which they were written."""
        following: dict[str, list[str]] = {task.id: [] for task in self.tasks}
        for task in self.tasks:
            for before in task.after:
                following[before].append(task.id)
        return {key: tuple(ids) for key, ids in following.items()}

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The ids that nothing waits for: their outputs are the run's."""
        return tuple(key for key, following in self.successors.items() if not following)

    @cached_property
    def canonical(self) -> str:
        """The definition as JSON text that is equal for equal definitions."""
        return self.model_dump_json(exclude_defaults=True)

    @cached_property
    def digest(self) -> str:
        """A hash of `canonical`, 32 hexadecimal digits."""
        import hashlib

        return hashlib.sha256(self.canonical.encode()).hexdigest()[:32]


def replace_references(value: Any, resolve: Any) -> Any:
    """Give `value` with each `${path}` replaced by `resolve(path)`: as a whole where it stands alone, else as text."""
    match value:
        case str():
            whole = _REFERENCE.fullmatch(value)
            if whole:
                return resolve(whole[1].strip())
            return _REFERENCE.sub(lambda found: _as_text(resolve(found[1].strip())), value)
        case dict():
            return {key: replace_references(item, resolve) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [replace_references(item, resolve) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def _as_text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _find_references(value: Any) -> Iterator[str]:
    found: list[str] = []
    replace_references(value, found.append)
    return iter(found)
