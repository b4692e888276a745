"""What revoking a Celery id means: its run is cancelled, unless the agent run has been dispatched again since."""

from __future__ import annotations

from enum import StrEnum

from orchestrator.clock import run_id_of
from orchestrator.contracts.dispatch import agent_run_id_of
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import RunNotFound
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Session
from orchestrator.store.runs import Runs


class Revocation(StrEnum):
    """What a revoke has done."""

    CANCELLED = "its run is cancelled"
    ENDED = "its run had ended"
    SUPERSEDED = "it was dispatched again since, under another id"
    UNKNOWN = "there is no such agent run"


def revoke(runs: Runs, task_id: str, claim: Claim | None = None) -> Revocation:
    """Cancel the run that a Celery id belongs to; `claim` is what this process executes by that very id.

    A revoke reaches each worker in its own time. One that comes when the run has already been cancelled and retried names
    a dispatch of the past and must not cancel the run again. A dispatch of the past that is still being executed, since
    its successor was published for a message that only seemed to be lost, is cancelled like any other; so is one that
    waits for its next try, or for another worker.
    """
    try:
        agent_run_id = agent_run_id_of(task_id)
    except ValueError:
        return Revocation.UNKNOWN
    refused: list[Revocation] = []

    def is_current(session: Session) -> bool:
        row = session.row("agent_run_state", id=agent_run_id)
        if row is None:
            refused[:] = [Revocation.UNKNOWN]
            return False
        state, _, _, _, started_at, epoch, dispatch = row
        executed = claim is not None and (state, epoch) == (AgentRunState.RUNNING, claim.epoch)
        # Published again and not claimed yet: Celery's tools know only the id before. A retry of the run starts anew.
        waits = state == AgentRunState.QUEUED and started_at is not None
        refused[:] = [] if executed or waits or task_id.endswith(f".{dispatch}") else [Revocation.SUPERSEDED]
        return not refused

    try:
        cancelled = runs.cancel(run_id_of(agent_run_id), is_current)
    except RunNotFound:
        return Revocation.UNKNOWN
    return Revocation.CANCELLED if cancelled else (refused or [Revocation.ENDED])[0]
