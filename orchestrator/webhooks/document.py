"""What is sent: a small JSON document, after Standard Webhooks, that says what happened and nothing of what agents said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.contracts.money import plain_usd

#: With `content`; without it a document has at most some thousands.
MOST_BYTES = 256 * 1024
_MOST_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, as it was stored when it did: `subject` holds values of JSON."""

    id: str
    number: int
    type: str
    project_id: str | None
    run_id: str | None
    subject: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside it when it is sent the first time."""

    project: str | None = None
    workflow: str | None = None
    cost_nanousd: int | None = None
    task: str | None = None
    agent: str | None = None
    #: For endpoints that want it: what the run gives, what the question is about.
    content: Mapping[str, Any] = field(default_factory=dict[str, Any])


def document(event: Event, facts: Facts) -> str:
    """Give the JSON text of an event; content that makes it too large is left out, and that is said."""
    data = {**_data(event, facts), **facts.content}
    text = _encoded(event, data)
    if len(text.encode()) <= MOST_BYTES:
        return text
    for name in facts.content:
        data.pop(name)
    return _encoded(event, {**data, "left_out": sorted(facts.content)})


def _encoded(event: Event, data: Mapping[str, Any]) -> str:
    body = {
        "type": event.type,
        "timestamp": _iso(event.at),
        "id": event.id,
        "sequence": event.number,
        "data": data,
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    # What agents say may hold halves of characters, which no UTF-8 has.
    return text.encode("utf-8", "replace").decode()


def _data(event: Event, facts: Facts) -> dict[str, Any]:
    match event.type.partition(".")[0]:
        case "run":
            return _run(event, facts)
        case "question":
            return _question(event, facts)
        case _:
            return dict(event.subject)


def _run(event: Event, facts: Facts) -> dict[str, Any]:
    subject = event.subject
    error = subject.get("error")
    cost = facts.cost_nanousd
    return {
        "run_id": event.run_id,
        "state": subject.get("state"),
        "project": facts.project,
        "workflow": facts.workflow,
        "created_at": _moment(subject.get("created_at")),
        "started_at": _moment(subject.get("started_at")),
        "finished_at": _moment(subject.get("finished_at")),
        "error": None if not error else {"code": error.get("code"), "task": error.get("task")},
        "cost_usd": None if cost is None else plain_usd(cost),
        "user": subject.get("user"),
        "batch_id": subject.get("batch_id"),
        "variant": subject.get("variant"),
        "forked_from": subject.get("forked_from"),
    }


def _question(event: Event, facts: Facts) -> dict[str, Any]:
    subject = event.subject
    return {
        "question_id": subject.get("question_id"),
        "run_id": event.run_id,
        "project": facts.project,
        "workflow": facts.workflow,
        "task": facts.task,
        "agent": facts.agent,
        "text": subject.get("text"),
        "choices": subject.get("choices") or [],
        "digest": subject.get("digest"),
        "asked_at": _moment(subject.get("asked_at")),
        "expires_at": _moment(subject.get("expires_at")),
    }


def error_content(error: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give what an error says, for endpoints that want content."""
    return {"error_message": str(error.get("message", ""))[:_MOST_MESSAGE]} if error else {}


def _moment(text: Any) -> str | None:
    """Give a time of either database as text of one form."""
    if text is None:
        return None
    found = datetime.fromisoformat(str(text))
    return _iso(found if found.tzinfo is not None else found.replace(tzinfo=UTC))


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
