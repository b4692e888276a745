"""Points of Qdrant in the collections of one installation: what is stored of a piece, how it is chosen, found and deleted."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from orchestrator.cached_property import cached_property
from orchestrator.contracts.memory import MemoryItem, MemoryScope

#: How many points one request brings or takes.
PAGE = 500
#: What is looked for by: the tenant, project and scope together; tenant and project; and what narrows a search.
_KEYWORDS = ("where", "of_project", "kind", "about", "source", "memory")


class Points:
    """One collection for the vectors of each embedder, whose names begin with a prefix."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client = client
        self._prefix = prefix
        self._known: set[str] = set()

    @cached_property
    def models(self) -> Any:
        from qdrant_client import models

        return models

    def name(self, embedder: str) -> str:
        """Give the name of the collection of an embedder, whatever characters that has."""
        return f"{self._prefix}{hashlib.sha256(embedder.encode()).hexdigest()[:16]}"

    def collections(self) -> set[str]:
        return {each.name for each in self.client.get_collections().collections if each.name.startswith(self._prefix)}

    def home(self, embedder: str, size: int) -> str:
        """Give the collection of an embedder; it is made with its first vector."""
        name = self.name(embedder)
        if name in self._known or name in self.collections():
            self._known.add(name)
            return name
        models = self.models
        with _raced():
            self.client.create_collection(
                name, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in local mode, which has no indexes and needs none
            for field in _KEYWORDS:
                self.client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD, wait=True)
            self.client.create_payload_index(name, "created_at", models.PayloadSchemaType.FLOAT, wait=True)
        self._known.add(name)
        return name

    def stored(self, ids: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """Give what is stored of some points, by collection and id."""
        return {
            name: {
                str(point.id): point.payload for point in self.client.retrieve(name, ids=list(ids), with_payload=True)
            }
            for name in self.collections()
        }

    def filter(self, *conditions: Any) -> Any:
        return self.models.Filter(must=list(conditions))

    def of(self, scope: MemoryScope) -> Any:
        return self.has("where", where_of(scope))

    def has(self, field: str, value: str) -> Any:
        return self.models.FieldCondition(key=field, match=self.models.MatchValue(value=value))

    def any_of(self, field: str, values: Sequence[str]) -> Any:
        return self.models.FieldCondition(key=field, match=self.models.MatchAny(any=list(values)))

    def older(self, before: float) -> Any:
        return self.models.FieldCondition(key="created_at", range=self.models.Range(lt=before))

    def narrowed(self, kinds: Sequence[str], about: str | None) -> list[Any]:
        found = [self.any_of("kind", kinds)] if kinds else []
        return found if about is None else [*found, self.has("about", about)]

    def in_order(self, chosen: Any, limit: int, *, newest_first: bool) -> list[MemoryItem]:
        """Give points of all collections by their age."""
        models = self.models
        direction = models.Direction.DESC if newest_first else models.Direction.ASC
        order = models.OrderBy(key="created_at", direction=direction)
        found: list[MemoryItem] = []
        for name in self.collections():
            points, _ = self.client.scroll(name, scroll_filter=chosen, limit=limit, order_by=order, with_payload=True)
            found += [item_of(point) for point in points]
        by_age: Callable[[MemoryItem], Any] = lambda item: (item.created_at, item.id)  # noqa: E731
        return sorted(found, key=by_age, reverse=newest_first)[:limit]

    def every(self, chosen: Any, names: Iterable[str], limit: int | None = None) -> Iterator[Any]:
        """Give every point of some collections, page by page."""
        left = limit
        for name in sorted(names):
            offset: Any = None
            while left is None or left > 0:
                page = PAGE if left is None else min(PAGE, left)
                points, offset = self.client.scroll(
                    name, scroll_filter=chosen, limit=page, offset=offset, with_payload=True
                )
                yield from points
                left = None if left is None else left - len(points)
                if offset is None:
                    break

    def remove(self, items: Sequence[MemoryItem]) -> int:
        ids = [item.id for item in items]
        return self.delete(self.filter(self.models.HasIdCondition(has_id=ids))) if ids else 0

    def delete(self, chosen: Any) -> int:
        """Delete points, and give how many they were."""
        count = 0
        for name in self.collections():
            count += self.client.count(name, count_filter=chosen, exact=True).count
            self.client.delete(name, points_selector=self.models.FilterSelector(filter=chosen), wait=True)
        return count


def where_of(scope: MemoryScope) -> str:
    """Give tenant, project and scope as one word."""
    return "/".join(scope)


def payload_of(item: MemoryItem, made_at: float) -> dict[str, Any]:
    """Give what is stored of a piece beside its vector."""
    return {
        "where": where_of(item.scope),
        "of_project": f"{item.scope.tenant_id}/{item.scope.project_id}",
        "memory": "yes" if item.scope.corpus is None else "no",
        "kind": item.kind,
        "about": item.about,
        "text": item.text,
        "source": item.source,
        "line": item.line,
        "digest": item.digest,
        "embedder": item.embedder,
        "created_at": made_at,
    }


def item_of(point: Any) -> MemoryItem:
    """Give a point as a piece; its vector is left out."""
    said: dict[str, Any] = point.payload
    tenant_id, project_id, name = said["where"].split("/", 2)
    return MemoryItem(
        str(point.id),
        MemoryScope(tenant_id, project_id, name),
        said["text"],
        said["embedder"],
        b"",
        said["kind"],
        said["about"],
        said["source"],
        said["line"],
        said["digest"],
        datetime.fromtimestamp(said["created_at"], UTC),
    )


@contextmanager
def _raced() -> Generator[None]:
    """Let go that somebody else has made a collection meanwhile."""
    from qdrant_client.http.exceptions import UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        if error.status_code != 409:
            raise
