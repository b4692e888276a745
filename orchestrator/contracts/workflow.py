"""What runs: a workflow of tasks and the order that their dependencies ask for, and nothing more than that order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from orchestrator.contracts.policy import Deadline, Positive, RetryPolicy, Timeouts, Value

#: Ids of tasks and names of agents: they become routing keys, queue names and Celery task names.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

#: No task has this id: it addresses every task of a run in messages.
RESERVED_TASK_IDS = frozenset({"all", "input"})

#: Tasks that name a Python function or a Celery task instead of an agent. These words stand in the place of their agent,
#: in queues, listings and Flower, so no plugin has such a name.
NODE_KINDS = ("function", "celery")

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _dotted_path(path: str) -> str:
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not _DOTTED.fullmatch(module) or not _DOTTED.fullmatch(attribute):
        raise ValueError(f"{path!r} names nothing that can be imported: write package.module:name")
    return path


#: Where something is in a Python module: `package.module:name`, or with a dot in place of the colon.
DottedPath = Annotated[str, AfterValidator(_dotted_path)]


#: What agents say that they can do: a task may ask for any agent that can, and a message too.
Capability = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]

#: `provider:model`, such as `openai:gpt-5-mini`, or the text processor that needs none.
MODEL_PATTERN = r"^(?:offline|[a-z][a-z0-9_-]*:\S+)$"
MODEL_RULE = "expected provider:model, such as openai:gpt-5-mini, or offline"
ModelName = Annotated[str, StringConstraints(pattern=MODEL_PATTERN)]
#: What goes before everything that a model is asked.
SystemPrompt = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class Fallback(Value):
    """Run another agent on the same input when this one has failed for good."""

    fallback: Name


class CeleryTask(Value):
    """A task of the user's own Celery app, by its registered name; it runs on that app's own workers.

    `app` is where the app is (`module:attribute`), by default what NIGHTFLEET_CELERY_APP of the worker says. `queue` is
    one of the app's own; without it the app's routes decide. After `timeout` without a result the task is revoked.
    """

    task: str = Field(min_length=1, max_length=255)
    app: DottedPath | None = None
    queue: str | None = Field(default=None, min_length=1, max_length=255)
    timeout: Positive | None = None


def _as_celery_task(value: Any) -> Any:
    if not isinstance(value, str | dict | CeleryTask | None):
        raise ValueError("write `celery: registered.task.name`, or an object with task, app, queue and timeout")  # noqa: TRY004
    return {"task": value} if isinstance(value, str) else value  # pyright: ignore[reportUnknownVariableType]


OnError = Literal["fail", "continue"] | Fallback

_NODE_ADVICE = {
    "function": "write `function: package.module:name`",
    "celery": "write `celery: registered.task.name`",
}


def _agent_of_a_node(given: Any) -> Any:
    """Give what names a function or a Celery task the word for it as its agent."""
    if isinstance(given, dict) and not given.get("agent"):  # pyright: ignore[reportUnknownMemberType]
        named: list[str] = [kind for kind in NODE_KINDS if given.get(kind) is not None]  # pyright: ignore[reportUnknownMemberType]
        return {**given, "agent": named[0]} if named else given  # pyright: ignore[reportUnknownVariableType]
    return given  # pyright: ignore[reportUnknownVariableType]


def _check_kind(agent: str, function: str | None, celery: CeleryTask | None, capability: str | None = None) -> None:
    """Raise ValueError where it is not exactly one thing that is to be done."""
    named = [kind for kind, value in zip(NODE_KINDS, (function, celery), strict=True) if value is not None]
    if capability is not None:
        if agent or named:
            given = " and ".join([*named, *([] if agent in NODE_KINDS or not agent else ["agent"]), "capability"])
            raise ValueError(
                f"a task is one of agent, function, celery and capability, and this one has {given}: keep one"
            )
        return
    if not agent:
        raise ValueError("what the task does is missing: give it an agent, a function or a celery task")
    if len(named) > 1 or (named and agent != named[0]):
        given = " and ".join(named if agent in NODE_KINDS else ["agent", *named])
        raise ValueError(f"a task is one of agent, function and celery, and this one has {given}: keep one")
    if agent in NODE_KINDS and not named:
        raise ValueError(f"{agent!r} is no agent: {_NODE_ADVICE[agent]}")


def _does(agent: str, function: str | None, celery: CeleryTask | None, capability: str | None = None) -> str:
    if capability is not None:
        return f"capability {capability}"
    named = function or (celery and celery.task)
    return f"{agent} {named}" if named else agent


class Compensation(Value):
    """What undoes a task that has succeeded when its run fails or is cancelled: an agent, a function or a Celery task.

    It gets `{input, output}` of that task, or its own `input`, in which `${...}` stands for the run's input and the
    outputs of that task and of those in its `after`. `partial` undoes it too if it began and did not succeed.
    """

    agent: Name = ""
    input: dict[str, Any] | None = None
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    function: DottedPath | None = None
    celery: Annotated[CeleryTask | None, BeforeValidator(_as_celery_task)] = None
    partial: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _agent_of_a_node(given)

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        _check_kind(self.agent, self.function, self.celery)
        return self

    @property
    def does(self) -> str:
        """Who does the work, for people."""
        return _does(self.agent, self.function, self.celery)

    def references(self) -> tuple[str, ...]:
        """Give the paths inside every `${...}` of the declared input."""
        return tuple(_find_references(self.input)) if self.input is not None else ()


def _as_compensation(value: Any) -> Any:
    if not isinstance(value, str | dict | Compensation | None):
        raise ValueError("write `compensate: agent`, or an object with agent, input, retry, timeouts and partial")  # noqa: TRY004
    return {"agent": value} if isinstance(value, str) else value  # pyright: ignore[reportUnknownVariableType]


class TaskDefinition(Value):
    """One node: an agent, what it waits for, what it gets, and what happens when it fails.

    In place of an agent it may name a Python `function` (`package.module:name`) or a `celery` task of the user's own;
    `agent` is then that word. Or it names a `capability`, and `agent` is empty: when a run is submitted it gets the least busy of
    the agents that have it, and keeps that one. `input` maps names to JSON values in which `${task.field}` and
    `${input.field}` are replaced; without it the task gets the run's input (a first task), its one predecessor's output,
    or `{id: output}` of several. `when` is a CEL condition over `input` and the outputs of the tasks in `after`, by id; a
    task whose condition is false is skipped. `compensate` undoes the task when its run fails or is cancelled after it has
    succeeded. `model` and `system` are asked, and said to the model, in place of the agent's own.
    """

    id: Name
    agent: Name = ""
    after: tuple[Name, ...] = ()
    input: dict[str, Any] | None = None
    when: str | None = Field(default=None, min_length=1, max_length=4096)
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    on_error: OnError = "fail"
    function: DottedPath | None = None
    celery: Annotated[CeleryTask | None, BeforeValidator(_as_celery_task)] = None
    compensate: Annotated[Compensation | None, BeforeValidator(_as_compensation)] = None
    model: ModelName | None = None
    system: SystemPrompt | None = None
    capability: Capability | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _agent_of_a_node(given)

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        _check_kind(self.agent, self.function, self.celery, self.capability)
        if self.agent in NODE_KINDS and (self.model or self.system) is not None:
            raise ValueError(f"model and system are about an agent, and this task is a {self.agent}: leave them out")
        if isinstance(self.on_error, Fallback) and self.on_error.fallback in NODE_KINDS:
            raise ValueError(f"on_error: a fallback is an agent, and {self.on_error.fallback!r} is none")
        return self

    @property
    def does(self) -> str:
        """Who does the work, for people: `reader`, `function module:name`, `celery images.resize`, `capability review`."""
        return _does(self.agent, self.function, self.celery, self.capability)

    def references(self) -> tuple[str, ...]:
        """Give the paths inside every `${...}` of the declared input, such as `reader.text`."""
        return tuple(_find_references(self.input)) if self.input is not None else ()


class WorkflowDefinition(Value):
    """Tasks and their dependencies: any acyclic graph. `planning.validate` tells whether it can run.

    `digest` addresses the content: two equal workflows have one, whatever built them. A run that has not ended within
    its `deadline`, in seconds from its submit, fails.
    """

    schema_version: Literal[1] = 1
    name: str = Field(default="workflow", min_length=1, max_length=200)
    tasks: tuple[TaskDefinition, ...]
    deadline: Deadline | None = None

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
