"""The ledger of model calls: each is written down before it is made, its money held in every budget that it counts in.

So no call is missing, whoever dies. It costs two statements: `reserve` and one of `settle`, `release` and `unknown`. Each can
be repeated when its answer was lost: calls are told apart by where they happen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.budget import Bill, Call, Capped, Reserved
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import AgentRunState
from orchestrator.failpoints import failpoint
from orchestrator.store import ledger_steps
from orchestrator.store.agent_runs import Claim
from orchestrator.store.creation import database_now
from orchestrator.store.database import Database, Session
from orchestrator.store.judging import already, answer, judged_of, period_began

#: What tells a call, in the order in which `lost_calls` gives it.
IDENTITY = (
    "id", "tenant_id", "run_id", "agent_run_id", "epoch", "slot", "attempt", "agent", "model", "credential",
)  # fmt: skip
#: The most calls that `close_lost` gives up at once, and that `wake` wakes.
_LOST_AT_ONCE = 200
_WOKEN_AT_ONCE = 500


class Ledger:
    """Every method is one transaction; any number of processes may call them at once. Times are the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_statement = database.dialect == "postgresql"

    # Calls ------------------------------------------------------------------------------------------------------------

    def reserve(self, call: Call, worst_nanousd: int | None) -> Reserved | Capped:
        """Write a call down before it is made, and hold what it can cost at most in all of its budgets, or in none.

        None is the cost of a model without a price. A call that is written down already holds no more. One that is `Capped`
        and does not fail waits in line: `wake` wakes its agent run. Raises `BudgetUnpriced`, and `ValueError` for a call that
        has ended.
        """
        priced, worst = worst_nanousd is not None, worst_nanousd or 0
        parameters = {**identity_of(call), "worst": worst, "priced": int(priced)}
        if self._one_statement:
            rows = self._database.execute(lambda session: session.rows("reserve", **parameters))
            given = _told(call, worst, rows)
        else:
            given = self._database.transact(lambda session: ledger_steps.reserve(session, call, parameters))
        failpoint("after_reserve")
        return given

    def settle(self, call: Call, bill: Bill) -> bool:
        """Record what a call has cost and give back the rest of what was held for it; false if it was settled before.

        Also of a call that was not reserved, and of one that was given up as unknown.
        """
        return self._conclude(identity_of(call), "settled", bill)

    def release(self, call: Call) -> bool:
        """Give back all that is held for a call that was certainly not billed."""
        return self._conclude(identity_of(call), "released", Bill(0))

    def unknown(self, call: Call, request_id: str | None = None) -> bool:
        """Keep what is held for a call that may have been billed: it counts as spent, until somebody settles it."""
        return self._conclude(identity_of(call), "unknown", Bill(None, request_id=request_id))

    def _conclude(self, identity: dict[str, Any], state: str, bill: Bill) -> bool:
        parameters = {**identity, **columns_of(bill), "state": state}
        failpoint("before_settle")
        if self._one_statement:
            rows = self._database.execute(lambda session: session.rows("conclude", **parameters))
            written = rows[0][0] == 1
        else:
            written = self._database.transact(lambda session: ledger_steps.conclude(session, parameters))
        failpoint("after_settle")
        return written

    # Agent runs -------------------------------------------------------------------------------------------------------

    def cap_agent_run(self, claim: Claim, limit_nanousd: int) -> None:
        """Make sure that an agent run has a budget of its own, which fails it; one that is there stays.

        To be asked for by each claim, before its first call: what was spent before counts.
        """
        parameters = {
            "id": ids.new(),
            "tenant_id": claim.tenant_id,
            "run_id": claim.run_id,
            "agent_run_id": claim.id,
            "scope": f"agent-run/{claim.id}",
            "limit": limit_nanousd,
        }
        self._database.execute(lambda session: session.run("cap_agent_run", **parameters))

    # What is left behind ----------------------------------------------------------------------------------------------

    def close_lost(self, most: int = _LOST_AT_ONCE) -> int:
        """Give up as unknown the calls that a claim has left in flight which is not current any more; gives how many.

        Whoever made one may still settle it.
        """
        rows = self._database.execute(lambda session: session.rows("lost_calls", most=most))
        return sum(self._conclude(dict(zip(IDENTITY, row, strict=True)), "unknown", Bill(None)) for row in rows)

    def wake(self, runs: Collection[str] | None = None) -> list[Dispatch]:
        """Queue agent runs that wait for a budget with room for their calls, longest first, to be published by the caller.

        Of `runs` only, if given. Room is that of a raise, of what was settled, or of a new period; who waits for a budget that
        fails is woken too when there can be none any more.
        """
        if not self._database.execute(lambda session: session.rows("anybody_waits")):
            return []

        def work(session: Session) -> list[Any]:
            now = database_now(session).astimezone(UTC)
            began = {"day": period_began("day", now), "month": period_began("month", now)}
            session.run("end_waits_of_the_gone")
            own = None if runs is None else sorted(runs)
            due = session.rows("budget_waits_due", runs=own, most=_WOKEN_AT_ONCE, **began)
            if not due:
                return []
            told = session.rows("wake_for_budget", ids=sorted({row[1] for row in due}))
            woken = {row[0]: row for row in told if row[5] == AgentRunState.QUEUED}
            # Of one that runs the place stays: whatever takes its mark away, it can be woken.
            session.run("end_budget_waits", ids=[row[0] for row in due if row[1] in woken])
            return list(woken.values())

        return [Dispatch(row[0], row[3], row[2], row[4]) for row in self._database.transact(work)]


def identity_of(call: Call) -> dict[str, Any]:
    """Give what tells a call, as the statements take it."""
    found = {name: getattr(call, name) for name in IDENTITY}
    return found | {"slot": str(call.slot)}


def _told(call: Call, worst: int, rows: Sequence[Sequence[Any]]) -> Reserved | Capped:
    """Give what the rows of `reserve` say: one for each budget of the call, or one that names none."""
    now, known, project = rows[0][9:12]
    if (held := already(call, known, worst)) is not None:
        return held
    judged = [judged_of(row) for row in rows if row[0] is not None]
    return answer(call, judged, worst, now=now.astimezone(UTC), project=project)


def columns_of(bill: Bill) -> dict[str, Any]:
    """Give what came of a call, as the statements take it."""
    usage = bill.usage
    return {
        "cost": bill.cost_nanousd,
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_input_tokens": usage.cache_write_input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "price": bill.price,
        "request_id": bill.request_id,
        "provenance": bill.provenance,
    }
