"""What a run has recorded, as people get to see it: texts are cut and without secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from orchestrator.contracts.budget import Provenance
from orchestrator.contracts.policy import Value
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.usage import Usage


class RecordedError(Value):
    """An error that came out of an effect."""

    code: str
    message: str
    retryable: bool = False


class RecordedEffect(Value):
    """An effect: `slot` says where in the agent's code it happened, `epoch` which claim of the agent run recorded it.

    `request` and `outcome` are the beginnings of what was asked and of what came back, as JSON text. `provenance` is that of
    a model's answer: the provider, the cache, or an equal call that was in flight.
    """

    slot: str
    kind: str
    state: Literal["begun", "done", "failed", "void"]
    request: str | None
    outcome: str | None
    error: RecordedError | None
    usage: Usage | None
    model: str | None
    provenance: Provenance | None = None
    epoch: int
    milliseconds: int | None
    recorded_at: datetime


class RecordedTask(Value):
    """One task's part of a run: its effects as a tree, each before what happened inside of it."""

    agent_run_id: str
    task: str
    agent: str
    state: AgentRunState
    effects: tuple[RecordedEffect, ...]


class RunJournal(Value):
    """Everything that the agents of a run have recorded, tasks in topological order."""

    schema_version: Literal[1] = 1
    run_id: str
    tasks: tuple[RecordedTask, ...]
