"""Steps of transactions that end sub-work: of callers that end, begin anew, or want something else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.contracts.effect import Slot
from orchestrator.contracts.subwork import SubworkState
from orchestrator.store.database import Session
from orchestrator.store.unsending import unsend


def stop_below(session: Session, ids: Sequence[str]) -> None:
    """Cancel what agent runs have asked for, at any depth, in a transaction that holds them."""
    reached = list(ids)
    while below := _open_below(session, reached):
        _cancel(session, below)
        # What one of them has asked for until its row was ours is seen by the next look.
        reached = below
    session.run("stop_subwork_of", ids=list(ids))


def stop_run(session: Session, run_id: str) -> None:
    """Cancel everything of a run that is open, in a transaction that holds the run alone."""
    session.run("cancel_open", run_id=run_id)
    session.run("stop_subwork_of_run", run_id=run_id)


def give_up(session: Session, agent_run_id: str) -> None:
    """Let nothing be taken up any more that an agent run has asked for, in a transaction that holds it: it begins anew."""
    stop_below(session, [agent_run_id])
    session.run("void_subwork_of", parent_id=agent_run_id)


def forget_others(session: Session, run_id: str, ids: Sequence[str]) -> None:
    """Void what agent runs have done that are given to another agent, in a transaction that holds the run alone."""
    for identity in ids:
        session.run("journal_void_all", id=identity)
        give_up(session, identity)
    if ids:
        unsend(session, run_id)


def give_up_at(session: Session, agent_run_id: str, slots: Iterable[Slot]) -> None:
    """Stop what was asked for at places whose effects are void, in a transaction that holds the agent run.

    What has an outcome that was refused is not taken up again; what has failed, or is stopped now, is.
    """
    wanted = set(slots)
    for identity, scope, number, state in session.rows("subwork_of", parent_id=agent_run_id):
        if Slot(scope, number) not in wanted:
            continue
        if state == SubworkState.OPEN:
            stop(session, identity)
        elif state == SubworkState.DONE:
            session.run("void_subwork", id=identity)


def stop(session: Session, identity: str) -> None:
    """Cancel what is open of some sub-work whose caller is held, and what that has asked for."""
    while below := [row[0] for row in session.rows("open_of_subwork", id=identity)]:
        _cancel(session, below)
        stop_below(session, below)
    session.run("close_subwork", id=identity, state=SubworkState.STOPPED.value)


def _open_below(session: Session, ids: Sequence[str]) -> list[str]:
    """Give what is open of all that agent runs have asked for, at any depth, by id."""
    found: list[str] = []
    level = list(ids)
    while level:
        level = [row[0] for row in session.rows("open_of_callers", ids=level)]
        found += level
    return sorted(found)


def _cancel(session: Session, ids: Sequence[str]) -> None:
    session.rows("hold_agent_runs", ids=list(ids))
    session.run("cancel_agent_runs", ids=list(ids))
    session.run("stop_subwork_of", ids=list(ids))
