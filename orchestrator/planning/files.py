"""Workflows in files, YAML or JSON, and whatever else names a workflow.

::

    name: press-review
    tasks:
      reader:   {agent: reader}                          # the agent is the task's id where it is not given
      critic:   {agent: critic, after: [reader], on_error: continue, retry: {retries: 5}}
      judge:    {capability: review, after: [reader]}    # any agent that can: the least busy when a run is submitted
      clean:    {function: "myproject.text:clean"}       # a Python function in place of an agent
      charge:   {agent: charge, after: [reader], compensate: refund}          # undone when the run fails later
      resize:   {celery: {task: images.resize, queue: images, timeout: 60}}   # a task of your own Celery app
      praise:   {agent: writer, after: [critic], when: "critic.score > 7"}
      rewrite:  {agent: writer, after: [critic], when: else}   # no other condition after the same tasks holds

`tasks` may also be a list of tasks with their `id`. `defaults` are the retry, timeouts and on_error of tasks that say none.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.contracts.kinds import NODE_KINDS
from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.workflow import (
    MODEL_RULE,
    CeleryTask,
    Compensation,
    TaskDefinition,
    ToolUse,
    WorkflowDefinition,
)
from orchestrator.errors import UnknownAgent, UsageError, WorkflowInvalid
from orchestrator.planning import condition
from orchestrator.planning.defaults import DEFAULTS, TaskDefaults, merged
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.hints import did_you_mean, kind_of, label_of
from orchestrator.planning.source import Path, Source
from orchestrator.planning.validate import MAX_PROBLEMS, ToolFaults, validate

MAX_BYTES = 32 * 1024 * 1024

_SUFFIXES = (".yaml", ".yml", ".json")
_ELSE = "else"
_SAMPLE = "write for example `tasks: {reader: {}, editor: {after: [reader]}}`"
_A_TASK = "expected the task's fields, such as {agent: reader, after: [other]}"
_NAME_RULE = "a name has lower-case letters, digits and _, begins with a letter, and is at most 63 long"
_MODELS: Mapping[Path, type[BaseModel]] = {
    (): TaskDefinition,
    ("retry",): RetryPolicy,
    ("timeouts",): Timeouts,
    ("celery",): CeleryTask,
    ("tool",): ToolUse,
    ("tool", "permissions"): Permissions,
    ("compensate",): Compensation,
    ("compensate", "tool"): ToolUse,
    ("compensate", "tool", "permissions"): Permissions,
    ("compensate", "retry"): RetryPolicy,
    ("compensate", "timeouts"): Timeouts,
    ("compensate", "celery"): CeleryTask,
}


def resolve_workflow(source: str | WorkflowDefinition | TaskDefinition | FilePath) -> WorkflowDefinition:
    """Give the workflow that is meant: a definition, a path to a file, or an expression.

    Text is a path if it ends with .yaml, .yml or .json, has a slash, or names an existing file.
    """
    match source:
        case WorkflowDefinition():
            return source
        case TaskDefinition():
            return WorkflowDefinition(tasks=(source,))
        case str() if not names_file(source):
            return parse_expression(source)
        case _:
            return load_workflow(source)


@dataclass(frozen=True, slots=True)
class Known:
    """What a workflow may name where it is checked: agents, and tools by what is wrong with a use of one."""

    agents: Collection[str]
    tool_faults: ToolFaults | None = None
    #: What agents can do, None where nobody can tell.
    capabilities: Collection[str] | None = None


def load_workflow(path: str | FilePath, known: Known | None = None) -> WorkflowDefinition:
    """Give the workflow of a YAML or JSON file; raise WorkflowInvalid with every problem at its line and column.

    Whether its agents and tools are there is checked where it is said what is `known`; raise UnknownAgent where unknown agents
    are all that is wrong. Raise UsageError where there is no such file.
    """
    origin = str(path)
    text = _read(FilePath(path), origin)
    source = Source(text, origin, is_json=origin.endswith(".json"))
    return _workflow(source.data, origin, source.problem, source.problems, known)


def workflow_from_data(data: Any, origin: str) -> WorkflowDefinition:
    """Give the workflow of data shaped like a workflow file; raise WorkflowInvalid with every problem at its place."""
    return _workflow(data, origin, lambda _path, problem: problem, [], None)


def names_file(text: str) -> bool:
    """Tell whether text that names a workflow is taken for a path."""
    try:
        return text.endswith(_SUFFIXES) or "/" in text or FilePath(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _read(path: FilePath, origin: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        advice = {
            errno.ENOENT: f"there is no such file in {FilePath.cwd()}: correct the path, or give it from the root on",
            errno.EISDIR: "it is a folder: name the file in it",
        }
        raise UsageError(f"workflow {origin!r}: {advice.get(error.errno or 0, error.strerror)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"workflow {origin!r}: it is not UTF-8 (byte {error.start:,}): save it as UTF-8") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"workflow {origin!r}: it has more than {MAX_BYTES:,} bytes, which no workflow needs")
    return text


def _workflow(
    data: Any, origin: str, show: Callable[[Path, str], str], faults: list[str], known: Known | None
) -> WorkflowDefinition:
    """Build and check: the tasks first, then their graph. `show` gives a problem with its line."""
    reader = _Reader()
    workflow = reader.workflow(data)
    problems = faults + [show(path, f"{label_of(path)}{what}") for path, what in reader.problems[: MAX_PROBLEMS + 1]]
    if workflow is not None and not problems:
        try:
            validate(workflow, known and known.agents, known and known.capabilities, known and known.tool_faults)
        except UnknownAgent as error:
            lines = [show(reader.path_of(problem), problem) for problem in error.message.split("\n")]
            raise UnknownAgent("\n".join(lines), details=error.details) from None
        except WorkflowInvalid as error:
            problems = [show(reader.path_of(problem), problem) for problem in error.problems]
    if workflow is None or problems:
        more = ["and more: correct these first"] if len(problems) > MAX_PROBLEMS else []
        raise WorkflowInvalid(problems[:MAX_PROBLEMS] + more, origin=origin)
    return workflow


class _Reader:
    """Turns data into a definition, and goes on after a problem to find the others."""

    def __init__(self) -> None:
        self.problems: list[tuple[Path, str]] = []
        self._paths: dict[str, Path] = {}

    def workflow(self, data: Any) -> WorkflowDefinition | None:
        """Give the definition, which is incomplete if there are problems."""
        if not isinstance(data, Mapping) or not data:
            what = "it is empty" if not data else f"it is {kind_of(data)}, but a workflow has the keys name and tasks"
            self.problems.append(((), f"{what}: {_SAMPLE}"))
            return None
        keys = [*WorkflowDefinition.model_fields, DEFAULTS]
        for key in data:
            if key not in keys:
                self.problems.append(((key,), _unknown_key(str(key), keys)))
        defaults = self._defaults(data.get(DEFAULTS))
        entries = self._entries(data.get("tasks"))
        read = [task for path, fields in entries for task in self._task(path, merged(defaults, fields))]
        rest = {key: data[key] for key in keys if key not in {"tasks", DEFAULTS} and data.get(key) is not None}
        try:
            return WorkflowDefinition(tasks=tuple(self._without_else(read)), **rest)
        except ValidationError as error:
            self._add((), error)
            return None

    def _defaults(self, given: Any) -> Mapping[str, Any]:
        """Give what tasks have that say nothing else, as it is written; nothing of it where it has problems."""
        if given is None:
            return {}
        try:
            TaskDefaults.model_validate(given)
        except ValidationError as error:
            self._add((DEFAULTS,), error, {(): TaskDefaults})
            return {}
        return given

    def path_of(self, problem: str) -> Path:
        """Give the path in the data of what `tasks.editor.after: ...` is about."""
        first, *rest = problem.partition(": ")[0].split(".")
        if first != "tasks" or not rest:
            return (first, *rest) if first in WorkflowDefinition.model_fields else ()
        return (*self._paths.get(rest[0], ("tasks", rest[0])), *rest[1:])

    def _entries(self, tasks: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Give each task's fields with their path; its id is a field, whatever it is in the data."""
        if isinstance(tasks, Mapping):
            for key, fields in tasks.items():
                if isinstance(fields, Mapping | None) and "id" not in (fields or {}):
                    yield ("tasks", key), {"id": key, **(fields or {})}
                else:
                    what = "the id of a task is its key: remove this one" if isinstance(fields, Mapping) else _A_TASK
                    self.problems.append((("tasks", key), what))
        elif isinstance(tasks, list | tuple):
            for index, fields in enumerate(tasks):
                if isinstance(fields, Mapping) and "id" in fields:
                    yield ("tasks", index), dict(fields)
                else:
                    self.problems.append((("tasks", index), f"{_A_TASK}, and its id"))
        else:
            self.problems.append((("tasks",), f"expected tasks by their id, found {kind_of(tasks)}: {_SAMPLE}"))

    def _task(self, path: Path, fields: dict[str, Any]) -> Iterator[TaskDefinition]:
        """Give the one task, or none if it has problems. A key without a value counts as absent."""
        given = {key: value for key, value in fields.items() if value is not None}
        if given.keys().isdisjoint(("agent", "capability", *NODE_KINDS)):
            given["agent"] = fields["id"]
        if isinstance(given.get("after"), str):
            given["after"] = [given["after"]]
        try:
            task = TaskDefinition.model_validate(given)
        except ValidationError as error:
            self._add(path, error)
            return
        self._paths[task.id] = path
        yield task

    def _without_else(self, tasks: list[TaskDefinition]) -> Iterator[TaskDefinition]:
        """Replace `when: else` by the condition that no other one after the same tasks holds."""
        conditions: dict[frozenset[str], list[str]] = {}
        for task in tasks:
            if task.when and task.when != _ELSE:
                conditions.setdefault(frozenset(task.after), []).append(task.when)
        for task in tasks:
            others = conditions.get(frozenset(task.after), [])
            if task.when == _ELSE and not others:
                what = "there is no other task with a condition after the same tasks: nothing to be the `else` of"
                self.problems.append(((*self._paths[task.id], "when"), what))
            when = condition.none_of(*others) if task.when == _ELSE and others else task.when
            yield task.model_copy(update={"when": when})

    def _add(self, path: Path, error: ValidationError, models: Mapping[Path, type[BaseModel]] | None = None) -> None:
        """Add pydantic's problems in our words, one for each place."""
        found: dict[Path, str] = {}
        for detail in error.errors(include_url=False):
            place, what = _describe(detail, {**_MODELS, **(models or {})})
            # An agent that was not given is the id, and as wrong.
            if place != ("agent",) or what != found.get(("id",)):
                found.setdefault(place, what)
        self.problems += [(path + (() if place == ("id",) else place), what) for place, what in found.items()]


