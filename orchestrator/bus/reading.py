"""What the rows of messages say: what is in them, which are meant, and who waits for some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.bus.matching import meant
from orchestrator.bus.stuck import Member
from orchestrator.contracts.mail import RUNTIME, AgentMessage, Filter, Found, Look, MailRecord
from orchestrator.contracts.run import AgentRunState
from orchestrator.journal.encoding import compress, expand
from orchestrator.store.database import Row, Session, moment, times

#: Messages that are looked at in one reading.
_PAGE = 50
#: Of the bodies of messages that are received at once: they are one record.
_MOST_BYTES = 1_000_000


def first_meant(session: Session, agent_run_id: str, wanted: Filter, most: int = 1) -> Look:
    """Give the first messages that a filter lets pass: at most so many, as far as they fit into one record."""
    seen, offset, size = 0, 0, 0
    found: list[Found] = []
    said: list[Found] = []
    place = {
        "id": agent_run_id,
        "runtime": RUNTIME,
        "sender": wanted.sender,
        "type": wanted.exact_type,
        "answers": wanted.answers,
    }
    while True:
        rows = session.rows("mail_look", most=_PAGE, offset=offset, **place)
        for row in rows:
            message = message_of(row)
            if not meant(wanted, message):
                seen = max(seen, row[0])
                continue
            if message.sender == RUNTIME:
                said.append(Found(row[0], message))  # before all others
                continue
            size += len(expand(bytes(row[6]))) if most > 1 else 0  # of a single one nobody asks
            if found and size > _MOST_BYTES:
                return _looked(found, said, seen)
            found.append(Found(row[0], message))
            if len(found) == most:
                return _looked(found, said, seen)
        if len(rows) < _PAGE:
            return _looked(found, said, seen)
        offset += _PAGE


def room_of(session: Session, agent_run_id: str) -> tuple[int, int]:
    """Give how many messages wait for an agent run, and how many of them have a time to live."""
    [(waiting, passing)] = session.rows("mail_room", id=agent_run_id, runtime=RUNTIME)
    return waiting, passing


def _looked(found: Sequence[Found], said: Sequence[Found], seen: int) -> Look:
    """Give what was found: of what Nightfleet has said the last, where there is nothing else."""
    shown = tuple(found or said[-1:])
    return Look(shown, seen, along=tuple(each.number for each in said if each not in shown))


def member_of(row: Row) -> Member:
    """Give an agent run as it is in a row of `mail_waiters`."""
    identity, task, state, epoch, wake_at, listening, predecessors, gated, subwork = row
    before = (
        json.loads(predecessors) if isinstance(predecessors, str) and predecessors.startswith("[") else predecessors
    )
    wanted: dict[str, Any] = json.loads(listening or "{}") if state == AgentRunState.SUSPENDED else {}
    return Member(
        identity,
        task,
        AgentRunState(state),
        epoch,
        # The time of a wait for room is that of the next look: it brings nothing by itself.
        timed=wake_at is not None and "room" not in wanted,
        listening=wanted,
        predecessors=frozenset(map(str, before)),
        subwork=subwork,
        # Nothing else is blocked, and follows nobody.
        compensates=state == AgentRunState.BLOCKED and not before and not gated and subwork is None,
    )


def message_of(row: Row) -> AgentMessage:
    """Give a message as its recipient gets it, from a row of `mail_look` or `mail_history`."""
    _, identity, sender, recipient, kind, priority, body, wants_reply, answers, created_at = row[:10]
    return AgentMessage(
        id=identity,
        sender=sender,
        recipient=recipient,
        type=kind,
        priority=priority,
        body=unpacked(body),
        wants_reply=bool(wants_reply),
        answers=answers,
        sent_at=moment(created_at),
    )


def record_of(row: Row) -> MailRecord:
    """Give a message with what has become of it, from a row of `mail_history`."""
    state, reason, expires_at, ended_at = row[10:]
    message = message_of(row).model_dump()
    found = {"state": state, "reason": reason, "expires_at": times(expires_at), "ended_at": times(ended_at)}
    return MailRecord.model_validate({**message, **found, "number": row[0]})


def packed(text: str) -> bytes:
    """Give a body as it is stored, from JSON text."""
    return compress(text.encode("utf-8", "surrogatepass"))


def unpacked(body: Any) -> Any:
    """Give a body as JSON, from what is stored."""
    return json.loads(expand(bytes(body)).decode("utf-8", "surrogatepass"))
