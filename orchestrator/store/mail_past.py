"""What a fork begins with of the messages of its run: those to tasks that run anew, of tasks that are kept and from outside."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from orchestrator.clock import uuid_of
from orchestrator.contracts.lineage import root_task
from orchestrator.contracts.mail import OUTSIDE, RUNTIME
from orchestrator.store.database import Row, Session, moment

_PAGE = 500
_COLUMNS = (
    "run_id", "id", "tenant_id", "sender", "recipient", "recipient_id", "type", "priority", "body", "wants_reply", "state",
    "created_at", "expires_at",
)  # fmt: skip


def copy_mail(
    session: Session, source: str, run_id: str, *, kept: Collection[str], anew: Mapping[str, str], now: datetime
) -> None:
    """Let messages wait in a new run for the tasks that run `anew`, by id, each once, in the order in which they were sent.

    What was received, or was dead, waits again, for as long as its sender has said. Replies are left out: who asked has not
    done so yet. Senders have no agent run here, so nothing that is set back takes their messages back.
    """
    kept, after, number = set(kept), 0, 0
    while rows := session.rows(
        "mail_past", run_id=source, after=after, recipients=sorted(anew), runtime=RUNTIME, most=_PAGE
    ):
        after = rows[-1][0]
        copies: list[Row] = []
        for row in rows:
            _, identity, tenant_id, sender, recipient, kind, priority, body, wants_reply, created_at, expires_at = row
            if sender != OUTSIDE and root_task(sender) not in kept:
                continue
            expires = None if expires_at is None else now + (moment(expires_at) - moment(created_at))
            addressed = (sender, recipient, anew[recipient], kind, priority, bytes(body), bool(wants_reply))
            copy = (
                run_id,
                uuid_of("copy", run_id, identity),
                tenant_id,
                *addressed,
                "waiting",
                moment(created_at),
                expires,
            )
            number += 1
            # On Postgres the rows are numbered as they come.
            copies.append((*copy, number) if session.dialect == "sqlite" else copy)
        numbered = (*_COLUMNS, "number") if session.dialect == "sqlite" else _COLUMNS
        session.insert("agent_message", numbered, copies)
