"""What guards have found, as watchers are told of it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.contracts.effect import EventLine
from worker.guards.base import Finding


def line_of(findings: Sequence[Finding]) -> EventLine | None:
    """Give what watchers are told of findings, if there are any."""
    if not findings:
        return None
    data = {"guards": [each.model_dump(mode="json", exclude_defaults=True) for each in findings]}
    return EventLine("; ".join(each.told for each in findings), data)
