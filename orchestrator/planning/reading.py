"""Data shaped like a workflow file, read into a definition: every problem at its place, through all that is inside of tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from orchestrator.contracts.kinds import KINDS, NODE_KINDS
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import UsageError, WorkflowInvalid
from orchestrator.planning import condition
from orchestrator.planning.defaults import DEFAULTS, TaskDefaults, laid_over, merged
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.faults import unknown_key
from orchestrator.planning.hints import kind_of
from orchestrator.planning.notes import Data, Notes
from orchestrator.planning.reading_steps import UNREAD, StepReader, present
from orchestrator.planning.source import Path
from orchestrator.planning.steps import ONE

#: How deep files may name files.
MAX_FILES_DEEP = 8
#: Steps in steps, as they are written: far below Python's own bound on recursion.
_MAX_PATH = 200

_ELSE = "else"
_SAMPLE = "write for example `tasks: {reader: {}, editor: {after: [reader]}}`"
_A_TASK = "expected the task's fields, such as {agent: reader, after: [other]}"
_FILE = re.compile(r".*\.(ya?ml|json)|.*/.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Shelf:
    """The files that a workflow is read from: each is read once, and none is a part of itself."""

    open: Callable[[FilePath], Data]
    readers: dict[FilePath, Reader] = field(default_factory=dict["FilePath", "Reader"])
    #: Those that are being read, the one in the other.
    stack: list[FilePath] = field(default_factory=list[FilePath])


class Reader:
    """Turns the data of one file into a definition, and goes on after a problem to find the others.

    `open_file` gives the data of a file that it names; raises `UsageError` or `WorkflowInvalid`.
    """

    def __init__(self, data: Data, open_file: Callable[[FilePath], Data], shelf: _Shelf | None = None) -> None:
        self._data = data
        self._shelf = _Shelf(open_file) if shelf is None else shelf
        self.notes = Notes(data)
        self._steps = StepReader(self.notes, self._built)
        self.workflow = self._read_whole()

    # Workflows --------------------------------------------------------------------------------------------------------

    def _read_whole(self) -> WorkflowDefinition | None:
        named = None if self._data.path is None else self._data.path.resolve()
        if named is None:
            return self._workflow(self._data.value, (), "", {})
        self._shelf.stack.append(named)
        try:
            return self._workflow(self._data.value, (), "", {})
        finally:
            self._shelf.stack.pop()

    def _workflow(self, data: Any, path: Path, place: str, defaults: Mapping[str, Any]) -> WorkflowDefinition | None:
        """Give the definition, which is incomplete if there are problems; `place` begins those of its tasks."""
        if not isinstance(data, Mapping) or not data:
            what = "it is empty" if not data else f"it is {kind_of(data)}, but a workflow has the keys name and tasks"
            self.notes.problem(path, f"{what}: {_SAMPLE}")
            return None
        fields: Mapping[str, Any] = data
        keys = [*WorkflowDefinition.model_fields, DEFAULTS]
        for key in fields:
            if key not in keys:
                self.notes.problem((*path, key), unknown_key(str(key), keys))
        defaults = laid_over(self._defaults(fields.get(DEFAULTS), (*path, DEFAULTS)), defaults)
        entries = self._entries(fields.get("tasks"), (*path, "tasks"))
        read = [each for where, given in entries for each in self._task(where, place, given, defaults)]
        rest = {key: fields[key] for key in keys if key not in {"tasks", DEFAULTS} and fields.get(key) is not None}
        try:
            return WorkflowDefinition(tasks=tuple(self._without_else(read)), **rest)
        except ValidationError as error:
            self.notes.add(path, error, fields)
            return None

    def _defaults(self, given: Any, path: Path) -> Mapping[str, Any]:
        """Give what tasks have that say nothing else, as it is written; nothing of it where it has problems."""
        if given is None:
            return {}
        try:
            TaskDefaults.model_validate(given)
        except ValidationError as error:
            self.notes.add(path, error, given, {(): TaskDefaults})
            return {}
        return given

    def _nested(self, given: Any, path: Path, place: str, defaults: Mapping[str, Any]) -> WorkflowDefinition:
        """Give a workflow that is a task: a file, an expression, or what a file has."""
        match given:
            case str() if _FILE.fullmatch(given):
                made = self._included(given, path, place)
            case str():
                made = self._expression(given, path, place, defaults)
            case Mapping():
                self.notes.places[place] = path
                made = self._workflow(given, path, f"{place}.", defaults)
            case _:
                self.notes.problem(
                    path, f"expected a file, an expression, or a workflow with its tasks, found {kind_of(given)}"
                )
                made = None
        return WorkflowDefinition(tasks=(UNREAD,)) if made is None else made

    def _included(self, name: str, path: Path, place: str) -> WorkflowDefinition | None:
        """Give the workflow of a file, which is named from the folder of this one on."""
        stack = self._shelf.stack
        file = (FilePath() if self._data.path is None else self._data.path.parent) / name
        key = file.resolve()
        if key in stack:
            circle = " -> ".join(each.name for each in (*stack[stack.index(key) :], key))
            self.notes.problem(path, f"these files are parts of themselves: {circle}")
            return None
        if len(stack) >= MAX_FILES_DEEP:
            self.notes.problem(path, f"files name files more than {MAX_FILES_DEEP} deep, and this is one more")
            return None
        if key not in self._shelf.readers:
            try:
                data = self._shelf.open(file)
            except WorkflowInvalid as error:
                self.notes.problems += error.problems
                return None
            except UsageError as error:
                self.notes.problem(path, error.message)
                return None
            self._shelf.readers[key] = Reader(data, self._shelf.open, self._shelf)
            self.notes.problems += self._shelf.readers[key].notes.problems
        self.notes.places[place] = self._shelf.readers[key].notes
        return self._shelf.readers[key].workflow

    def _expression(self, text: str, path: Path, place: str, defaults: Mapping[str, Any]) -> WorkflowDefinition | None:
        self.notes.places[place] = path
        try:
            tasks = parse_expression(text).tasks
        except WorkflowInvalid as error:
            self.notes.problem(path, error.problems[0].split("\n")[0])
            return None
        plain = ({"id": each.id, "agent": each.agent, "after": each.after} for each in tasks)
        made = (self._built(path, f"{place}.tasks.{each['id']}", laid_over(each, defaults), {}) for each in plain)
        return WorkflowDefinition(tasks=tuple(task for task in made if task is not None))

    # Tasks ------------------------------------------------------------------------------------------------------------

    def _entries(self, tasks: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Give each task's fields with their path; its id is a field, whatever it is in the data."""
        if isinstance(tasks, Mapping):
            named: Mapping[Any, Any] = tasks
            for key, fields in named.items():
                if isinstance(fields, Mapping | None) and "id" not in (fields or {}):
                    yield (*path, key), {"id": key, **(fields or {})}
                else:
                    what = "the id of a task is its key: remove this one" if isinstance(fields, Mapping) else _A_TASK
                    self.notes.problem((*path, key), what)
        elif isinstance(tasks, list | tuple):
            for index, fields in enumerate(tasks):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                if isinstance(fields, Mapping) and "id" in fields:
                    yield (*path, index), dict(fields)  # pyright: ignore[reportUnknownArgumentType]
                else:
                    self.notes.problem((*path, index), f"{_A_TASK}, and its id")
        else:
            self.notes.problem(path, f"expected tasks by their id, found {kind_of(tasks)}: {_SAMPLE}")

    def _task(
        self, path: Path, place: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> Iterator[tuple[TaskDefinition, Path]]:
        """Give the one task, or none if it has problems. A key without a value counts as absent."""
        given = present(merged(defaults, fields))
        if given.keys().isdisjoint(("agent", "capability", *NODE_KINDS)):
            given["agent"] = fields["id"]
        if isinstance(given.get("after"), str):
            given["after"] = [given["after"]]
        task = self._built(path, f"{place}tasks.{fields['id']}", given, defaults)
        if task is not None:
            yield task, path

    def _built(
        self, path: Path, place: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> TaskDefinition | None:
        """Give a task whose steps are read first, each at its own place."""
        self.notes.places[place] = path
        if len(path) > _MAX_PATH:
            self.notes.problem(path, "tasks are nested too deeply in each other")
            return None
        whole = dict(given)
        for kind in ONE:
            if kind in whole:
                if not isinstance(whole[kind], Mapping):
                    self.notes.problem((*path, kind), f"{KINDS[kind].write}; found {kind_of(whole[kind])}")
                    return None
                whole[kind] = self._steps.with_steps(kind, whole[kind], (*path, kind), f"{place}.{kind}", defaults)
        if "workflow" in whole:
            whole["workflow"] = self._nested(whole["workflow"], (*path, "workflow"), f"{place}.workflow", defaults)
        try:
            return TaskDefinition.model_validate(whole)
        except ValidationError as error:
            self.notes.add(path, error, given)
            return None

    def _without_else(self, tasks: list[tuple[TaskDefinition, Path]]) -> Iterator[TaskDefinition]:
        """Replace `when: else` by the condition that no other one after the same tasks holds."""
        conditions: dict[frozenset[str], list[str]] = {}
        for task, _ in tasks:
            if task.when and task.when != _ELSE:
                conditions.setdefault(frozenset(task.after), []).append(task.when)
        for task, path in tasks:
            others = conditions.get(frozenset(task.after), [])
            if task.when == _ELSE and not others:
                what = "there is no other task with a condition after the same tasks: nothing to be the `else` of"
                self.notes.problem((*path, "when"), what)
            when = condition.none_of(*others) if task.when == _ELSE and others else task.when
            yield task.model_copy(update={"when": when})
