"""What happened in a run, as a stream that can be taken up again after any event."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from orchestrator.contracts.policy import Value
from orchestrator.contracts.run import ErrorInfo

EventKind = Literal["run", "agent_run", "progress", "delta", "message"]


class RunEvent(Value):
    """One change: of the run (`task` is None), of an agent run, a progress line of an agent, or a piece of a model's answer.

    `message` is that line, and of an agent run that is suspended what it waits for. A `message` event is what `task` (None: the
    outside) has sent to the task `to` in its `data`, with its `type`, `body` and `priority`.

    A `delta` is `text` that stands at `offset`, in characters, in the answer to the model call at `slot` of an agent run. It
    follows what was told of that answer before, unless it says `restarted`: then what was told from `offset` on does not
    hold any more, since the model was asked again and answers otherwise.

    `step` is what a task that was called for is to its caller: the task of a nested workflow, a route, a member of a team.
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
    slot: str | None = None
    offset: int | None = None
    text: str | None = None
    restarted: bool = False
    step: str | None = Field(default=None, exclude_if=lambda value: value is None)
    at: datetime
