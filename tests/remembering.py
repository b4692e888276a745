"""Stores of memories for tests, each on what it really needs, and pieces to put into them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from steps import ago

from orchestrator.clock import Clock, SystemClock, ids
from orchestrator.contracts.memory import MemoryItem, MemoryScope
from orchestrator.contracts.vector import pack
from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from orchestrator.store.memories import Memories
from orchestrator.store.tables import memory
from worker.memory.base import MemoryStore
from worker.memory.inmemory import InMemoryStore

OTHER_TENANT = "00000000-0000-7000-8000-0000000000aa"
OTHER_PROJECT = "00000000-0000-7000-8000-0000000000bb"


class ShiftedClock(SystemClock):
    """A clock that can be told to have been slow."""

    behind = timedelta()

    def now(self) -> Any:
        return super().now() - self.behind


@dataclass
class Shelf:
    """A store, and how to make something in it older than it is."""

    store: MemoryStore
    #: Puts a piece into the store that is as old as this, in seconds.
    aged: Callable[[Sequence[str], float], None]
    mine: MemoryScope = field(default=MemoryScope.of_agent(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, "agent"))
    shared: MemoryScope = field(default=MemoryScope.of_agent(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, ""))
    corpus: MemoryScope = field(default=MemoryScope.of_corpus(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, "manual"))

    def put(
        self,
        said: str,
        direction: Sequence[float],
        *,
        scope: MemoryScope | None = None,
        identity: str | None = None,
        kind: str = "semantic",
        about: str | None = None,
        source: str | None = None,
        embedder: str = "test/3",
        seconds_ago: float = 0,
    ) -> MemoryItem:
        item = MemoryItem(
            identity or ids.new(), scope or self.mine, said, embedder, pack(direction), kind, about, source
        )
        self.store.put([item])
        if seconds_ago:
            self.aged([item.id], seconds_ago)
        return item

    def document(self, source: str, *passages: str, digest: str, seconds_ago: float = 0) -> None:
        items = [
            MemoryItem(
                ids.new(), self.corpus, each, "test/3", pack([1, 0, 0]), source=source, line=number, digest=digest
            )
            for number, each in enumerate(passages, 1)
        ]
        self.store.put_document(self.corpus, source, items)
        if seconds_ago:
            self.aged([item.id for item in items], seconds_ago)


@contextmanager
def shelves(kind: str, request: pytest.FixtureRequest) -> Generator[Shelf]:
    """Give an empty store of a kind."""
    match kind:
        case "in memory":
            yield in_memory()
        case "qdrant":
            yield in_qdrant()
        case "sqlite":
            yield in_database(request.getfixturevalue("sqlite"))
        case "sqlite-vec":
            database = request.getfixturevalue("sqlite")
            with sqlite_vec(database):
                yield in_database(database)
        case "postgres":
            yield in_database(request.getfixturevalue("postgres"))
        case "pgvector":
            yield in_database(request.getfixturevalue("pgvector"))
        case _:
            raise ValueError(kind)


def in_memory() -> Shelf:
    clock = ShiftedClock()
    store = InMemoryStore(clock)
    items = store._items  # pyright: ignore[reportPrivateUsage]

    def aged(identities: Sequence[str], seconds: float) -> None:
        for identity in identities:
            at = clock.now() - timedelta(seconds=seconds)
            items[identity] = replace(items[identity], created_at=at)

    return Shelf(store, aged)


def in_qdrant() -> Shelf:
    from qdrant_client import QdrantClient

    from worker.memory.qdrant import QdrantStore

    clock: Clock = SystemClock()
    client = QdrantClient(":memory:")
    store = QdrantStore(client, prefix="test", clock=clock)

    def aged(identities: Sequence[str], seconds: float) -> None:
        at = (clock.now() - timedelta(seconds=seconds)).timestamp()
        for name in store._points.collections():  # pyright: ignore[reportPrivateUsage]
            client.set_payload(name, {"created_at": at}, points=list(identities))

    return Shelf(store, aged)


def in_database(database: Database) -> Shelf:
    with database.connect() as connection:
        if database.dialect == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        for tenant_id, project_id in ((OTHER_TENANT, OTHER_PROJECT),):
            at = ago(database, 0)
            connection.execute(
                text(f"INSERT INTO {database.qualify('tenant')} (id, name, created_at) VALUES (:id, 'other', :at)"),
                {"id": tenant_id, "at": at},
            )
            connection.execute(
                text(
                    f"INSERT INTO {database.qualify('project')} (id, tenant_id, name, created_at) "
                    "VALUES (:id, :tenant, 'other', :at)"
                ),
                {"id": project_id, "tenant": tenant_id, "at": at},
            )

    def aged(identities: Sequence[str], seconds: float) -> None:
        with database.connect() as connection:
            connection.execute(
                update(memory).where(memory.c.id.in_(identities)).values(created_at=ago(database, seconds))
            )

    return Shelf(Memories(database), aged)


@contextmanager
def sqlite_vec(database: Database) -> Generator[None]:
    """Let the connections of a database have sqlite-vec meanwhile, also in a Python that loads no extensions."""
    import _sqlite3

    import sqlite_vec  # pyright: ignore[reportMissingTypeStubs]

    library = ctypes.CDLL(_sqlite3.__file__)
    entry = ctypes.cast(ctypes.CDLL(f"{sqlite_vec.loadable_path()}.so").sqlite3_vec_init, ctypes.c_void_p)
    database.close()
    assert library.sqlite3_auto_extension(entry) == 0
    try:
        yield
    finally:
        database.close()
        library.sqlite3_cancel_auto_extension(entry)
