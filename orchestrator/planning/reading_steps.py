"""Steps as a file has them: names of agents, fields of tasks, expressions, files; each is read at its own place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.contracts.composite import NO_PLACE, PLACED, STEP, as_step
from orchestrator.contracts.kinds import NAME_PATTERN, NODE_KINDS
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.planning.defaults import merged
from orchestrator.planning.hints import kind_of
from orchestrator.planning.notes import Notes
from orchestrator.planning.source import Path
from orchestrator.planning.steps import ONE, SEVERAL

_A_STEP = "expected an agent's name, or the fields of a task, such as {agent: writer, retry: {retries: 1}}"

#: Stands for what has problems, so that what is around it is read too.
UNREAD = TaskDefinition(id=STEP, agent=STEP)

#: Makes a task of what is said of one at a path of the data and at a place, with the defaults for what is inside of it.
Build = Callable[[Path, str, Mapping[str, Any], Mapping[str, Any]], TaskDefinition | None]


class StepReader:
    """Reads the steps of loops, maps, routers and teams; what is wrong with one is noted."""

    def __init__(self, notes: Notes, build: Build) -> None:
        self._notes = notes
        self._build = build

    def with_steps(
        self, kind: str, given: Mapping[str, Any], path: Path, place: str, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Give what a task of a kind says, with its steps read."""
        fields = present(given)
        for name in ONE[kind]:
            if name in fields:
                fields[name] = self._step(fields[name], (*path, name), f"{place}.{name}", defaults)
        for name in SEVERAL.get(kind, ()):
            if name in fields:
                fields[name] = self._members(fields[name], (*path, name), f"{place}.{name}", defaults)
        return fields

    def _members(self, given: Any, path: Path, place: str, defaults: Mapping[str, Any]) -> Any:
        """Give named steps as a list: from an object, or from a list of agents and of `{name, do}`."""
        if isinstance(given, Mapping):
            named: Mapping[str, Any] = given
            return [
                {"name": name, "do": self._step(step, (*path, name), f"{place}.{name}", defaults, name)}
                for name, step in named.items()
            ]
        if not isinstance(given, list | tuple):
            return given  # told with what else is wrong with the task
        return [
            self._member(each, (*path, index), place, defaults)
            for index, each in enumerate(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        ]

    def _member(self, given: Any, path: Path, place: str, defaults: Mapping[str, Any]) -> Any:
        match given:
            case str() if re.fullmatch(NAME_PATTERN, given):
                return {"name": given, "do": self._step(given, path, f"{place}.{given}", defaults)}
            case {"name": str(name), **rest}:
                step = self._step(rest.get("do"), (*path, "do"), f"{place}.{name}", defaults, name)
                return {**given, "do": step}  # pyright: ignore[reportUnknownVariableType]
            case _:
                what = f"expected an agent's name, or {{name: ..., do: ...}}, found {kind_of(given)}"
                self._notes.problem(path, f"{what}; with names it may also be an object: {{first: agent}}")
                return {"name": f"{STEP}_{len(self._notes.problems)}", "do": UNREAD}

    def _step(
        self, given: Any, path: Path, place: str, defaults: Mapping[str, Any], name: str | None = None
    ) -> TaskDefinition:
        """Give a step; `name` is the agent where it says nothing else, text that is no name an expression or a file."""
        fields: dict[str, Any]
        match given:
            case str():
                fields = {"agent" if re.fullmatch(NAME_PATTERN, given) else "workflow": given}
            case Mapping():
                fields = present(given)
            case None if name is not None:
                fields = {}
            case _:
                self._notes.problem(path, f"{_A_STEP}; found {kind_of(given)}")
                return UNREAD
        if "id" in fields and fields["id"] != STEP:
            self._notes.problem((*path, "id"), "nobody refers to a step, so it has no id: leave it out")
        if name is not None and fields.keys().isdisjoint(("agent", "capability", *NODE_KINDS)):
            fields["agent"] = name
        for word in PLACED:
            if fields.pop(word, None) is not None:
                self._notes.problem((*path, word), f"{word} {NO_PLACE}")
        made = self._build(path, place, merged(defaults, {**fields, "id": STEP}, is_step=True), defaults)
        try:
            return UNREAD if made is None else as_step(made)
        except ValueError as error:
            self._notes.problem(path, str(error))
            return UNREAD


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give fields without those that have no value."""
    return {key: value for key, value in fields.items() if value is not None}
