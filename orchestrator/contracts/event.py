"""What happened in a run, as a stream that can be taken up again after any event."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from orchestrator.contracts.policy import Value
from orchestrator.contracts.run import ErrorInfo

EventKind = Literal["run", "agent_run", "progress"]


class RunEvent(Value):
    """One change: of the run (`task` is None), of an agent run, or a progress line of an agent.

    `message` is that line, and of an agent run that is suspended what it waits for.

    `cursor` orders the events of a run; `run.events(after=cursor)` goes on behind this one.
    """

    schema_version: Literal[1] = 1
    cursor: str
    kind: EventKind
    run_id: str
    task: str | None
    agent: str | None
    state: str | None
    message: str | None = None
    error: ErrorInfo | None = None
    data: Any = None
    at: datetime
