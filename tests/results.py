"""Values that commands get to show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.run import AgentRunResult, AgentRunState, RunResult, RunState
from orchestrator.contracts.usage import Usage

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
RUN = "01a1f8e2-2a12-7db5-bf29-1320ff100000"


def part(task: str = "reader", **changes: Any) -> AgentRunResult:
    values: dict[str, Any] = {
        "id": RUN,
        "task": task,
        "agent": task,
        "state": AgentRunState.SUCCEEDED,
        "epoch": 1,
        "failures": 0,
        "crashes": 0,
        "worker": None,
        "model": None,
        "output": None,
        "error": None,
        "usage": Usage(),
        "queued_at": START,
        "started_at": START + timedelta(seconds=1),
        "finished_at": START + timedelta(seconds=3.5),
    }
    return AgentRunResult(**{**values, **changes})


def result(*parts: AgentRunResult, **changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "id": RUN,
        "project": "press",
        "workflow": "demo",
        "state": RunState.SUCCEEDED,
        "input": {},
        "output": None,
        "error": None,
        "agent_runs": parts,
        "usage": Usage(),
        "warnings": (),
        "created_at": START,
        "started_at": START,
        "finished_at": START + timedelta(seconds=75),
    }
    return RunResult(**{**values, **changes})


def event(**changes: Any) -> RunEvent:
    values: dict[str, Any] = {
        "cursor": "c",
        "kind": "agent_run",
        "run_id": RUN,
        "task": "reader",
        "agent": "reader",
        "state": "running",
        "at": START,
    }
    return RunEvent(**{**values, **changes})
