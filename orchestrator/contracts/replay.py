"""What a replay of an agent run came to."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from orchestrator.contracts.policy import Value
from orchestrator.contracts.run import AgentRunState, ErrorInfo


class Verdict(StrEnum):
    """`unfinished`: the same as far as it is recorded, and there is no recorded end to compare with."""

    SAME = "same"
    DIFFERENT = "different"
    UNFINISHED = "unfinished"


class ReplayedEffect(Value):
    """An effect that the agent asked for and was given from the journal; texts are cut."""

    slot: str
    kind: str
    request: str | None
    state: Literal["done", "failed"]
    outcome: str


class Replay(Value):
    """An agent run executed again on what it has recorded: what it asked, what it got, and how that ended here.

    `recorded_state`, `recorded_output` and `recorded_error` say how it stands in the database, `version` and
    `recorded_versions` which code of the agent was executed here and there.
    """

    schema_version: Literal[1] = 1
    run_id: str
    agent_run_id: str
    task: str
    agent: str
    verdict: Verdict
    reason: str
    effects: tuple[ReplayedEffect, ...]
    output: Any
    error: ErrorInfo | None
    recorded_state: AgentRunState
    recorded_output: Any
    recorded_error: ErrorInfo | None
    version: str
    recorded_versions: tuple[str, ...]
