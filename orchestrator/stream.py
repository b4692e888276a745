"""The stream of a run's events: what has happened since a reader's cursor, told from states and progress lines."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from orchestrator.advance import error_info
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import InputInvalid
from orchestrator.store.database import times
from orchestrator.store.runs import Runs, parse


def events_of(runs: Runs, run_id: str, after: str | None = None) -> Iterator[RunEvent]:
    """Give what has happened since `after` (from the beginning without it), up to now; see `RunEvent.cursor`."""
    seen, last_progress = _decode_cursor(after)
    state = runs.state(run_id)
    rows = runs.states(run_id)
    lines = runs.events_after(run_id, last_progress or run_id)
    # Compensations come later, and not all that there could be: positions have gaps.
    seen = seen.ljust(rows[-1][0] + 2 if rows else 1, "-")
    marks = list(seen)

    def event(kind: Any, last: str, **fields: Any) -> RunEvent:
        return RunEvent(cursor=_encode_cursor("".join(marks), last), kind=kind, run_id=run_id, **fields)

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
    for position, task, agent, part_state, epoch, error, at, waiting_for in rows:
        mark = _mark(part_state, epoch)
        if marks[position + 1] == mark:
            continue
        marks[position + 1] = mark
        if at is not None:
            fields = {"task": task, "agent": agent, "state": part_state, "error": error_info(error), "at": moment(at)}
            if part_state == AgentRunState.SUSPENDED:
                fields["message"] = waiting_for
            yield event("agent_run", last_progress, **fields)
    mark = _mark(state, 0)
    if marks[0] != mark:
        marks[0] = mark
        head = runs.head(run_id)
        at = times(head.finished_at) or times(head.started_at) or moment(head.created_at)
        yield event("run", last_progress, task=None, agent=None, state=state, error=error_info(head.error), at=at)


def moment(value: Any) -> datetime:
    """Give a time column's value where there must be one."""
    found = times(value)
    if found is None:
        raise ValueError("a time that must be set is not")
    return found


# A cursor is what its reader has seen: one character for the run and one for each agent run, and the last progress line.


def _mark(state: str, epoch: int) -> str:
    order = "pbqrsSFCK"
    known = {
        "pending": 0, "blocked": 1, "queued": 2, "running": 3, "suspended": 4, "succeeded": 5, "failed": 6,
        "cancelled": 7, "skipped": 8,
    }  # fmt: skip
    return chr(0x30 + known[state] + len(order) * (epoch % 7))


def _encode_cursor(marks: str, last_progress: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(f"{last_progress}|{marks}".encode())).decode().rstrip("=")


def _decode_cursor(cursor: str | None) -> tuple[str, str]:
    if not cursor:
        return "", ""
    try:
        text = zlib.decompress(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))).decode()
    except (ValueError, zlib.error):
        raise InputInvalid(f"{cursor!r} is no cursor: take it from RunEvent.cursor as it is") from None
    last, _, marks = text.partition("|")
    return marks, last
