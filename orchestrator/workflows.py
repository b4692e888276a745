"""Versions of workflows: which are stored, what one says, and how two of them differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.contracts.stored import SHORT, Side, WorkflowComparison, WorkflowVersion
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import UsageError, WorkflowInvalid
from orchestrator.planning.difference import differences
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.files import load_workflow, names_file
from orchestrator.planning.hints import did_you_mean
from orchestrator.service import Service
from orchestrator.store.workflows import StoredVersion

#: A version as people write it: the beginning of a digest.
_VERSION = re.compile(r"[0-9a-f]{6,32}")


@dataclass(frozen=True, slots=True)
class Named:
    """A workflow that somebody has named: what it says, and the stored version or the file that it comes from."""

    definition: WorkflowDefinition
    source: str
    version: WorkflowVersion | None = None

    @property
    def side(self) -> Side:
        """It as one side of a comparison."""
        return Side(source=self.source, name=self.definition.name, version=self.definition.digest[:SHORT])


def versions(service: Service, name: str | None = None, *, every: bool = False) -> list[WorkflowVersion]:
    """Give the stored workflows: the latest version of each name, or every version of one `name` or of all.

    What was used last comes first. Raises `UsageError` for a name that nothing stored has.
    """
    found = _versions(service.kernel.store.workflows.versions(name))
    if name is not None and not found:
        raise UsageError(_nothing_called(service, name))
    return found if every or name is not None else [each for each in found if each.latest]


def stored(service: Service, reference: str) -> Named:
    """Give a stored workflow: `name` (its latest version), `name@version`, or a version alone, of which six digits are enough.

    Raises `UsageError` where there is none, or more than one.
    """
    found = _stored(service, reference)
    if found is None:
        raise UsageError(_nothing_called(service, reference))
    return found


def meant(service: Callable[[], Service], text: str) -> Named:
    """Give the workflow that is meant: a file, an expression of several agents, a stored workflow, else one agent.

    No store is asked for a file, and for several agents.
    """
    if names_file(text):
        return Named(load_workflow(text), text)
    wrong: WorkflowInvalid | None = None
    expression: Named | None = None
    try:
        expression = Named(parse_expression(text), "expression")
    except WorkflowInvalid as error:
        wrong = error
    if expression is not None and len(expression.definition.tasks) > 1:
        return expression
    found = _stored(service(), text) or expression
    if found is None:
        raise UsageError(f"{_nothing_called(service(), text)}; nor is it an expression:\n{wrong and wrong.message}")
    return found


def compared(before: Named, after: Named) -> WorkflowComparison:
    """Give how two workflows differ."""
    found = differences(before.definition, after.definition)
    return WorkflowComparison(before=before.side, after=after.side, same=not found, differences=found)


def standing(service: Service, definition: WorkflowDefinition) -> Literal["latest", "older", "changed", "new"]:
    """Tell how a definition stands to what is stored of its name."""
    found = _versions(service.kernel.store.workflows.versions(definition.name))
    mine = next((each for each in found if each.digest == definition.digest), None)
    if mine is None:
        return "changed" if found else "new"
    return "latest" if mine.latest else "older"


def files_in(folder: Path) -> list[Path]:
    """Give the files of a folder, and of those in it, that look like workflows: YAML or JSON with `tasks`."""
    found = (path for suffix in ("yaml", "yml", "json") for path in folder.rglob(f"*.{suffix}"))
    return sorted(path for path in found if not _is_hidden(path, folder) and _has_tasks(path))


def _stored(service: Service, reference: str) -> Named | None:
    name, version = _parts(service, reference)
    if name is None:
        return None
    rows = service.kernel.store.workflows.versions(name)
    wanted = [row for row in rows if row.digest.startswith(version)] if version else rows[:1]
    if not wanted:
        there = ", ".join(row.digest[:SHORT] for row in rows[:5])
        raise UsageError(f"workflow {name!r} has no version {version!r}: its latest are {there}")
    if len(wanted) > 1:
        there = ", ".join(row.digest[:SHORT] for row in wanted[:5])
        raise UsageError(f"{reference!r} is the beginning of {len(wanted)} versions: {there}; write more of one")
    [row] = wanted
    told = next(each for each in _versions(rows) if each.digest == row.digest)
    plan = service.kernel.store.runs.plan(row.id)
    return Named(plan.workflow, f"{name}@{told.version}", told)


def _parts(service: Service, reference: str) -> tuple[str | None, str]:
    """Give name and version of what is named, None for what is not stored. A name may have any characters in it."""
    store = service.kernel.store.workflows
    if store.is_named(reference):
        return reference, ""
    name, at, version = reference.rpartition("@")
    if at and re.fullmatch(r"[0-9a-f]{1,32}", version) and store.is_named(name):
        return name, version
    if _VERSION.fullmatch(reference):
        names = store.names_of(reference)
        if len(names) > 1:
            raise UsageError(f"{reference!r} is the beginning of versions of {' and '.join(names)}: write name@version")
        if names:
            return names[0], reference
    return None, ""


def _versions(rows: list[StoredVersion]) -> list[WorkflowVersion]:
    """Give rows, the one that was used last first, as versions of their names."""
    counts = Counter(row.name for row in rows)
    seen: set[str] = set()
    found: list[WorkflowVersion] = []
    for row in rows:
        found.append(
            WorkflowVersion(
                name=row.name,
                version=row.digest[:SHORT],
                digest=row.digest,
                first_seen=row.created_at,
                last_run_at=row.last_run_at,
                runs=row.runs,
                versions=counts[row.name],
                latest=row.name not in seen,
            )
        )
        seen.add(row.name)
    return found


def _nothing_called(service: Service, text: str) -> str:
    names = dict.fromkeys(row.name for row in service.kernel.store.workflows.versions())
    hint = did_you_mean(text.partition("@")[0], names) or ";"
    return f"no stored workflow is called {text!r}{hint} `nightfleet workflows` lists them"


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def _has_tasks(path: Path) -> bool:
    """Tell whether a file has a line that begins with the key `tasks`: it need not be sound to be meant as a workflow."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return any(re.match(r"""(?:\{?\s{0,4})["']?tasks["']?\s*:""", line) for line in file)
    except OSError:
        return False
