"""Conversations of agents: messages by session, in the order in which they were said, the last so many of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.memory import Forgetting, SessionRef, SessionSummary, StoredMessage
from orchestrator.store.database import Database, Session, times

_MOST_LISTED = 1000


class Sessions:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, ref: SessionRef, messages: Sequence[StoredMessage], *, keep: int) -> int:
        """Add messages, and forget all but the last `keep`; gives how many there are then.

        A message that is there stays where it is, and says what it is said to say now. Appends to one conversation take turns.
        """

        def work(session: Session) -> int:
            row = session.row("session_open", id=ids.new(), **_where(ref))
            assert row is not None
            identity, number = row
            known = {
                each[0]
                for each in session.rows("session_known", session_id=identity, ids=[message.id for message in messages])
            }
            for message in messages:
                said = {"id": message.id, "session_id": identity, "body": message.body}
                if message.id in known:
                    session.run("session_say_again", **said)
                else:
                    session.run("session_say", **said, tenant_id=ref.tenant_id, number=number)
                    number += 1
            session.run("session_advance", id=identity, next_number=number)
            session.run("session_trim", session_id=identity, first=number - keep)
            return session.rows("session_length", session_id=identity)[0][0]

        return self._database.transact(work)

    def read(self, ref: SessionRef, *, limit: int) -> list[str]:
        """Give the last messages as they were said, the oldest of them first."""
        rows = self._database.execute(lambda session: session.rows("session_read", **_where(ref), most=limit))
        return [row[0] for row in reversed(rows)]

    def clear(self, ref: SessionRef) -> int:
        """Forget the messages of a conversation; gives how many they were."""
        return self._database.execute(lambda session: session.run("session_clear", **_where(ref)))

    def list(self, tenant_id: str, project_id: str, agent: str | None = None) -> list[SessionSummary]:
        """Give the conversations of a project, or of one agent in it, those used last first, at most 1,000."""
        which = {
            "tenant_id": tenant_id,
            "project_id": project_id,
            "any_agent": int(agent is None),
            "agent": agent or "",
        }
        rows = self._database.execute(lambda session: session.rows("session_list", **which, most=_MOST_LISTED))
        return [
            SessionSummary(agent=name, session=session, messages=count, used_at=used)
            for name, session, count, used_at in rows
            if (used := times(used_at)) is not None
        ]

    def forget(self, rule: Forgetting, *, most: int) -> int:
        """Forget up to `most` conversations that were not used for so long; gives how many they were."""
        if rule.age_seconds is None:
            return 0
        age = float(rule.age_seconds)
        return self._database.execute(lambda session: session.run("session_forget", age=age, most=most))


def _where(ref: SessionRef) -> dict[str, Any]:
    return ref._asdict()
