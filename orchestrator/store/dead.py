"""Agent runs that failed for good: read, and opened again with another input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.clock import run_id_of
from orchestrator.contracts.dead import DeadAgentRun
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import AgentRunState, ErrorInfo, RunSummary
from orchestrator.contracts.subwork import SubworkState
from orchestrator.errors import AgentCrashed, RunStateConflict
from orchestrator.store.database import Database, Session, times
from orchestrator.store.runs import Runs
from orchestrator.store.unsending import unsend


@dataclass(frozen=True, slots=True)
class Details:
    """How an agent run stands; `own_input` is JSON text."""

    state: AgentRunState
    run_id: str
    own_input: str | None
    recorded: int


def dead_of(database: Database, runs: Sequence[RunSummary]) -> list[DeadAgentRun]:
    """Give the agent runs that failed of some runs, in the order of the runs."""
    ids = [run.id for run in runs]
    rows = database.execute(lambda session: session.rows("dead_of_runs", ids=ids)) if ids else []
    found = {run.id: run for run in runs}
    order = {identity: number for number, identity in enumerate(ids)}
    dead: list[DeadAgentRun] = []
    for identity, run_id, task, agent, failures, crashes, worker, error, started_at, finished_at in sorted(
        rows, key=lambda row: order[row[1]]
    ):
        info = None if error is None else ErrorInfo.model_validate_json(error)
        dead.append(
            DeadAgentRun(
                id=identity,
                run_id=run_id,
                task=task,
                agent=agent,
                project=found[run_id].project,
                workflow=found[run_id].workflow,
                quarantined=info is not None and info.code == AgentCrashed.code,
                error=info,
                failures=failures,
                crashes=crashes,
                worker=worker,
                started_at=times(started_at),
                finished_at=times(finished_at),
            )
        )
    return dead


def details_of(database: Database, agent_run_id: str) -> Details | None:
    """Give how an agent run stands, None if there is none of this id."""
    row = database.execute(lambda session: session.row("dead_details", id=agent_run_id))
    return None if row is None else Details(AgentRunState(row[0]), row[1], row[2], row[3])


def is_wanted(database: Database, agent_run_id: str) -> bool:
    """Tell whether an agent run of sub-work that has failed goes on when its caller does: only if that failed of it."""
    resumed = {SubworkState.FAILED, SubworkState.STOPPED}
    identity: str | None = agent_run_id
    while identity is not None:
        row = database.execute(lambda session, identity=identity: session.row("asker_of", id=identity))
        if row is not None and (row[0] not in resumed or row[1] not in {None, "void", "begun"}):
            return False
        identity = None if row is None else row[2]
    return True


def redrive(runs: Runs, agent_run_id: str, own_input: str | None) -> tuple[Dispatch, ...]:
    """Open the run of a failed agent run again, as a retry does, and give what is ready.

    Its recorded effects are kept; with an input of its own (JSON text) it starts anew. Raises `RunStateConflict`.
    """
    return runs.reopen(run_id_of(agent_run_id), None if own_input is None else _anew(agent_run_id, own_input))


def _anew(agent_run_id: str, own_input: str) -> Callable[[Session], None]:
    def change(session: Session) -> None:
        if session.run("redrive_row", id=agent_run_id, input=own_input) != 1:
            raise RunStateConflict(f"agent run {agent_run_id} has not failed: only a failed one takes another input")
        session.run("redrive_journal", id=agent_run_id)
        session.run("void_subwork_of", parent_id=agent_run_id)
        unsend(session, run_id_of(agent_run_id))

    return change