def _describe(error: ErrorDetails, models: Mapping[Path, type[BaseModel]]) -> tuple[Path, str]:
    place = error["loc"]
    match place:
        case ("on_error", *_):
            return ("on_error",), "expected fail, continue, or {fallback: another_agent}"
        case ("condition", _, *_):
            return _of_branch(error)
        case ("inputs", name, *_):
            return _of_input(error, name)
        case _:
            return place, _what(error, models)


def _what(error: ErrorDetails, models: Mapping[Path, type[BaseModel]]) -> str:
    place = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(str(place[-1]), list(models.get(place[:-1], TaskDefinition).model_fields))
        case "string_pattern_mismatch":
            given = error["input"]
            is_model = place[-1] == "model"
            return f"{MODEL_RULE}, found {given!r}" if is_model else f"{given!r} is no name: {_NAME_RULE}"
        case "tuple_type":
            return f"expected a list of ids, found {kind_of(error['input'])}"
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case _:
            what = error["msg"].replace("datetime.timedelta(0)", "0 seconds")
            return f"{what[:1].lower()}{what[1:]}, found {kind_of(error['input'])}"


def _of_input(error: ErrorDetails, name: str | int) -> tuple[Path, str]:
    """Describe what is wrong with an input of the workflow, its name or its schema."""
    if error["type"] != "input_schema":
        return ("inputs", name), f"{name!r} is no name of an input: letters, digits and _, not a digit first"
    told = error.get("ctx", {})
    hint = did_you_mean(str(told["word"]), told["known"]) if told.get("word") else ""
    return ("inputs", name, *told["path"]), f"{told['message']}{hint}"


def _of_branch(error: ErrorDetails) -> tuple[Path, str]:
    """Describe what is wrong with a branch, which stands in a file under its name."""
    given: Any = error["input"]
    if error["loc"][-1] == "name":
        return ("condition", str(given)), f"{given!r} is no name: {_NAME_RULE}"
    return ("condition",), f"a branch is taken by an expression, or `else`: found {kind_of(given)}"


def _unknown_key(key: str, known: list[str]) -> str:
    return f"unknown key {key!r}{did_you_mean(key, known) or ', the keys are ' + ', '.join(known)}"
