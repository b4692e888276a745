"""The stream of a run's events: what has happened since a reader's cursor, told from states, progress lines and answers."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from orchestrator.advance import error_info
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.mail import AgentMessage
from orchestrator.contracts.piece import Piece
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.errors import InputInvalid
from orchestrator.store.database import moment, times
from orchestrator.store.runs import parse
from orchestrator.store.store import Store
from orchestrator.store.streams import Shown

#: The most characters of an answer that one event tells, of what has come since the last look.
_MOST_CHARACTERS = 64_000


def events_of(store: Store, run_id: str, after: str | None = None) -> Iterator[RunEvent]:
    """Give what has happened since `after` (from the beginning without it), up to now; see `RunEvent.cursor`."""
    runs = store.runs
    seen, last_progress, last_piece, last_message = _decode_cursor(after)
    state = runs.state(run_id)
    rows = runs.states(run_id)
    lines = runs.events_after(run_id, last_progress or run_id)
    # Compensations come later, and not all that there could be: positions have gaps.
    seen = seen.ljust(rows[-1][0] + 2 if rows else 1, "-")
    marks = list(seen)

    def event(kind: Any, last: str, **fields: Any) -> RunEvent:
        cursor = _encode_cursor("".join(marks), last, last_piece, last_message)
        return RunEvent(cursor=cursor, kind=kind, run_id=run_id, **fields)

    for identity, task, message, data, at in lines:
        last_progress = identity
        yield event(
            "progress",
            last_progress,
            task=task,
            agent=None,
            state=None,
            message=message,
            data=parse(data),
            at=moment(at),
        )
    for shown in joined(store.streams.after(run_id, last_piece)):
        last_piece = shown.number
        yield event("delta", last_progress, state=None, **_told(shown))
    for number, message in store.mail.told(run_id, last_message, ended=RunState(state).final):
        last_message = number
        yield event("message", last_progress, agent=None, state=None, **_sent(message))
    for position, task, agent, part_state, epoch, error, at, waiting_for, step in rows:
        mark = _mark(part_state, epoch)
        if marks[position + 1] == mark:
            continue
        marks[position + 1] = mark
        if at is not None:
            fields = {"task": task, "agent": agent, "state": part_state, "error": error_info(error), "at": moment(at)}
            fields |= {"step": step, "message": waiting_for if part_state == AgentRunState.SUSPENDED else None}
            yield event("agent_run", last_progress, **fields)
    mark = _mark(state, 0)
    if marks[0] != mark:
        marks[0] = mark
        head = runs.head(run_id)
        at = times(head.finished_at) or times(head.started_at) or moment(head.created_at)
        yield event("run", last_progress, task=None, agent=None, state=state, error=error_info(head.error), at=at)


def joined(pieces: Iterable[Shown]) -> Iterator[Shown]:
    """Put pieces together that follow each other in one answer, up to a bound: a reader who comes late is told less often."""
    held: Shown | None = None
    for shown in pieces:
        if held is not None and _follows(shown, held):
            piece = Piece(held.piece.start, held.piece.text + shown.piece.text, held.piece.restarted)
            held = replace(shown, piece=piece)
            continue
        if held is not None:
            yield held
        held = shown
    if held is not None:
        yield held


def _follows(shown: Shown, before: Shown) -> bool:
    same = (shown.agent_run_id, shown.slot, shown.agent) == (before.agent_run_id, before.slot, before.agent)
    return same and not shown.piece.restarted and len(before.piece.text) < _MOST_CHARACTERS


def _told(shown: Shown) -> dict[str, Any]:
    piece = shown.piece
    place = {"task": shown.task, "agent": shown.agent, "slot": shown.slot, "at": moment(shown.at)}
    return {**place, "offset": piece.start, "text": piece.text, "restarted": piece.restarted}


def _sent(message: AgentMessage) -> dict[str, Any]:
    data = message.model_dump(mode="json", include={"id", "type", "body", "priority", "answers"})
    return {
        "task": None if message.sender.startswith("@") else message.sender,
        "message": f"{message.sender} to {message.recipient}: {message.type}",
        "data": {**data, "from": message.sender, "to": message.recipient},
        "at": message.sent_at,
    }


# A cursor is what its reader has seen: one character for the run and one for each agent run, the last progress line, and the
# numbers of the last piece of an answer and of the last message, if there were any.


def _mark(state: str, epoch: int) -> str:
    order = "pbqrsSFCK"
    known = {
        "pending": 0, "blocked": 1, "queued": 2, "running": 3, "suspended": 4, "succeeded": 5, "failed": 6,
        "cancelled": 7, "skipped": 8,
    }  # fmt: skip
    return chr(0x30 + known[state] + len(order) * (epoch % 7))


def _encode_cursor(marks: str, last_progress: str, last_piece: int, last_message: int) -> str:
    text = f"{last_progress}|{marks}" + (f"|{last_piece}" if last_piece or last_message else "")
    text += f"|{last_message}" if last_message else ""
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def _decode_cursor(cursor: str | None) -> tuple[str, str, int, int]:
    if not cursor:
        return "", "", 0, 0
    try:
        text = zlib.decompress(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))).decode()
        last, marks, *numbers = text.split("|")
        piece, message, *_ = (*map(int, numbers), 0, 0)
    except (ValueError, zlib.error):
        raise InputInvalid(f"{cursor!r} is no cursor: take it from RunEvent.cursor as it is") from None
    return marks, last, piece, message
