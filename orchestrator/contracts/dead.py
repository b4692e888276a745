"""Agent runs that failed for good: what operators look at, and put on their way again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.contracts.policy import Value
from orchestrator.contracts.run import ErrorInfo


class DeadAgentRun(Value):
    """An agent run that failed for good, in a run that failed.

    `quarantined`: its process ended without an outcome, with nothing else in it, as often as the limit allows.
    """

    id: str
    run_id: str
    task: str
    agent: str
    project: str
    workflow: str
    quarantined: bool
    error: ErrorInfo | None
    failures: int
    crashes: int
    worker: str | None
    started_at: datetime | None
    finished_at: datetime | None


class DeadAgentRunDetails(DeadAgentRun):
    """The same with what it was given: `input`, as its agent gets it; `recorded` effects are not repeated by a redrive."""

    input: Any
    recorded: int
