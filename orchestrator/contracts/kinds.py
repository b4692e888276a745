"""The kinds of tasks beside agents: each is a field of a task and a line of one table, and nothing else lists them.

A new kind takes a field of `TaskDefinition` (and of `Compensation`, where one may be undone by it), a line of `KINDS`, and
what executes it: a line of `worker.nodes.builtin`, or of `planning.settling` where no worker is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import Positive, Value

#: Ids of tasks and names of agents: they become routing keys, queue names and Celery task names.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

#: Where a condition stands: it holds if none of the others does.
ELSE = "else"
MAX_BRANCHES = 100
_SHOWN_MEMBERS = 5
#: The branches of a condition that is one expression.
THEN, OTHERWISE = "then", "otherwise"

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _dotted_path(path: str) -> str:
    module, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    if not _DOTTED.fullmatch(module) or not _DOTTED.fullmatch(attribute):
        raise ValueError(f"{path!r} names nothing that can be imported: write package.module:name")
    return path


#: Where something is in a Python module: `package.module:name`, or with a dot in place of the colon.
DottedPath = Annotated[str, AfterValidator(_dotted_path)]


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


_TOOL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,64})?")


def _tool_name(name: str) -> str:
    if not _TOOL_NAME.fullmatch(name):
        raise ValueError(f"{name!r} names no tool: write `tool: name`, or `tool: kit.name` for one of a kit")
    return name


class ToolUse(Value):
    """One tool of the installation, by its name, or by those of its kit and its own: `calculator.calculate`.

    Of a kit with one tool its own name is enough. `options` are those of a kit, as an agent's `tools` take them.
    `permissions` are what the tool may touch beside what it needs by itself.
    """

    name: Annotated[str, AfterValidator(_tool_name)]
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    permissions: Permissions = Permissions()

    @property
    def kit(self) -> str:
        """The name that the installation knows: that of the kit, or of a tool that belongs to none."""
        return self.name.partition(".")[0]

    @property
    def wanted(self) -> str | None:
        """The name of the tool in its kit, None where the kit's own is all there is."""
        return self.name.partition(".")[2] or None


def _as_tool_use(value: Any) -> Any:
    if not isinstance(value, str | dict | ToolUse | None):
        raise ValueError("write `tool: kit.name`, or an object with name, options and permissions")  # noqa: TRY004
    return {"name": value} if isinstance(value, str) else value  # pyright: ignore[reportUnknownVariableType]


class Branch(Value):
    """One way on from a condition: its name, and the CEL expression that takes it; `else` is taken if no other one is."""

    name: Name
    when: str = Field(min_length=1, max_length=4096)


def _as_branches(value: Any) -> Any:
    match value:
        case None | list() | tuple():
            return value  # pyright: ignore[reportUnknownVariableType]
        case str():
            return [{"name": THEN, "when": value}, {"name": OTHERWISE, "when": ELSE}]
        case dict() if all(isinstance(name, str) for name in value):  # pyright: ignore[reportUnknownVariableType]
            return [{"name": name, "when": when} for name, when in value.items()]  # pyright: ignore[reportUnknownVariableType]
        case _:
            raise ValueError("write `condition: {branch: expression, other: else}`, or one expression")


def _distinct(branches: tuple[Branch, ...] | None) -> tuple[Branch, ...] | None:
    if branches is not None and not 0 < len(branches) <= MAX_BRANCHES:
        raise ValueError(f"a condition has 1 to {MAX_BRANCHES} branches, and this one has {len(branches):,}")
    names = [branch.name for branch in branches or ()]
    if len(set(names)) < len(names):
        raise ValueError("two branches have one name: give each its own")
    if [branch.when for branch in branches or ()].count(ELSE) > 1:
        raise ValueError("two branches are `else`: keep one")
    return branches


Function = DottedPath | None
Celery = Annotated[CeleryTask | None, BeforeValidator(_as_celery_task, json_schema_input_type=str | CeleryTask | None)]
Tool = Annotated[ToolUse | None, BeforeValidator(_as_tool_use, json_schema_input_type=str | ToolUse | None)]
Branches = Annotated[
    tuple[Branch, ...] | None,
    BeforeValidator(_as_branches, json_schema_input_type=str | dict[Name, str] | tuple[Branch, ...] | None),
    AfterValidator(_distinct),
]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of task: the field that makes a task one also stands in the place of its agent.

    `write` says how, `shown` gives what such a task does, for people. `lacks` are the fields of a task that mean nothing to it.
    Whether it `undoes`: a compensation may be one. Whether it is `settled` by the orchestrator itself, without a worker.
    """

    name: str
    write: str
    shown: Callable[[Any], str]
    lacks: frozenset[str] = frozenset({"model", "system"})
    undoes: bool = True
    settled: bool = False


def _branch_names(branches: tuple[Branch, ...]) -> str:
    return ", ".join(branch.name for branch in branches)


def _task_name(celery: CeleryTask) -> str:
    return celery.task


def _used_name(tool: ToolUse) -> str:
    return tool.name


def _step_name(composite: Any) -> str:
    return f"of {composite.do.does}"


def _route_names(router: Any) -> str:
    return f"to {_named(router.routes)}"


def _leader_name(team: Any) -> str:
    return f"{team.leader.does} with {_named(team.followers)}"


def _team_names(team: Any) -> str:
    return f"of {_named(team.members)}"


def _agent_names(team: Any) -> str:
    return f"between {_named(team.agents)}"


def _workflow_name(workflow: Any) -> str:
    # Of most nobody has said a name.
    return str(workflow.name) if workflow.name != "workflow" else f"of {_listed([task.id for task in workflow.tasks])}"


def _named(members: Any) -> str:
    return _listed([member.name for member in members])


def _listed(names: list[str]) -> str:
    return ", ".join(
        names if len(names) <= _SHOWN_MEMBERS else [*names[:_SHOWN_MEMBERS], f"{len(names) - _SHOWN_MEMBERS} more"]
    )


def _made_of_others(name: str, write: str, shown: Callable[[Any], str]) -> Kind:
    # Its time limits would bound nothing: it waits for others, and a wait does not count.
    return Kind(name, write, shown, lacks=frozenset({"model", "system", "timeouts"}), undoes=False)


#: These words stand in the place of an agent, in queues, listings and Flower, so no plugin has such a name.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("function", "write `function: package.module:name`", str),
            Kind("celery", "write `celery: registered.task.name`", _task_name),
            Kind("tool", "write `tool: kit.name`", _used_name),
            Kind(
                "condition",
                "write `condition: {branch: expression, other: else}`",
                _branch_names,
                lacks=frozenset({"model", "system", "input", "retry", "timeouts", "on_error", "compensate"}),
                undoes=False,
                settled=True,
            ),
            _made_of_others("workflow", "write `workflow: file.yaml`, or its tasks", _workflow_name),
            _made_of_others("loop", "write `loop: {do: agent, until: expression}`", _step_name),
            _made_of_others("map", "write `map: {do: agent, over: ${task.field}}`", _step_name),
            _made_of_others("router", "write `router: {by: agent, routes: {name: agent}}`", _route_names),
            _made_of_others(
                "leader_follower", "write `leader_follower: {leader: agent, followers: [agent]}`", _leader_name
            ),
            _made_of_others("consensus", "write `consensus: {members: [agent]}`", _team_names),
            _made_of_others("handoff", "write `handoff: {agents: [agent]}`", _agent_names),
        )
    }
)

#: The words for all of them.
NODE_KINDS = tuple(KINDS)


def listed(names: Any, last: str) -> str:
    """Give words as a list that people read: `agent, function and celery`."""
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else str(end)
