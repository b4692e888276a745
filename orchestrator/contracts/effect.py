"""Effects as the journal knows them: where one happens, what it was asked, what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.usage import Usage

#: The most characters of a request that are kept for people.
PREVIEW = 2_000


class Slot(NamedTuple):
    """Where in an agent's code an effect happens: a scope, and its number there. The root scope is `""`.

    Numbers of a scope follow the order in which the code makes its effects and branches, whatever order they end in.
    """

    scope: str
    number: int

    @property
    def child(self) -> str:
        """The scope of what happens inside this effect, or in this branch."""
        return f"{self.scope}.{self.number}" if self.scope else str(self.number)

    @property
    def path(self) -> tuple[int, ...]:
        """The numbers from the root to here: slots sorted by it are in the order of a tree, parents first."""
        return (*map(int, filter(None, self.scope.split("."))), self.number)

    def __str__(self) -> str:
        return self.child


class EntryState(StrEnum):
    """`begun`: it may have happened. `void`: it is not given back any more, the next record replaces it."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class EventLine:
    """A line for the stream of events of a run, stored together with the effect that tells it."""

    message: str
    data: JsonValue = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An effect of one agent run. `outcome` is JSON: what `record` took is what `take` gives back, to the last digit.

    `request` is for people; what was asked exactly is in the fingerprint. `conversation` holds the messages of a model
    request when it is recorded, and is not given back: `head` is, by which the journal finds them. The journal sets
    `epoch` and `recorded_at`.
    """

    slot: Slot
    kind: str
    fingerprint: str
    state: EntryState
    request: str | None = None
    outcome: JsonValue = None
    #: `NightfleetError.to_data`, of an effect that failed.
    error: Mapping[str, Any] | None = None
    usage: Usage | None = None
    model: str | None = None
    #: The version of the agent that made the effect.
    digest: str | None = None
    milliseconds: int | None = None
    conversation: Sequence[JsonValue] | None = None
    event: EventLine | None = None
    head: str | None = None
    epoch: int = 0
    recorded_at: datetime | None = None


def fingerprint(kind: str, request: JsonValue) -> str:
    """Give what tells one request from another: equal for equal JSON, whatever the order of its keys."""
    text = json.dumps([kind, request], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def preview(request: JsonValue) -> str:
    """Give the beginning of a request as text, for people."""
    text = request if isinstance(request, str) else json.dumps(request, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= PREVIEW else text[: PREVIEW - 1] + "…"
