"""Versions of workflows and their differences as text: no effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.stored import Difference, WorkflowComparison, WorkflowFile, WorkflowVersion

_SHOWN = 160
_TASKS = "tasks."


def versions(rows: Sequence[WorkflowVersion], *, every: bool) -> str:
    """Give stored workflows as a table; `every` says that a name may have several lines."""
    headers = ("workflow", "version", *(("",) if every else (">versions",)), "first seen", "last run", ">runs")
    return render.table(headers, [_row(row, every=every) for row in rows])


def _row(row: WorkflowVersion, *, every: bool) -> tuple[str, ...]:
    return (
        render.one_line(row.name, 60),
        row.version,
        ("latest" if row.latest else "") if every else f"{row.versions:,}",
        render.moment(row.first_seen),
        "-" if row.last_run_at is None else render.moment(row.last_run_at),
        f"{row.runs:,}",
    )


def files(rows: Sequence[WorkflowFile]) -> str:
    """Give files of workflows as a table."""
    told = {
        "latest": "the latest version",
        "older": "an older version",
        "changed": "changed since",
        "new": "not stored",
    }
    return render.table(
        ("file", "workflow", "version", ">tasks", "stored"),
        [
            (
                row.file,
                render.one_line(row.name or "-", 60),
                row.version or "-",
                "-" if row.tasks is None else f"{row.tasks:,}",
                count(len(row.problems), "problem") if row.problems else told.get(row.stored or "", "-"),
            )
            for row in rows
        ],
    )


def comparison(found: WorkflowComparison) -> str:
    """Give how two workflows differ: what is about the workflow itself, then each task with its fields."""
    title = f"{render.one_line(found.before.source)} -> {render.one_line(found.after.source)}"
    if found.same:
        return f"{title}: no difference"
    return "\n".join([f"{title}: {count(len(found.differences), 'difference')}", *_lines(found.differences)])


def _lines(found: Sequence[Difference]) -> Iterator[str]:
    of: str | None = None
    for each in found:
        task, field = _place(each.place)
        if task is None:
            yield f"  {field}: {_told(each)}"
        elif not field:
            yield f"  task {task}: {_told(each)}"
        else:
            if task != of:
                yield f"  task {task}"
            yield f"    {field}: {_told(each)}"
        of = task


def _place(place: str) -> tuple[str | None, str]:
    """Give the task that a place is in, and the field in it."""
    if not place.startswith(_TASKS):
        return None, place
    task, _, field = place.removeprefix(_TASKS).partition(".")
    return task, field


def _told(each: Difference) -> str:
    match each.change:
        case "added":
            return f"added, {_value(each.after)}"
        case "removed":
            return f"removed, it was {_value(each.before)}"
        case "order":
            return f"in another order, {_value(each.after)}"
        case _:
            return f"{_value(each.before)} -> {_value(each.after)}"


def _value(value: Any) -> str:
    import json

    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return render.one_line(text, _SHOWN)


def count(number: int, one: str) -> str:
    """Give a number of things in words."""
    return f"{number:,} {one if number == 1 else one + 's'}"
