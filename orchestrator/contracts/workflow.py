"""What runs: a workflow of tasks and the order that their dependencies ask for, and nothing more than that order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from orchestrator.cached_property import cached_property
from orchestrator.contracts import composite
from orchestrator.contracts.composite import Consensus, Handoff, LeaderFollower, Loop, Map, Router
from orchestrator.contracts.inputs import Inputs
from orchestrator.contracts.kinds import (
    KINDS,
    NAME_PATTERN,
    NODE_KINDS,
    Branch,
    Branches,
    Celery,
    CeleryTask,
    DottedPath,
    Function,
    Kind,
    Name,
    Tool,
    ToolUse,
    listed,
)
from orchestrator.contracts.policy import Deadline, RetryPolicy, Timeouts, Value

__all__ = [
    "KINDS",
    "MODEL_PATTERN",
    "MODEL_RULE",
    "NAME_PATTERN",
    "NODE_KINDS",
    "OUTPUT",
    "RESERVED_TASK_IDS",
    "Branch",
    "CeleryTask",
    "Compensation",
    "DottedPath",
    "Fallback",
    "Kind",
    "ModelName",
    "Name",
    "OnError",
    "SystemPrompt",
    "TaskDefinition",
    "ToolUse",
    "WorkflowDefinition",
    "find_references",
    "replace_references",
]

#: No task has this id: it addresses every task of a run in messages, or the run's input.
RESERVED_TASK_IDS = frozenset({"all", "input"})

#: The id of what makes a run's output where its workflow says what that is: no task has it then.
OUTPUT = "output"

#: The field of a map's input that has its list, where that is what a reference leads to.
ITEMS = "items"

#: One reference in a text; in parentheses where it leads.
REFERENCE = re.compile(r"\$\{([^}]*)\}")


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


OnError = Literal["fail", "continue"] | Fallback


def _agent_of_a_node(given: Any) -> Any:
    """Give what names something else than an agent the word for it as its agent."""
    if isinstance(given, dict) and not given.get("agent"):  # pyright: ignore[reportUnknownMemberType]
        named: list[str] = [kind for kind in KINDS if given.get(kind) is not None]  # pyright: ignore[reportUnknownMemberType]
        return {**given, "agent": named[0]} if named else given  # pyright: ignore[reportUnknownVariableType]
    return given  # pyright: ignore[reportUnknownVariableType]


def _with_items(given: Any) -> Any:
    """Give a map over what a reference leads to that as a field of its input, in which references are replaced."""
    match given:
        case {"map": {"over": str(over)} as mapped} if REFERENCE.fullmatch(over):  # pyright: ignore[reportUnknownVariableType]
            fields: dict[str, Any] = given  # pyright: ignore[reportUnknownVariableType]
            own = {**(fields.get("input") or {})}
            if own.setdefault(ITEMS, over) != over:
                raise ValueError(
                    f"what `over` leads to becomes the field {ITEMS!r} of its input, which says that itself"
                )
            return {**fields, "input": own, "map": {**mapped, "over": ITEMS}}
        case _:
            return given  # pyright: ignore[reportUnknownVariableType]


def _check_kind(given: TaskDefinition | Compensation) -> None:
    """Raise ValueError where it is not exactly one thing that is to be done."""
    agent, capability = given.agent, getattr(given, "capability", None)
    said = KINDS.keys() & given.model_fields_set
    if agent and agent not in KINDS and capability is None and not said:
        return  # as almost all are
    fields = type(given).model_fields
    possible = [kind for kind in KINDS if kind in fields]
    named = [kind for kind in possible if getattr(given, kind) is not None]
    if capability is not None:
        if agent or named:
            found = listed([*named, *([] if agent in KINDS or not agent else ["agent"]), "capability"], "and")
            raise ValueError(
                f"a task is one of agent, capability, {listed(possible, 'and')}, and this one has {found}: keep one"
            )
        return
    if not agent:
        raise ValueError(f"what the task does is missing: give it one of agent, {listed(possible, 'and')}")
    if len(named) > 1 or (named and agent != named[0]):
        found = listed(named if agent in KINDS else ["agent", *named], "and")
        raise ValueError(f"a task is one of agent, {listed(possible, 'and')}, and this one has {found}: keep one")
    if agent in KINDS and not named:
        what = KINDS[agent].write if agent in possible else f"{agent} undoes nothing"
        raise ValueError(f"{agent!r} is no agent: {what}")
    lacking = KINDS[agent].lacks if agent in KINDS else frozenset[str]()
    if extra := [name for name in fields if name in lacking and getattr(given, name) != fields[name].default]:
        if {"model", "system"}.issuperset(extra):
            raise ValueError(f"model and system are about an agent, and this task is a {agent}: leave them out")
        raise ValueError(f"{listed(extra, 'and')} would mean nothing to a {agent}: leave out")


def _does(given: TaskDefinition | Compensation) -> str:
    if (capability := getattr(given, "capability", None)) is not None:
        return f"capability {capability}"
    kind = KINDS.get(given.agent)
    return given.agent if kind is None else f"{kind.name} {kind.shown(getattr(given, kind.name))}"


class Compensation(Value):
    """What undoes a task that has succeeded when its run fails or is cancelled: an agent, or what else a task may be.

    It gets `{input, output}` of that task, or its own `input`, in which `${...}` stands for the run's input and the
    outputs of that task and of those in its `after`. `partial` undoes it too if it began and did not succeed.
    """

    agent: Name = ""
    input: dict[str, Any] | None = None
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    function: Function = None
    celery: Celery = None
    partial: bool = False
    tool: Tool = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _agent_of_a_node(given)

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        _check_kind(self)
        return self

    @property
    def does(self) -> str:
        """Who does the work, for people."""
        return _does(self)

    def references(self) -> tuple[str, ...]:
        """Give the paths inside every `${...}` of the declared input."""
        return find_references(self.input)


def _as_compensation(value: Any) -> Any:
    if not isinstance(value, str | dict | Compensation | None):
        raise ValueError("write `compensate: agent`, or an object with agent, input, retry, timeouts and partial")  # noqa: TRY004
    return {"agent": value} if isinstance(value, str) else value  # pyright: ignore[reportUnknownVariableType]


def _as_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Undone = Annotated[
    Compensation | None, BeforeValidator(_as_compensation, json_schema_input_type=str | Compensation | None)
]
Names = Annotated[tuple[Name, ...], BeforeValidator(_as_several, json_schema_input_type=Name | tuple[Name, ...])]


class TaskDefinition(Value):
    """One node: an agent, what it waits for, what it gets, and what happens when it fails.

    In place of an agent it may name a Python `function` (`package.module:name`), a `celery` task of the user's own, a `tool`
    (`kit.name`), or be a `condition`, which chooses one of its branches; `agent` is then that word. Or it names a
    `capability`, and `agent` is empty: when a run is submitted it gets the least busy of the agents that have it, and keeps
    that one. `input` maps names to JSON values in which `${task.field}` and `${input.field}` are replaced; without it the
    task gets the run's input (a first task), its one predecessor's output, or `{id: output}` of several. `when` is a CEL
    condition over `input` and the outputs of the tasks in `after`, by id; a task whose condition is false is skipped.
    `branch` names the branches of conditions in `after` that it belongs to. `compensate` undoes the task when its run fails
    or is cancelled after it has succeeded. `model` and `system` are asked, and said to the model, in place of the agent's
    own.
    """

    # What is stored leaves out defaults and keeps this order: both are part of every digest. New fields go to the end.
    id: Name
    agent: Name = ""
    after: tuple[Name, ...] = ()
    input: dict[str, Any] | None = None
    when: str | None = Field(default=None, min_length=1, max_length=4096)
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    on_error: OnError = "fail"
    function: Function = None
    celery: Celery = None
    compensate: Undone = None
    model: ModelName | None = None
    system: SystemPrompt | None = None
    capability: Capability | None = None
    tool: Tool = None
    condition: Branches = None
    branch: Names = ()
    workflow: WorkflowDefinition | None = None
    loop: Loop | None = None
    map: Map | None = None
    router: Router | None = None
    leader_follower: LeaderFollower | None = None
    consensus: Consensus | None = None
    handoff: Handoff | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _with_items(_agent_of_a_node(given))

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        _check_kind(self)
        if isinstance(self.on_error, Fallback) and self.on_error.fallback in KINDS:
            raise ValueError(f"on_error: a fallback is an agent, and {self.on_error.fallback!r} is none")
        return self

    @property
    def kind(self) -> Kind | None:
        """Which kind of task it is beside those of agents, None for one of these."""
        return KINDS.get(self.agent)

    @property
    def does(self) -> str:
        """Who does the work, for people: `reader`, `function module:name`, `celery images.resize`, `capability review`."""
        return _does(self)

    def references(self) -> tuple[str, ...]:
        """Give the paths inside every `${...}` of the declared input, such as `reader.text`."""
        return find_references(self.input)


class WorkflowDefinition(Value):
    """Tasks and their dependencies: any acyclic graph. `planning.validate` tells whether it can run.

    `digest` addresses the content: two equal workflows have one, whatever built them. A run that has not ended within
    its `deadline`, in seconds from its submit, fails. `inputs` are the JSON Schemas of the fields of the run's input, by
    name; those with a `default` may be left out. `output` is the run's output in place of that of its ends: names with
    values in which `${task.field}` and `${input.field}` are replaced, or one such reference.
    """

    schema_version: Literal[1] = 1
    name: str = Field(default="workflow", min_length=1, max_length=200)
    tasks: tuple[TaskDefinition, ...]
    deadline: Deadline | None = None
    inputs: Inputs | None = None
    output: dict[str, Any] | str | None = None

    @field_validator("output")
    @classmethod
    def _leads_somewhere(cls, output: Any) -> Any:
        if isinstance(output, str) and not find_references(output):
            raise ValueError(f"{output!r} is always the same: write `output: ${{task.field}}`, or names with values")
        return output

    @classmethod
    def stored(cls, text: str, digest: str) -> Self:
        """Give a definition as it was stored, with the digest that it was stored by: a database may have put keys in order."""
        found = cls.model_validate_json(text)
        vars(found)["digest"] = digest
        return found

    def with_tasks(self, tasks: Iterable[TaskDefinition]) -> WorkflowDefinition:
        """Give the same workflow with other tasks."""
        # A copy would keep what is computed once.
        kept = {name: getattr(self, name) for name in WorkflowDefinition.model_fields if name != "tasks"}
        return WorkflowDefinition(**kept, tasks=tuple(tasks))

    @cached_property
    def by_id(self) -> dict[str, TaskDefinition]:
        """Tasks by id, in the order in which they were written."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def nodes(self) -> tuple[TaskDefinition, ...]:
        """The tasks, and behind them what makes the run's output, where the workflow says what that is.

        That waits for every end, and for each task whose output is part of it.
        """
        if self.output is None:
            return self.tasks
        waited_for = {before for task in self.tasks for before in task.after}
        told = {path.partition(".")[0] for path in find_references(self.output)}
        after = tuple(task.id for task in self.tasks if task.id in told or task.id not in waited_for)
        return (*self.tasks, TaskDefinition(id=OUTPUT, agent=OUTPUT, after=after, input={OUTPUT: self.output}))

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """For each node the ids that wait for it, in the order in which they were written."""
        following: dict[str, list[str]] = {task.id: [] for task in self.nodes}
        for task in self.nodes:
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


# Steps are tasks, and tasks have steps.
composite.know_tasks(TaskDefinition)
TaskDefinition.model_rebuild()
WorkflowDefinition.model_rebuild()


def replace_references(value: Any, resolve: Any) -> Any:
    """Give `value` with each `${path}` replaced by `resolve(path)`: as a whole where it stands alone, else as text."""
    match value:
        case str():
            whole = REFERENCE.fullmatch(value)
            if whole:
                return resolve(whole[1].strip())
            return REFERENCE.sub(lambda found: _as_text(resolve(found[1].strip())), value)
        case dict():
            return {key: replace_references(item, resolve) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [replace_references(item, resolve) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def _as_text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def find_references(value: Any) -> tuple[str, ...]:
    """Give the paths inside every `${...}` of a value."""
    found: list[str] = []
    replace_references(value, found.append)
    return tuple(found)
