"""Celery messages (protocol 2) for agent runs, built from ids alone.

Celery's own way from a signature to a message freezes, clones, routes and merges options on each hop, which costs more
than the rest of a dispatch. Here nothing is left to decide: the queue follows from the agent, the body is constant but
for what a canvas carries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import run_id_of
from orchestrator.contracts.dispatch import agent_run_id_of

#: What no message of ours may exceed: ids only, and a canvas that is cut short enough.
MAX_MESSAGE_BYTES = 4096

#: The body of a message that carries nothing.
EMPTY_BODY = b'[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """One message on its way: `queue` without the namespace, `priority` with more for what goes first."""

    queue: str
    priority: int
    headers: dict[str, Any]
    body: bytes

    @property
    def task_id(self) -> str:
        return str(self.headers["id"])


def full_headers(headers: dict[str, Any]) -> dict[str, Any]:
    """Give the headers that Celery knows a message of ours by, from those that travel."""
    root_id = run_id_of(agent_run_id_of(headers["id"]))
    return {"root_id": root_id, "retries": 0, "argsrepr": "()", "kwargsrepr": "{}", "ignore_result": False, **headers}


def task_message(
    name: str,
    task_id: str,
    *,
    priority: int,
    parent_id: str | None = None,
    carries: dict[str, Any] | None = None,
    group: tuple[str, int] | None = None,
) -> TaskMessage:
    """Build the message of one Celery task; `carries` is its `chain` and `chord`, `group` the chord's id and the index."""
    body = EMPTY_BODY
    if carries:
        embedded = {"callbacks": None, "errbacks": None, "chain": carries.get("chain"), "chord": carries.get("chord")}
        body = json.dumps([[], {}, embedded], separators=(",", ":")).encode()
    # Each header is decoded in Python by every worker: those that follow from these are added where the message arrives.
    headers: dict[str, Any] = {"task": name, "id": task_id}
    if parent_id is not None:
        headers["parent_id"] = parent_id
    if group:
        headers["group"], headers["group_index"] = group
    return TaskMessage(queue=name, priority=priority, headers=headers, body=body)
