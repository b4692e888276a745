"""How a run ends as failed or cancelled: what is open is cancelled, and what it did is undone where the workflow says how.

Compensations are agent runs of the same run, inserted when it is to end; until the last of them has ended the run is
`running`, with the state that it will have in `ending`. They are released stage by stage, each by the transaction that
ends the last one of the stage before.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from orchestrator.contracts.dispatch import Dispatch, Priority, queue_of
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.errors import RunStateConflict
from orchestrator.planning.compensation import Undo
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim, Finish, Outcome
from orchestrator.store.creation import database_now
from orchestrator.store.database import Database, Session
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.subwork_steps import stop_below, stop_run

#: What was running when its run was ended hears of that at its worker's next heartbeat, and stops at its next effect.
_SETTLE = timedelta(seconds=10)
_COLUMNS = (
    "id", "tenant_id", "run_id", "task", "position", "agent", "queue", "priority", "state", "predecessors", "gated",
    "queued_at", "due_at",
)  # fmt: skip


def end_run(session: Session, plan: Plan, run_id: str, state: RunState, error: str | None) -> RunState:
    """End a run, held alone by this transaction; gives its state: `running` while there is something to undo before.

    What is to be undone first is queued and not published: the next sweep does that.
    """
    rows = session.rows("undoable", run_id=run_id) if plan.undos else []
    stop_run(session, run_id)
    # Not what another run did: a fork has copied it, and never claimed it.
    stands = {position: AgentRunState(stood) for position, stood, began, *_ in rows if began}
    given = {position: (own_input, output) for position, _, _, own_input, output in rows if own_input is not None}
    wanted = [
        (len(plan.tasks) + index, undo)
        for index, undo in enumerate(plan.undos)
        if undo.of in stands and undo.applies(stands[undo.of])
    ]
    if not wanted:
        session.run("set_run_state", run_id=run_id, state=state.value, error=error)
        return state
    in_flight = AgentRunState.RUNNING in stands.values()
    first = _insert(session, plan, run_id, wanted, _SETTLE if in_flight else timedelta(0))
    for position, undo in wanted:
        if undo.of in given and undo.task.input is None:
            session.run("set_own_input", id=plan.id_at(run_id, position), input=_own_input(*given[undo.of]))
    session.run("begin_ending", run_id=run_id, ending=_ending(state, error))
    session.run("set_countdown", id=run_id, remaining=first)
    return RunState.RUNNING


def finish_undo(
    database: Database, claim: Claim, plan: Plan, outcome: Outcome, *, asked: bool = False
) -> Finish | None:
    """Store how a compensation ended, and release the next stage or end the run; None when the claim was lost.

    `asked` says that it may have asked for sub-work, which ends with it.
    """

    def work(session: Session) -> Finish | None:
        row = session.row("lock_run", run_id=claim.run_id)
        if row is None or RunState(row[0]).final:
            return None
        if session.run("finish_row", id=claim.id, epoch=claim.epoch, **outcome.parameters()) != 1:
            return None
        if asked:
            stop_below(session, [claim.id])
        return go_on(session, plan, claim.run_id, claim.position, row[2])

    return database.transact(work)


def go_on(session: Session, plan: Plan, run_id: str, position: int, ending: str) -> Finish:
    """Take the step after a compensation that has ended, in a transaction that holds the run alone.

    The decrement that shows 0 is the decision, as everywhere.
    """
    counted = session.row("count_down", id=run_id)
    if counted is None or counted[0] > 0:
        return Finish(ended=False, undecided=False, released=())
    row = session.row("next_undo", run_id=run_id, after=position)
    if row is None:
        state, error = _ended(ending)
        session.run("set_run_state", run_id=run_id, state=state.value, error=error)
        return Finish(ended=True, undecided=False, released=(), state=state)
    released = session.rows("release_undos", run_id=run_id, first=row[0], last=_last_of_stage(plan, row[0]))
    session.run("set_countdown", id=run_id, remaining=len(released))
    dispatches = (Dispatch(row[0], row[2], plan.task_at(row[1]).agent, row[3]) for row in released)
    return Finish(ended=False, undecided=False, released=tuple(dispatches))


def abandon_undoing(session: Session, run_id: str) -> bool:
    """End a run now that waits for its compensations; they are cancelled. False for a run that does not."""
    row = session.row("lock_run", run_id=run_id)
    if row is None or RunState(row[0]).final or row[2] is None:
        return False
    stop_run(session, run_id)
    state, error = _ended(row[2])
    session.run("set_run_state", run_id=run_id, state=state.value, error=error)
    return True


def undo_again(session: Session, plan: Plan, run_id: str) -> tuple[Dispatch, ...]:
    """Start the compensations anew that failed or were given up, in a transaction that holds the run alone.

    Gives what is ready. Raises `RunStateConflict` where none has: what the run did is taken back, and nothing can follow
    from it.
    """
    rows = session.rows("rows_for_retry", run_id=run_id)
    again = {AgentRunState.FAILED, AgentRunState.CANCELLED}
    failed = [position for _, position, _, state, _, _ in rows if plan.undo_at(position) and state in again]
    if not failed:
        raise RunStateConflict(
            f"run {run_id} has been undone: what its tasks did is taken back; `nightfleet runs fork` makes a new run of it"
        )
    last, ready = _last_of_stage(plan, failed[0]), list[Dispatch]()
    for position in failed:
        agent, first = plan.task_at(position).agent, position <= last
        state = AgentRunState.QUEUED if first else AgentRunState.BLOCKED
        identity = plan.id_at(run_id, position)
        row = session.row("reopen_row", id=identity, state=state.value, agent=agent, queue=queue_of(agent))
        if first and row is not None:
            ready.append(Dispatch(row[0], row[2], agent, row[3]))
    session.run("set_countdown", id=run_id, remaining=len(ready))
    return tuple(ready)


def _insert(session: Session, plan: Plan, run_id: str, wanted: list[tuple[int, Undo]], settle: timedelta) -> int:
    """Insert the compensations, those of the first stage as queued; gives the number of these."""
    now, first_stage = database_now(session), wanted[0][1].stage
    rows: list[tuple[Any, ...]] = []
    for position, undo in wanted:
        first = undo.stage == first_stage
        before = sorted((undo.of, *plan.sees[undo.of]))
        rows.append(
            (
                plan.id_at(run_id, position), DEFAULT_TENANT_ID, run_id, undo.task.id, position, undo.task.agent,
                queue_of(undo.task.agent), int(Priority.LATER),
                (AgentRunState.QUEUED if first else AgentRunState.BLOCKED).value,
                [plan.id_at(run_id, index) for index in before], False,
                now if first else None, now + settle if first else None,
            )
        )  # fmt: skip
    session.insert("agent_run", _COLUMNS, rows)
    return sum(1 for _, undo in wanted if undo.stage == first_stage)


def _own_input(own_input: str, output: str | None) -> str:
    """Give what a compensation gets of a task that was given another input than the workflow says."""
    return f'{{"input":{own_input},"output":{output or "null"}}}'


def _last_of_stage(plan: Plan, position: int) -> int:
    """Give the last position of the stage that begins there, or goes on."""
    at = position - len(plan.tasks)
    stage = plan.undos[at].stage
    while at + 1 < len(plan.undos) and plan.undos[at + 1].stage == stage:
        at += 1
    return len(plan.tasks) + at


def _ending(state: RunState, error: str | None) -> str:
    return f'{{"state":"{state.value}","error":{error or "null"}}}'


def _ended(ending: str) -> tuple[RunState, str | None]:
    values = json.loads(ending)
    return RunState(values["state"]), None if values["error"] is None else json.dumps(values["error"])
