"""What the sweep does for mail: messages that nobody will receive, and agent runs that nobody will send one."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial

from orchestrator.bus.rows import member_of, packed, send_from
from orchestrator.bus.stuck import Member, stuck
from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.mail import HIGHEST, RUNTIME, Letter
from orchestrator.errors import NoMessageCanCome
from orchestrator.store.database import Database, Session

_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_STUCK_PAGE = 500


class Stranded:
    """Repairs of messages and of those who wait for some; each is one transaction, and any process may make it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def clear(self) -> int:
        """Let messages be dead whose time is over, and replies that nobody waits for any more; gives how many."""
        return sum(
            self._database.execute(lambda session, name=name: session.run(name))
            for name in ("mail_expire", "mail_late")
        )

    def release_stuck(self, runs: Collection[str] | None = None) -> list[Dispatch]:
        """Tell agent runs that no message can come any more for which they wait; of `runs` only, if given.

        Gives them, to be published.
        """
        look = "mail_perhaps_stuck" if self._database.dialect == "postgresql" else "mail_perhaps_stuck_here"
        woken: list[Dispatch] = []
        after = _FIRST_ID
        while True:
            place = {"after": after, "most": _STUCK_PAGE}
            rows = self._database.execute(lambda session, place=place: session.rows(look, **place))
            for (run_id,) in rows:
                if runs is None or run_id in runs:
                    woken += self._release_stuck_of(run_id)
            if len(rows) < _STUCK_PAGE:
                return woken
            after = rows[-1][0]

    def _release_stuck_of(self, run_id: str) -> list[Dispatch]:
        rows = self._database.execute(lambda session: session.rows("mail_members", run_id=run_id))
        members = {row[0]: member_of(row) for row in rows}
        woken: list[Dispatch] = []
        for identity, error in stuck(list(members.values())).items():
            tell = partial(self._tell_stuck, run_id=run_id, member=members[identity], error=error)
            woken += self._database.transact(tell)
        return woken

    def _tell_stuck(self, session: Session, *, run_id: str, member: Member, error: NoMessageCanCome) -> list[Dispatch]:
        if session.row("lock_active_run", run_id=run_id) is None:
            return []
        if session.row("mail_waiting_still", id=member.id, epoch=member.epoch) is None:
            return []
        body = packed(json.dumps(error.to_data()))
        letter = Letter(ids.new(), member.task, member.id, "error", body, priority=HIGHEST)
        return list(send_from(session, self._database.dialect, run_id, RUNTIME, letter).woken)
