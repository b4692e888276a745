"""What the sweep does for mail: messages that nobody will receive, and agent runs that nobody will bring what they wait for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from orchestrator.bus.reading import member_of, packed, room_of
from orchestrator.bus.rows import send_from, wake
from orchestrator.bus.stuck import Member, held_up, stuck
from orchestrator.clock import ids, run_id_of
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.mail import ERROR, HIGHEST, OUTSIDE, RUNTIME, Letter, no_room
from orchestrator.errors import NightfleetError
from orchestrator.store.database import Database, Session

_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_STUCK_PAGE = 200
#: What was said to a send, and was not heard because it found room, fills the mailbox for no longer than this.
_HEARD_SECONDS = 3_600.0


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
        """Tell agent runs that nobody can bring any more what they wait for; of `runs` only, if given.

        Gives them, to be published.
        """
        look = "mail_perhaps_stuck" if self._database.dialect == "postgresql" else "mail_perhaps_stuck_here"
        woken: list[Dispatch] = []
        after = _FIRST_ID
        while True:
            place = {"after": after, "most": _STUCK_PAGE, "outside": OUTSIDE}
            rows = self._database.execute(lambda session, place=place: session.rows(look, **place))
            found = [run_id for (run_id,) in rows if runs is None or run_id in runs]
            for run_id, members in self._members(found).items():
                if stuck(members):
                    woken += self._database.transact(partial(_tell_stuck, run_id=run_id, members=members))
            if len(rows) < _STUCK_PAGE:
                return woken
            after = rows[-1][0]

    def _members(self, run_ids: Sequence[str]) -> dict[str, list[Member]]:
        rows = self._database.execute(lambda session: session.rows("mail_waiters", run_ids=list(run_ids)))
        found: dict[str, list[Member]] = {}
        for row in rows:
            found.setdefault(run_id_of(row[0]), []).append(member_of(row))
        return found


def _tell_stuck(session: Session, *, run_id: str, members: Sequence[Member]) -> list[Dispatch]:
    """Tell those of a run who are stuck, if all that hold them up are as they were: else somebody may help them by now."""
    if session.row("lock_active_run", run_id=run_id) is None:
        return []
    seen = held_up(members)
    held = {row[0]: (row[1], row[2]) for row in session.rows("hold_agent_runs", ids=sorted(seen))}
    if any(held.get(identity) != (state.value, epoch) for identity, (state, epoch) in seen.items()):
        return []
    # Whoever was to make room may have done so before it began to wait, in turn.
    by_task = {each.task: each.id for each in members}
    told = stuck(
        [
            replace(each, timed=True) if each.id in seen and _has_room(session, each, by_task) else each
            for each in members
        ]
    )
    return [
        dispatch
        for member in members
        if member.id in told
        for dispatch in _tell(session, run_id, member, told[member.id])
    ]


def _has_room(session: Session, member: Member, by_task: Mapping[str, str]) -> bool:
    """Tell whether one that waits for room finds it at its next look, or may, without anybody's doing anything."""
    for room in member.rooms:
        waiting, passing = room_of(session, by_task[room["of"]])
        if waiting <= room["fits"] or passing:
            return True
    return False


def _tell(session: Session, run_id: str, member: Member, error: NightfleetError) -> tuple[Dispatch, ...]:
    body = packed(json.dumps(error.to_data()))
    # To a send that waits for room it is said as to that send of the next claim: later it may be wrong.
    types = [no_room(room["slot"], member.epoch + 1) for room in member.rooms] or [ERROR]
    woken: tuple[Dispatch, ...] = ()
    for said in dict.fromkeys(types):
        ttl = _HEARD_SECONDS if member.rooms else None
        letter = Letter(ids.new(), member.task, member.id, said, body, priority=HIGHEST, ttl_seconds=ttl)
        woken = send_from(session, session.dialect, run_id, RUNTIME, letter).woken or woken
    # One that waits for a change, or for room, listens for no mail: it is woken all the same, and finds it.
    return woken or wake(session, member.id)
