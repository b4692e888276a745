"""States of runs and agent runs, what may follow what, and the result as everybody gets to see it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage


class RunState(StrEnum):
    """A run is `pending` until the first of its agent runs is claimed."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


class AgentRunState(StrEnum):
    """`blocked` waits for other tasks, `queued` for a worker, `suspended` for an event."""

    BLOCKED = "blocked"
    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        return self in {
            AgentRunState.SUCCEEDED,
            AgentRunState.FAILED,
            AgentRunState.CANCELLED,
            AgentRunState.SKIPPED,
        }


#: Every change of state that the store may make. Final states change only by a retry of the whole run, which puts what
#: did not succeed back to `blocked` or `queued`.
RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}),
    RunState.RUNNING: frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}),
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset({RunState.PENDING}),
    RunState.CANCELLED: frozenset({RunState.PENDING}),
}

_S = AgentRunState
AGENT_RUN_TRANSITIONS: Mapping[AgentRunState, frozenset[AgentRunState]] = {
    # What is decided without a worker (a condition, the run's output) succeeds as it stands.
    _S.BLOCKED: frozenset({_S.QUEUED, _S.SKIPPED, _S.CANCELLED, _S.FAILED, _S.SUCCEEDED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.CANCELLED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.SUSPENDED, _S.QUEUED}),
    _S.SUSPENDED: frozenset({_S.QUEUED, _S.CANCELLED, _S.FAILED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset({_S.BLOCKED, _S.QUEUED}),
    _S.CANCELLED: frozenset({_S.BLOCKED, _S.QUEUED}),
    _S.SKIPPED: frozenset({_S.BLOCKED, _S.QUEUED}),
}


#: A field that is left out where it says nothing.
_told: Any = Field(default=None, exclude_if=lambda value: value is None)


class ErrorInfo(Value):
    """An error as data; `task` names the task that raised it.

    `retry_after` is in seconds, `details` are what the error carries, `cause` is the error behind it, as data too. `kind` is
    the code of the nearest error of ours where the code is an author's own.
    """

    code: str
    message: str
    retryable: bool = False
    task: str | None = None
    kind: str | None = _told
    retry_after: float | None = _told
    details: dict[str, Any] | None = _told
    cause: dict[str, Any] | None = _told

    @property
    def pauses_job(self) -> bool:
        """Whether a provider has said that no call of this account can succeed: its credit is used up, say."""
        return (self.details or {}).get("pause") == "job" or ((self.cause or {}).get("details") or {}).get(
            "pause"
        ) == "job"


class AgentRunResult(Value):
    """One task's part of a run as it is now; `undoes` is the task that a compensation takes back.

    `called_by` is the task that has called for it, of what is no task of the workflow, and `step` what that calls it: the task of
    a nested workflow, a route, a member of a team. It is `superseded` if its caller has asked for something else in its place
    since.
    """

    id: str
    task: str
    agent: str
    state: AgentRunState
    epoch: int
    failures: int
    crashes: int
    worker: str | None
    model: str | None
    output: Any
    error: ErrorInfo | None
    usage: Usage
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    undoes: str | None = None
    #: It ended so in the run that this one is a fork of; nobody has done it, or paid for it, again.
    copied: bool = False
    #: While it is suspended: what for, and until when at the latest.
    waiting_for: str | None = None
    wake_at: datetime | None = None
    called_by: str | None = _told
    superseded: bool = Field(default=False, exclude_if=lambda value: not value)
    step: str | None = _told


class RunResult(Value):
    """A run as it is now: what `run --json`, `runs show --json` and every handle give.

    `agent_runs` are in topological order, compensations behind them, then what was called for; `usage` is their sum.
    `warnings` name what may keep the run from ending. `ending` is what the run ends as once what it did is undone, and what
    it ended as when it is. At `deadline_at` it fails if it has not ended. `forked_from` is the run whose recorded past it
    shares. `user` is whom it is charged to, `variant` the evaluation's variant or experiment's arm that it is counted with,
    such as `titles/terse`.
    """

    schema_version: Literal[1] = 1
    id: str
    project: str
    workflow: str
    state: RunState
    input: Any
    output: Any
    error: ErrorInfo | None
    agent_runs: tuple[AgentRunResult, ...]
    usage: Usage
    warnings: tuple[str, ...]
    ending: RunState | None = None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None = None
    forked_from: str | None = None
    user: str | None = None
    variant: str | None = _told


class RunSummary(Value):
    """A run as a line of a list."""

    id: str
    project: str
    workflow: str
    state: RunState
    error: ErrorInfo | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    variant: str | None = _told


class RunFilter(Value):
    """Which runs are meant: those that meet every condition that is given; all of them without any.

    `error` is the code of the error that failed a run, `workflow` a workflow's name. `since` and `before` are about when
    a run was created, `ended_before` is about when it ended; they must be aware. `variant` is what a run is counted with.
    """

    project: str | None = None
    states: tuple[RunState, ...] = ()
    workflow: str | None = None
    variant: str | None = None
    error: str | None = None
    since: AwareDatetime | None = None
    before: AwareDatetime | None = None
    ended_before: AwareDatetime | None = None
