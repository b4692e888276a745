"""Versions of workflows as commands print them: those that are stored, those of files, and how two of them differ."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from orchestrator.contracts.policy import Value

#: So many characters of a digest tell versions apart for people.
SHORT = 12


class WorkflowVersion(Value):
    """A stored version of a workflow. `version` is the beginning of the `digest` of its content.

    `first_seen` is when it was stored, with the first run that had it. The `latest` of a name is the one that was used last;
    `versions` counts those of the name. A version that no run has is deleted some time after its last one.
    """

    name: str
    version: str
    digest: str
    first_seen: datetime
    last_run_at: datetime | None
    runs: int
    versions: int
    latest: bool


class FileProblem(Value):
    """What is wrong with a workflow file, and where."""

    line: int | None
    column: int | None
    message: str


class WorkflowFile(Value):
    """A file of a workflow as it was checked.

    `stored` says how its content stands to what is stored: the `latest` version of its name, an `older` one, `changed` since,
    or `new`, where nothing of this name is stored; None where that was not looked up, or the file has problems.
    """

    file: str
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    tasks: int | None = None
    stored: Literal["latest", "older", "changed", "new"] | None = None
    problems: tuple[FileProblem, ...] = ()


class Difference(Value):
    """One thing that two workflows do not have in common: its place, such as `tasks.editor.after`, and both values.

    `order` says that the same tasks stand in another order.
    """

    place: str
    change: Literal["added", "removed", "changed", "order"]
    before: Any = None
    after: Any = None


class Side(Value):
    """One of two workflows that were compared, and where it comes from."""

    source: str
    name: str
    version: str


class WorkflowComparison(Value):
    """How two workflows differ; they are `same` where their digests are equal."""

    schema_version: Literal[1] = 1
    before: Side
    after: Side
    same: bool
    differences: tuple[Difference, ...] = Field(default=())
