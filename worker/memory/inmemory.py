"""Memories and conversations in this process: what tests use, and what every other store is compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby

from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.memory import (
    Forgetting,
    FoundItem,
    MemoryItem,
    MemoryScope,
    MemorySummary,
    SessionRef,
    SessionSummary,
    StoredMessage,
    Wanted,
    shown_score,
    summary_of,
)
from orchestrator.contracts.vector import similarity
from worker.memory.forgetting import outlived


class InMemoryStore:
    """A `MemoryStore` that is gone with the process."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._items: dict[str, MemoryItem] = {}

    def put(self, items: Sequence[MemoryItem]) -> None:
        with self._lock:
            for item in items:
                before = self._items.get(item.id)
                if before is None or before.scope == item.scope:
                    made_at = self._clock.now() if before is None else before.created_at
                    self._items[item.id] = replace(item, created_at=made_at)

    def put_document(self, scope: MemoryScope, source: str, items: Sequence[MemoryItem]) -> None:
        with self._lock:
            self._drop(item for item in self._of(scope) if item.source == source)
            self.put(items)

    def search(self, scopes: Sequence[MemoryScope], wanted: Wanted) -> list[FoundItem]:
        there = [item for scope in scopes for item in self._of(scope) if item.embedder == wanted.embedder]
        scored = [
            FoundItem(_without_vector(item), shown_score(similarity(item.vector, wanted.vector)))
            for item in there
            if _fits(item, wanted.kinds, wanted.about)
        ]
        return sorted(scored, key=lambda found: (-found.score, found.item.id))[: wanted.limit]

    def other_embedder(self, scopes: Sequence[MemoryScope], embedder: str) -> tuple[MemoryScope, str] | None:
        others = (item for scope in scopes for item in self._of(scope) if item.embedder != embedder)
        return next(((item.scope, item.embedder) for item in others), None)

    def list(
        self, scope: MemoryScope, *, kinds: Sequence[str] = (), about: str | None = None, limit: int = 50
    ) -> list[MemoryItem]:
        found = [_without_vector(item) for item in self._of(scope) if _fits(item, kinds, about)]
        return sorted(found, key=_age, reverse=True)[:limit]

    def of_others(self, scope: MemoryScope, embedder: str, *, limit: int) -> list[MemoryItem]:
        return [_without_vector(item) for item in self._of(scope) if item.embedder != embedder][:limit]

    def summaries(self, tenant_id: str, project_id: str) -> list[MemorySummary]:
        with self._lock:
            of_project = [item for item in self._items.values() if item.scope[:2] == (tenant_id, project_id)]
        in_order = sorted(of_project, key=lambda item: item.scope.name)
        return [_summary(name, list(items)) for name, items in groupby(in_order, key=lambda item: item.scope.name)]

    def documents(self, scope: MemoryScope) -> dict[str, tuple[str, str]]:
        return {item.source: (item.digest or "", item.embedder) for item in self._of(scope) if item.source is not None}

    def remove(self, scope: MemoryScope, ids: Sequence[str]) -> int:
        wanted = set(ids)
        return self._drop(item for item in self._of(scope) if item.id in wanted)

    def remove_all(self, scope: MemoryScope, about: str | None = None) -> int:
        return self._drop(item for item in self._of(scope) if about is None or item.about == about)

    def trim(self, scope: MemoryScope, rule: Forgetting) -> int:
        return self._drop(outlived(self._of(scope), rule, self._clock.now()))

    def forget(self, rule: Forgetting, *, most: int) -> int:
        with self._lock:
            scopes = {item.scope for item in self._items.values() if item.scope.corpus is None}
            due = [item for scope in sorted(scopes) for item in outlived(self._of(scope), rule, self._clock.now())]
            return self._drop(due[:most])

    def _of(self, scope: MemoryScope) -> list[MemoryItem]:
        with self._lock:
            return [item for item in self._items.values() if item.scope == scope]

    def _drop(self, items: Iterable[MemoryItem]) -> int:
        with self._lock:
            return sum(1 for item in list(items) if self._items.pop(item.id, None) is not None)


@dataclass(slots=True)
class _Conversation:
    made_at: datetime
    used_at: datetime
    messages: dict[str, str] = field(default_factory=dict[str, str])


class InMemorySessions:
    """A `SessionStore` that is gone with the process."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[SessionRef, _Conversation] = {}

    def append(self, ref: SessionRef, messages: Sequence[StoredMessage], *, keep: int) -> int:
        with self._lock:
            now = self._clock.now()
            held = self._held.setdefault(ref, _Conversation(now, now))
            held.used_at = now
            held.messages.update((message.id, message.body) for message in messages)
            for identity in list(held.messages)[: max(0, len(held.messages) - keep)]:
                del held.messages[identity]
            return len(held.messages)

    def read(self, ref: SessionRef, *, limit: int) -> list[str]:
        with self._lock:
            held = self._held.get(ref)
            return [] if held is None else list(held.messages.values())[-limit:]

    def clear(self, ref: SessionRef) -> int:
        with self._lock:
            held = self._held.get(ref)
            if held is None:
                return 0
            count = len(held.messages)
            held.messages.clear()
            return count

    def list(self, tenant_id: str, project_id: str, agent: str | None = None) -> list[SessionSummary]:
        def is_meant(ref: SessionRef) -> bool:
            return ref[:2] == (tenant_id, project_id) and agent in {None, ref.agent}

        with self._lock:
            found = [
                SessionSummary(agent=ref.agent, session=ref.name, messages=len(held.messages), used_at=held.used_at)
                for ref, held in self._held.items()
                if is_meant(ref)
            ]
        return sorted(found, key=lambda each: each.used_at, reverse=True)

    def forget(self, rule: Forgetting, *, most: int) -> int:
        if rule.age_seconds is None:
            return 0
        with self._lock:
            before = self._clock.now() - timedelta(seconds=rule.age_seconds)
            due = [ref for ref, held in self._held.items() if held.used_at < before][:most]
            for ref in due:
                del self._held[ref]
            return len(due)


def _age(item: MemoryItem) -> tuple[datetime, str]:
    assert item.created_at is not None
    return item.created_at, item.id


def _fits(item: MemoryItem, kinds: Sequence[str], about: str | None) -> bool:
    return (not kinds or item.kind in kinds) and (about is None or item.about == about)


def _without_vector(item: MemoryItem) -> MemoryItem:
    return replace(item, vector=b"")


def _summary(name: str, items: list[MemoryItem]) -> MemorySummary:
    def counted(key: Callable[[MemoryItem], str]) -> list[tuple[str, int]]:
        in_order = sorted(items, key=key)
        return [(value, len(list(of_value))) for value, of_value in groupby(in_order, key=key)]

    newest = max(item.created_at for item in items if item.created_at is not None)
    return summary_of(name, counted(lambda item: item.embedder), len(counted(lambda item: item.source or "")), newest)
