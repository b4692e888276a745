"""`runs show --shared`: what the agents of a run share, as a terminal shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.shared import SharedValue, SharedValues

_HEADERS = ("key", ">version", "value", "of", "at")


def page(shared: SharedValues) -> str:
    """Give the values that all tasks share, then those of each task."""
    if not shared.values:
        return f"run {shared.run_id} shares nothing"
    parts = [f"run {shared.run_id}"]
    for namespace in sorted({value.namespace for value in shared.values}):
        values = sorted((value for value in shared.values if value.namespace == namespace), key=lambda value: value.key)
        title = f"of task {namespace}" if namespace else "shared by all tasks"
        parts.append(f"{title}\n{render.table(_HEADERS, map(_row, values))}")
    return "\n\n".join(parts)


def _row(value: SharedValue) -> tuple[str, ...]:
    text = value.value if isinstance(value.value, str) else json.dumps(value.value, ensure_ascii=False)
    return (
        render.one_line(value.key, 60),
        str(value.version),
        render.one_line(text, 60) or "-",
        value.task,
        render.moment(value.at),
    )
