"""What a run shares, as transactions hold it: whoever changes it, and whoever is about to wait for a change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Row, Session


def hold(session: Session, run_ids: Collection[str]) -> dict[str, Row]:
    """Hold what some runs share, before any agent run is held.

    Gives what it comes to, by run: changes, keys and bytes; and whether somebody waits for a change in a process.
    """
    wanted = sorted(run_ids)
    rows = {row[0]: row[1:] for row in session.rows("shared_hold", run_ids=wanted)}
    if missing := [run_id for run_id in wanted if run_id not in rows]:
        session.run("shared_begin", run_ids=missing)
        rows = {row[0]: row[1:] for row in session.rows("shared_hold", run_ids=wanted)}
    return rows


def hold_for_wait(session: Session, claim: Claim) -> None:
    """Let no change happen between the last look of an execution and its suspension."""
    hold(session, [claim.run_id])


def have_changed(session: Session, claim: Claim, listed: Sequence[JsonValue]) -> bool:
    """Tell whether anything that an execution wants to wait for has happened since it has looked; what it shares is held."""
    return any(_has_changed(session, claim.run_id, cast("dict[str, Any]", each)) for each in listed)


def _has_changed(session: Session, run_id: str, wanted: dict[str, Any]) -> bool:
    where = {"run_id": run_id, "namespace": wanted["namespace"]}
    if "key" in wanted:
        row = session.row("shared_head", key=wanted["key"], **where)
        return row is not None and int(row[0]) > wanted["since"]
    return session.row("shared_moved", prefix=wanted["prefix"], since=wanted["since"], **where) is not None
