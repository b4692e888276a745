"""What is said of a namespace that no task has."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import did_you_mean


def unknown_task(namespace: str, tasks: Sequence[str]) -> InputInvalid:
    """Give the error of who looks into the part of a task that the run does not have."""
    hint = did_you_mean(namespace, tasks) or f": its tasks are {', '.join(tasks)}"
    return InputInvalid(f"ctx.state.of({namespace!r}): the run has no task {namespace!r}{hint}")
