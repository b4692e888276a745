"""What is wrong with the data of a file, and where in it the tasks are that somebody may find something wrong with later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.planning.faults import faults_of
from orchestrator.planning.hints import label_of
from orchestrator.planning.source import Path


@dataclass(frozen=True, slots=True)
class Data:
    """What a file says, and how a problem at a place of it is shown; `faults` are those of its text."""

    value: Any
    show: Callable[[Path, str], str]
    faults: tuple[str, ...] = ()
    path: FilePath | None = None


@dataclass(slots=True)
class Notes:
    """The problems of a file, and the places of its tasks and steps; those of a file that is a part of it are in its notes."""

    data: Data
    problems: list[str] = field(init=False)
    places: dict[str, Path | Notes] = field(default_factory=dict["str", "Path | Notes"])

    def __post_init__(self) -> None:
        """Begin with what is wrong with the text."""
        self.problems = [*self.data.faults]

    def problem(self, path: Path, what: str) -> None:
        """Note a problem at a path of the data."""
        self.problems.append(self.data.show(path, f"{label_of(path)}{what}"))

    def add(
        self, path: Path, error: ValidationError, data: Any, models: Mapping[Path, type[BaseModel]] | None = None
    ) -> None:
        """Note pydantic's problems in our words, one for each place."""
        for place, what in faults_of(error, data, models):
            self.problem((*path, *place), what)

    def shown(self, problem: str) -> str:
        """Give a problem such as `tasks.editor.after: ...` with the line that it is about."""
        data, path = self.at(problem.partition(": ")[0].split("."))
        return data.show(path, problem)

    def at(self, steps: list[str]) -> tuple[Data, Path]:
        """Give where a place is: in which file, and where in that."""
        for count in range(len(steps), 0, -1):
            match self.places.get(".".join(steps[:count])):
                case None:
                    continue
                case Notes() as inside:
                    return inside.at(steps[count:])
                case path:
                    return self.data, (*path, *steps[count:])
        return self.data, tuple(steps) if steps and steps[0] in WorkflowDefinition.model_fields else ()
