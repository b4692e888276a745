"""What agents remember, and passages of documents, in the database of the installation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

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
from orchestrator.store.database import Database, Row, Session, times
from orchestrator.store.vectors import Vectors

#: How many memories that hold too much one call looks for.
_MOST_SCOPES = 50


class Memories:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._vectors = Vectors(database)

    def put(self, items: Sequence[MemoryItem]) -> None:
        """Keep pieces, each in place of the one with its id."""
        self._database.transact(lambda session: self._put(session, items))

    def put_document(self, scope: MemoryScope, source: str, items: Sequence[MemoryItem]) -> None:
        """Keep the passages of a document, in place of those that it had."""

        def work(session: Session) -> None:
            session.run("memory_remove_document", **_where(scope), source=source)
            self._put(session, items)

        self._database.transact(work)

    def search(self, scopes: Sequence[MemoryScope], wanted: Wanted) -> list[FoundItem]:
        """Give what is nearest, the nearest first, of memories of one project."""
        parameters = {
            **_project(scopes[0]),
            "scopes": [scope.name for scope in scopes],
            "embedder": wanted.embedder,
            "most": wanted.limit,
            **_filter(wanted.kinds, wanted.about),
        }
        rows = self._database.execute(lambda session: self._vectors.nearest(session, parameters, wanted.vector))
        return [FoundItem(_item(scopes[0], row), shown_score(row[10])) for row in rows]

    def other_embedder(self, scopes: Sequence[MemoryScope], embedder: str) -> tuple[MemoryScope, str] | None:
        """Give an embedder that has made vectors there and is another one, and whose memory that is."""
        names = [scope.name for scope in scopes]
        row = self._database.execute(
            lambda session: session.row("memory_other_embedder", **_project(scopes[0]), scopes=names, embedder=embedder)
        )
        return None if row is None else (scopes[0]._replace(name=row[0]), row[1])

    def list(
        self, scope: MemoryScope, *, kinds: Sequence[str] = (), about: str | None = None, limit: int = 50
    ) -> list[MemoryItem]:
        """Give pieces without their vectors, the newest first."""
        rows = self._database.execute(
            lambda session: session.rows("memory_list", **_where(scope), **_filter(kinds, about), most=limit)
        )
        return [_item(scope, row) for row in rows]

    def of_others(self, scope: MemoryScope, embedder: str, *, limit: int) -> list[MemoryItem]:
        """Give pieces whose vectors another embedder has made."""
        rows = self._database.execute(
            lambda session: session.rows("memory_others", **_where(scope), embedder=embedder, most=limit)
        )
        return [_item(scope, row) for row in rows]

    def summaries(self, tenant_id: str, project_id: str) -> list[MemorySummary]:
        """Give every memory and corpus of a project, by name."""
        rows = self._database.execute(
            lambda session: session.rows(
                "memory_embedders", tenant_id=tenant_id, project_id=project_id, any_scope=1, scopes=[]
            )
        )
        return [_summary(name, list(found)) for name, found in groupby(rows, key=lambda row: row[0])]

    def documents(self, scope: MemoryScope) -> dict[str, tuple[str, str]]:
        """Give the documents of a corpus, with their digests and embedders."""
        rows = self._database.execute(lambda session: session.rows("memory_documents", **_where(scope)))
        return {source: (digest, embedder) for source, digest, embedder in rows}

    def remove(self, scope: MemoryScope, ids: Sequence[str]) -> int:
        """Forget some pieces; gives how many of them there were."""
        return self._database.execute(lambda session: session.run("memory_remove", **_where(scope), ids=list(ids)))

    def remove_all(self, scope: MemoryScope, about: str | None = None) -> int:
        """Forget all, or all that is about something; gives how much that was."""
        parameters = {**_where(scope), "any_about": int(about is None), "about": about or ""}
        return self._database.execute(lambda session: session.run("memory_remove_about", **parameters))

    def trim(self, scope: MemoryScope, rule: Forgetting) -> int:
        """Forget what a rule says of one memory, whatever it is; gives how much that was."""

        def work(session: Session) -> int:
            count = 0
            if rule.age_seconds is not None:
                parameters = {**_where(scope), "any_scope": 0, "most": 2**31 - 1}
                count += session.run("memory_remove_old", age=float(rule.age_seconds), **parameters)
            if rule.keep is not None:
                held = session.rows("memory_count", **_where(scope))[0][0]
                if held > rule.keep:
                    count += session.run("memory_remove_oldest", **_where(scope), most=held - rule.keep)
            return count

        return self._database.transact(work)

    def forget(self, rule: Forgetting, *, most: int) -> int:
        """Forget up to `most` pieces, in whosever memory, that a rule does not keep; gives how many they were."""
        count = 0
        if rule.age_seconds is not None:
            everywhere = {"any_scope": 1, "scope": "", "tenant_id": _NOBODY, "project_id": _NOBODY}
            age = float(rule.age_seconds)
            count = self._database.execute(
                lambda session: session.run("memory_remove_old", age=age, most=most, **everywhere)
            )
        if rule.keep is not None and count < most:
            count += self._forget_more_than(rule.keep, most - count)
        return count

    def _forget_more_than(self, keep: int, most: int) -> int:
        def work(session: Session) -> int:
            count = 0
            for tenant_id, project_id, scope, held in session.rows("memory_overfull", keep=keep, most=_MOST_SCOPES):
                excess = min(held - keep, most - count)
                if excess <= 0:
                    break
                count += session.run(
                    "memory_remove_oldest", **_where(MemoryScope(tenant_id, project_id, scope)), most=excess
                )
            return count

        return self._database.transact(work)

    def _put(self, session: Session, items: Sequence[MemoryItem]) -> None:
        for item in items:
            session.run(
                "memory_put",
                **_where(item.scope),
                id=item.id,
                kind=item.kind,
                about=item.about,
                body=item.text,
                source=item.source,
                line=item.line,
                digest=item.digest,
                embedder=item.embedder,
                embedding=self._vectors.stored(item.vector),
            )


#: The id of no tenant and no project.
_NOBODY = "00000000-0000-0000-0000-000000000000"


def _project(scope: MemoryScope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "project_id": scope.project_id}


def _where(scope: MemoryScope) -> dict[str, Any]:
    return {**_project(scope), "scope": scope.name}


def _filter(kinds: Sequence[str], about: str | None) -> dict[str, Any]:
    return {"any_kind": int(not kinds), "kinds": list(kinds), "any_about": int(about is None), "about": about or ""}


def _item(scope: MemoryScope, row: Row) -> MemoryItem:
    identity, name, kind, about, body, source, line, digest, embedder, created_at = row[:10]
    return MemoryItem(
        identity, scope._replace(name=name), body, embedder, b"", kind, about, source, line, digest, times(created_at)
    )


def _summary(name: str, rows: Sequence[Row]) -> MemorySummary:
    newest = max(found for row in rows if (found := times(row[3])) is not None)
    return summary_of(name, [(row[1], row[2]) for row in rows], sum(row[4] for row in rows), newest)
