"""What the ledger's two statements do, as steps of a transaction: for SQLite, which has one writer at a time."""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.budget import Call, Capped, Reserved
from orchestrator.store.creation import database_now
from orchestrator.store.database import Session
from orchestrator.store.judging import Held, Judged, already, answer, first_in_the_way

#: The columns of `budgets_of_call` that are a budget's own.
_OWN = 14


def reserve(session: Session, call: Call, parameters: dict[str, Any]) -> Reserved | Capped:
    """Write a call down, and hold what it can cost in all of its budgets, or in none; see `Ledger.reserve`."""
    payer = _payer(session, parameters)
    budgets, project = _budgets(session, parameters, payer)
    worst = parameters["worst"]
    line = session.row("line_of_call", id=call.id)
    if (held := already(call, None if line is None else line[0], worst)) is not None:
        return held
    expected = max((each.expects(worst) for each in budgets if each.mode == "expected"), default=0)
    takes = [worst if each.mode == "strict" else expected for each in budgets]
    judged = [each.judge(take, priced=bool(parameters["priced"])) for each, take in zip(budgets, takes, strict=True)]
    given = answer(call, judged, worst, now=database_now(session), project=project)
    if isinstance(given, Capped):
        _wait(session, parameters, judged)
        return given
    session.run("open_line", **parameters, **payer, expected=expected)
    session.run("waits_no_more", id=call.id)
    warned_at = session.rows("database_now")[0][0]
    for each, take, verdict in zip(budgets, takes, judged, strict=True):
        each.reserved += take
        each.warned_at = warned_at if verdict.warns else each.warned_at
        _change(session, each)
    return given


def conclude(session: Session, parameters: dict[str, Any]) -> bool:
    """Settle, release or give up a call, in the ledger and in its budgets; false if there is nothing to do."""
    state, cost = parameters["state"], parameters["cost"] or 0
    payer = _payer(session, parameters)
    line = session.row("line_of_call", id=parameters["id"])
    was, worst, expected, created_at = (None, 0, 0, "") if line is None else line
    new = was is None and state != "released"
    if not (new or was == "reserved" or (was == "unknown" and state != "unknown")):
        return False
    session.run("write_line", **parameters, **payer)
    for each in _budgets(session, parameters, payer)[0]:
        take = worst if each.mode == "strict" else expected
        # A call of an earlier period is none of this one's.
        if was is None or created_at >= each.period_from:
            each.settled += cost if state == "settled" else 0
            each.reserved -= take if was == "reserved" else 0
            unknown = int(state == "unknown") - int(was == "unknown")
            each.unknown += unknown * take
            each.unknown_calls += unknown
        if was == "reserved" and state == "settled" and parameters["provenance"] == "provider":
            each.learn(cost, worst)
        _change(session, each)
    return True


def _payer(session: Session, parameters: dict[str, Any]) -> dict[str, Any]:
    row = session.row("who_pays", id=parameters["id"], run_id=parameters["run_id"])
    return dict(zip(("project_id", "batch_id", "user_label"), row or (None, None, None), strict=True))


def _budgets(session: Session, parameters: dict[str, Any], payer: dict[str, Any]) -> tuple[list[Held], str | None]:
    """Give the budgets of a call, brought to the period that it is now, and the name of its project if that has one."""
    targets = {
        "tenant": parameters["tenant_id"],
        "project": payer["project_id"],
        "batch": payer["batch_id"],
        "user": payer["user_label"],
        "run": parameters["run_id"],
        "agent-run": parameters["agent_run_id"],
    }
    scopes = [f"{kind}/{target}" for kind, target in targets.items() if target is not None]
    rows = session.rows("budgets_of_call", tenant_id=parameters["tenant_id"], scopes=scopes)
    found = [(Held(*row[:_OWN]), row) for row in rows]
    for held, row in found:
        held.begin(row[_OWN])
    return [held for held, _ in found], next((row[-1] for _, row in found if row[-1] is not None), None)


def _wait(session: Session, parameters: dict[str, Any], judged: list[Judged]) -> None:
    """Put a call in the line of the budget that is in its way, if waiting helps."""
    blocking = first_in_the_way(judged)
    if blocking is None or (blocking.verdict == "capped" and blocking.on_cap == "fail"):
        return
    about = {name: parameters[name] for name in ("id", "agent_run_id", "epoch")}
    session.run("wait_for_budget", budget_id=blocking.id, nanousd=blocking.take, **about)


def _change(session: Session, held: Held) -> None:
    session.run(
        "change_budget",
        id=held.id,
        settled=held.settled,
        reserved=held.reserved,
        unknown=held.unknown,
        unknown_calls=held.unknown_calls,
        learned_cost=held.learned_cost,
        learned_worst=held.learned_worst,
        period_from=held.period_from,
        warned_at=held.warned_at,
    )
