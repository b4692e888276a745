"""What models have answered, for all of a tenant who ask the same: an equal question in flight is asked once.

It holds answers and never questions: a key is a hash. Who asks is told by agent run, so one that is taken over or woken
goes on with what it began. Whoever waits takes its place when it has ended, is dead, or has had its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.budget import Bill, Call, Provenance
from orchestrator.store import ledger_steps
from orchestrator.store.database import Database, Session, times
from orchestrator.store.ledger import columns_of, identity_of


@dataclass(frozen=True, slots=True)
class Asking:
    """A call that wants the answer to a question; `provenance` is what the ledger will say of one that is there."""

    key: str
    call: Call
    provenance: Provenance = "cache"

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the row and who asks, as the statements take it."""
        return {**identity_of(self.call), "key": self.key}


@dataclass(frozen=True, slots=True)
class Found:
    """There is an answer. One of its `own` was paid for by this very call, and lost before it was recorded."""

    body: bytes
    own: bool


@dataclass(frozen=True, slots=True)
class InFlight:
    """Somebody else is asking, for so many seconds by now; one that `waits` itself has no slot, and may need one."""

    seconds: float
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """It is this call that asks, for as long as its lease: then it has to `keep` the answer, or to `leave`."""


Answer = Found | InFlight | Taken


class ModelAnswers:
    """Every method is one transaction; any number of processes may call them at once. Times are the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_statement = database.dialect == "postgresql"

    def look(self, asking: Asking, *, lease_seconds: float, silence_seconds: float) -> Answer:
        """Give the answer to a question; without one be the only one who asks, or tell that somebody else does.

        An answer that this agent run got in this place and found wanting is none: only a newer one is given. Nobody waits
        for who has had its lease, whose worker gives no sign of life for `silence_seconds`, or whose agent run has ended.
        """
        slot = asking.call.slot
        parameters = {
            **asking.identity,
            "scope": slot.scope,
            "number": slot.number,
            "lease": float(lease_seconds),
            "silence": float(silence_seconds),
            "provenance": asking.provenance,
        }
        if self._one_statement:
            rows = self._database.execute(lambda session: session.rows("look_for_answer", **parameters))
        else:
            rows = self._database.transact(lambda session: _look(session, asking, parameters))
        return _told(rows)

    def keep(self, asking: Asking, body: bytes, seconds: float) -> bool:
        """Give an answer to everybody who asks the same for so long; false where somebody else has come to ask."""
        return self._change("keep_answer", **asking.identity, body=body, kept=float(seconds))

    def renew(self, asking: Sequence[Asking], lease_seconds: float) -> int:
        """Let calls that are in flight go on being the ones who ask; gives how many still are, the others are left alone."""
        calls = [each.call for each in asking]
        parameters = {
            "lease": float(lease_seconds),
            "tenants": sorted({call.tenant_id for call in calls}),
            "keys": sorted(each.key for each in asking),
            "askers": [f"{each.key} {each.call.agent_run_id} {each.call.epoch}" for each in asking],
        }
        return self._database.execute(lambda session: session.run("renew_questions", **parameters))

    def leave(self, asking: Asking) -> bool:
        """Let somebody else ask; false where this claim is not the one that does."""
        return self._change("leave_question", **asking.identity)

    def _change(self, statement: str, **parameters: Any) -> bool:
        return self._database.execute(lambda session: session.run(statement, **parameters)) == 1


def _look(session: Session, asking: Asking, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
    """Do as `look_for_answer` does, as steps of a transaction: for SQLite, which has one writer at a time."""
    rows = session.rows("known_answer", **parameters)
    if not rows or rows[0][0] == "free":
        return [("taken", None, None, None)] if session.run("take_question", **parameters) else []
    if rows[0][0] == "shared":
        bill = columns_of(Bill(0, provenance=asking.provenance))
        ledger_steps.conclude(session, {**asking.identity, **bill, "state": "settled"})
    return rows


def _told(rows: Sequence[Sequence[Any]]) -> Answer:
    if not rows:
        return InFlight(0.0)  # somebody has come first in this very moment
    verdict, body, asked_at, now = rows[0]
    if verdict == "taken":
        return Taken()
    if verdict not in {"held", "waits"}:
        return Found(bytes(body), own=verdict == "own")
    since, until = times(asked_at), times(now)
    seconds = 0.0 if since is None or until is None else (until - since).total_seconds()
    return InFlight(seconds, waits=verdict == "waits")
