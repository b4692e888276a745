"""What crosses the pipe, as JSON: effects and what comes of them, entries of the journal, errors."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.contracts.effect import Entry, EntryState, EventLine, Slot
from orchestrator.contracts.question import Inquiry, QuestionState, Reply
from orchestrator.contracts.subwork import Order, Standing, SubworkState
from orchestrator.contracts.usage import Usage


def entry_out(entry: Entry) -> dict[str, Any]:
    """Give an entry as JSON values."""
    return {
        "slot": list(entry.slot),
        "kind": entry.kind,
        "fingerprint": entry.fingerprint,
        "state": entry.state.value,
        "request": entry.request,
        "outcome": entry.outcome,
        "error": entry.error,
        "usage": None if entry.usage is None else entry.usage.model_dump(mode="json"),
        "model": entry.model,
        "digest": entry.digest,
        "milliseconds": entry.milliseconds,
        "conversation": None if entry.conversation is None else list(entry.conversation),
        "event": None if entry.event is None else [entry.event.message, entry.event.data],
        "head": entry.head,
        "epoch": entry.epoch,
        "recorded_at": None if entry.recorded_at is None else entry.recorded_at.isoformat(),
    }


def entry_in(data: dict[str, Any]) -> Entry:
    """Give the entry that `entry_out` described."""
    usage, event, recorded_at = data["usage"], data["event"], data["recorded_at"]
    fields: dict[str, Any] = {
        **data,
        "slot": slot_in(data["slot"]),
        "state": EntryState(data["state"]),
        "usage": None if usage is None else Usage.model_validate(usage),
        "event": None if event is None else EventLine(*event),
        "recorded_at": None if recorded_at is None else datetime.fromisoformat(recorded_at),
    }
    return Entry(**fields)


def slot_in(data: list[Any]) -> Slot:
    """Give a slot that came as a list."""
    scope, number = data
    return Slot(scope, number)


def reply_out(reply: Reply) -> dict[str, Any]:
    """Give what has become of a question as JSON values."""
    return {"state": reply.state.value, "answer": reply.answer, "left_seconds": reply.left_seconds}


def reply_in(data: dict[str, Any]) -> Reply:
    """Give what `reply_out` described."""
    return Reply(QuestionState(data["state"]), data["answer"], data["left_seconds"])


def inquiry_in(data: dict[str, Any]) -> Inquiry:
    """Give a question that came as its fields."""
    fields: dict[str, Any] = {**data, "choices": tuple(data["choices"])}
    return Inquiry(**fields)


def order_in(data: dict[str, Any]) -> Order:
    """Give what an agent calls for, which came as its fields."""
    fields: dict[str, Any] = {**data, **{name: tuple(data[name]) for name in ("inputs", "chosen", "able")}}
    return Order(**fields)


def standing_out(standing: Standing) -> dict[str, Any]:
    """Give how sub-work stands as JSON values."""
    return {"id": standing.id, "state": standing.state.value, "tasks": standing.tasks}


def standing_in(data: dict[str, Any]) -> Standing:
    """Give what `standing_out` described."""
    return Standing(data["id"], SubworkState(data["state"]), data["tasks"])
