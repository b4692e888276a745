"""Memories in Qdrant, in place of the database: one collection for the vectors of each embedder.

Every point names its tenant, project and scope in one field, and no question is asked without it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.memory import (
    Forgetting,
    FoundItem,
    MemoryItem,
    MemoryScope,
    MemorySummary,
    Wanted,
    shown_score,
    summary_of,
)
from orchestrator.contracts.vector import dimensions, unpack
from orchestrator.errors import MemoryUnavailable, SettingsInvalid
from worker.memory.points import PAGE, Points, item_of, payload_of, where_of

if TYPE_CHECKING:
    from pydantic import SecretStr
    from qdrant_client import QdrantClient

_TIMEOUT_SECONDS = 10


class QdrantStore:
    """A `MemoryStore` on Qdrant. A write is seen by the next read; a document that changes is seen with both its versions
    for a moment.

    Raises `MemoryUnavailable` when the server cannot be reached, or refuses what it is asked.
    """

    def __init__(self, client: QdrantClient, *, prefix: str, clock: Clock = system_clock) -> None:
        self._points = Points(client, f"{prefix}-memory-")
        self._clock = clock

    @classmethod
    def at(cls, url: SecretStr, key: SecretStr | None, *, prefix: str) -> QdrantStore:
        """Give the store at an address; raises `SettingsInvalid` where the client is not installed."""
        try:
            from qdrant_client import QdrantClient
        except ModuleNotFoundError:
            raise SettingsInvalid(
                "NIGHTFLEET_QDRANT_URL is set and qdrant-client is not installed: pip install 'nightfleet[qdrant]'"
            ) from None
        address = url.get_secret_value()
        with _explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that are sent without TLS: the address is the operator's choice
            client = QdrantClient(
                url=address,
                api_key=None if key is None else key.get_secret_value(),
                timeout=_TIMEOUT_SECONDS,
                check_compatibility=False,
            )
        return cls(client, prefix=prefix)

    # Writing ----------------------------------------------------------------------------------------------------------

    def put(self, items: Sequence[MemoryItem]) -> None:
        """Keep pieces."""
        with _explained():
            for embedder in dict.fromkeys(item.embedder for item in items):
                self._put(embedder, [item for item in items if item.embedder == embedder])

    def put_document(self, scope: MemoryScope, source: str, items: Sequence[MemoryItem]) -> None:
        """Keep the passages of a document: the new ones first, then the old ones go."""
        self.put(items)
        new = [item.id for item in items]
        with _explained():
            for name in self._points.collections():
                old = self._points.filter(
                    self._points.has("where", where_of(scope)), self._points.has("source", source)
                )
                if new:
                    old.must_not = [self._points.models.HasIdCondition(has_id=new)]
                self._points.client.delete(
                    name, points_selector=self._points.models.FilterSelector(filter=old), wait=True
                )

    def _put(self, embedder: str, items: Sequence[MemoryItem]) -> None:
        points = self._points
        home = points.home(embedder, dimensions(items[0].vector))
        there = points.stored([item.id for item in items])
        new: list[Any] = []
        for item in items:
            before = [payloads[item.id] for payloads in there.values() if item.id in payloads]
            if any(payload["where"] != where_of(item.scope) for payload in before):
                continue  # an id of somebody else's takes nothing from there
            made_at = before[0]["created_at"] if before else self._clock.now().timestamp()
            payload = payload_of(item, made_at)
            new.append(points.models.PointStruct(id=item.id, vector=unpack(item.vector), payload=payload))
        for start in range(0, len(new), PAGE):
            points.client.upsert(home, points=new[start : start + PAGE], wait=True)
        moved = {point.id for point in new}
        for name, payloads in there.items():
            # What another embedder has made of it goes last: cut off before this, it is there twice rather than nowhere.
            if name != home and (old := sorted(moved & payloads.keys())):
                points.client.delete(name, points_selector=old, wait=True)

    # Reading ----------------------------------------------------------------------------------------------------------

    def search(self, scopes: Sequence[MemoryScope], wanted: Wanted) -> list[FoundItem]:
        """Give what is nearest, the nearest first."""
        with _explained():
            name = self._points.name(wanted.embedder)
            if name not in self._points.collections():
                return []
            given = self._points.client.query_points(
                name,
                query=unpack(wanted.vector),
                query_filter=self._points.filter(
                    self._points.any_of("where", [where_of(scope) for scope in scopes]),
                    *self._points.narrowed(wanted.kinds, wanted.about),
                ),
                limit=wanted.limit,
                with_payload=True,
            )
            found = [FoundItem(item_of(point), shown_score(point.score)) for point in given.points]
        return sorted(found, key=lambda each: (-each.score, each.item.id))

    def other_embedder(self, scopes: Sequence[MemoryScope], embedder: str) -> tuple[MemoryScope, str] | None:
        """Give an embedder that has made vectors there and is another one, and whose memory that is."""
        there = self._points.filter(self._points.any_of("where", [where_of(scope) for scope in scopes]))
        with _explained():
            for name in self._points.collections() - {self._points.name(embedder)}:
                points, _ = self._points.client.scroll(name, scroll_filter=there, limit=1, with_payload=True)
                for point in points:
                    item = item_of(point)
                    return item.scope, item.embedder
        return None

    def list(
        self, scope: MemoryScope, *, kinds: Sequence[str] = (), about: str | None = None, limit: int = 50
    ) -> list[MemoryItem]:
        """Give pieces, the newest first."""
        with _explained():
            return self._points.in_order(
                self._points.filter(self._points.of(scope), *self._points.narrowed(kinds, about)),
                limit,
                newest_first=True,
            )

    def of_others(self, scope: MemoryScope, embedder: str, *, limit: int) -> list[MemoryItem]:
        """Give pieces whose vectors another embedder has made."""
        with _explained():
            others = self._points.collections() - {self._points.name(embedder)}
            return [
                item_of(point)
                for point in self._points.every(self._points.filter(self._points.of(scope)), others, limit)
            ]

    def summaries(self, tenant_id: str, project_id: str) -> list[MemorySummary]:
        """Give every memory and corpus of a project."""
        counts: dict[str, Counter[str]] = {}
        sources: dict[str, set[str]] = {}
        newest: dict[str, datetime] = {}
        with _explained():
            for point in self._points.every(
                self._points.filter(self._points.has("of_project", f"{tenant_id}/{project_id}")),
                self._points.collections(),
            ):
                item = item_of(point)
                assert item.created_at is not None
                name = item.scope.name
                counts.setdefault(name, Counter())[item.embedder] += 1
                sources.setdefault(name, set()).add(item.source or "")
                newest[name] = max(newest.get(name, item.created_at), item.created_at)
        return [
            summary_of(name, list(counts[name].items()), len(sources[name]), newest[name]) for name in sorted(counts)
        ]

    def documents(self, scope: MemoryScope) -> dict[str, tuple[str, str]]:
        """Give the documents of a corpus."""
        with _explained():
            items = [
                item_of(point)
                for point in self._points.every(self._points.filter(self._points.of(scope)), self._points.collections())
            ]
        return {item.source: (item.digest or "", item.embedder) for item in items if item.source is not None}

    # Forgetting -------------------------------------------------------------------------------------------------------

    def remove(self, scope: MemoryScope, ids: Sequence[str]) -> int:
        """Forget some pieces."""
        with _explained():
            return self._points.delete(
                self._points.filter(self._points.of(scope), self._points.models.HasIdCondition(has_id=list(ids)))
            )

    def remove_all(self, scope: MemoryScope, about: str | None = None) -> int:
        """Forget all, or all that is about something."""
        with _explained():
            return self._points.delete(self._points.filter(self._points.of(scope), *self._points.narrowed((), about)))

    def trim(self, scope: MemoryScope, rule: Forgetting) -> int:
        """Forget what a rule does not keep of one scope."""
        count = 0
        with _explained():
            if rule.age_seconds is not None:
                count = self._points.delete(
                    self._points.filter(self._points.of(scope), self._points.older(self._before(rule.age_seconds)))
                )
            if rule.keep is not None:
                count += self._forget_oldest(where_of(scope), rule.keep, most=None)
        return count

    def forget(self, rule: Forgetting, *, most: int) -> int:
        """Forget up to `most` memories that a rule does not keep."""
        count = 0
        with _explained():
            if rule.age_seconds is not None:
                old = self._points.filter(
                    self._points.has("memory", "yes"), self._points.older(self._before(rule.age_seconds))
                )
                count = self._points.remove(self._points.in_order(old, most, newest_first=False))
            if rule.keep is not None:
                for where in self._overfull(rule.keep):
                    if count < most:
                        count += self._forget_oldest(where, rule.keep, most - count)
        return count

    def _before(self, age_seconds: float) -> float:
        return self._clock.now().timestamp() - age_seconds

    def _overfull(self, keep: int) -> list[str]:
        """Give the scopes that hold more than they may."""
        held: Counter[str] = Counter()
        memories = self._points.filter(self._points.has("memory", "yes"))
        for name in self._points.collections():
            given = self._points.client.facet(name, key="where", facet_filter=memories, limit=100_000, exact=True)
            held.update({hit.value: hit.count for hit in given.hits})
        return sorted(where for where, count in held.items() if count > keep)

    def _forget_oldest(self, where: str, keep: int, most: int | None) -> int:
        there = self._points.filter(self._points.has("where", where))
        held = sum(
            self._points.client.count(name, count_filter=there, exact=True).count for name in self._points.collections()
        )
        excess = max(0, held - keep) if most is None else min(max(0, held - keep), most)
        return self._points.remove(self._points.in_order(there, excess, newest_first=False)) if excess else 0


@contextmanager
def _explained() -> Generator[None]:
    """Raise what the client raises as what it means."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as error:
        raise MemoryUnavailable(
            f"cannot reach Qdrant: {type(error.source).__name__}; start it or correct NIGHTFLEET_QDRANT_URL"
        ) from None
    except UnexpectedResponse as error:
        raise MemoryUnavailable(
            f"Qdrant has refused a request with status {error.status_code} ({error.reason_phrase}): look into its log; for "
            "401 and 403 check NIGHTFLEET_QDRANT_API_KEY"
        ) from None
