"""How databases compare vectors: with an extension where there is one, and the same without."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlite_vec as package  # pyright: ignore[reportMissingTypeStubs]
from remembering import Shelf, in_database, sqlite_vec
from sqlalchemy import text

from orchestrator.clock import chance
from orchestrator.contracts.memory import Wanted
from orchestrator.contracts.vector import pack
from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.vectors import Vectors

NUMBERS = chance("vectors")
DIRECTIONS = [[NUMBERS.gauss(0, 1) for _ in range(64)] for _ in range(40)]


def found_in(database: Database) -> list[tuple[str, float]]:
    shelf = in_database(database)
    for number, direction in enumerate(DIRECTIONS):
        shelf.put(str(number), direction, embedder="test/64")
    found = shelf.store.search([shelf.mine], Wanted("test/64", pack(DIRECTIONS[0]), 40))
    return [(each.item.text, each.score) for each in found]


@pytest.fixture
def other_sqlite(tmp_path: Path) -> Iterator[Database]:
    target = f"sqlite:///{tmp_path / 'other.db'}"
    made = Database(target, schema="", pool_size=2, connect_timeout=timedelta(seconds=4), prepare=True)
    schema.upgrade(made)
    yield made
    made.close()


def test_every_way_to_compare_gives_the_same(
    postgres: Database, pgvector: Database, sqlite: Database, other_sqlite: Database
) -> None:
    without = found_in(postgres)
    assert without[0] == ("0", 1.0)
    with sqlite_vec(other_sqlite):
        others = [found_in(pgvector), found_in(sqlite), found_in(other_sqlite)]
    for found in others:
        assert [name for name, score in found if score] == [name for name, score in without if score]
        assert [score for _, score in found] == pytest.approx([score for _, score in without], abs=2e-4)


def statements_of(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    before = database.statement

    def statement(name: str) -> str:
        asked.append(name)
        return before(name)

    monkeypatch.setattr(database, "statement", statement)
    shelf = in_database(database)
    shelf.put("one", [1.0, 0.0])
    shelf.store.search([shelf.mine], Wanted("test/3", pack([1.0, 0.0])))
    shelf.store.search([shelf.mine], Wanted("test/3", pack([1.0, 0.0])))
    return [name for name in asked if "nearest" in name or "vectors" in name]


def test_pgvector_is_used_where_it_is(pgvector: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert statements_of(pgvector, monkeypatch) == ["memory_has_vectors", "memory_nearest", "memory_nearest"]


def test_postgres_without_pgvector_says_once_what_would_help_and_does_without(
    postgres: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "nightfleet.memory"):
        asked = statements_of(postgres, monkeypatch)
    assert asked == ["memory_has_vectors", "memory_nearest_plain", "memory_nearest_plain"]
    [said] = [record.message for record in caplog.records]
    assert "CREATE EXTENSION vector" in said


def test_what_was_remembered_without_the_extension_is_found_with_it(pgvector: Database) -> None:
    with pgvector.connect() as connection:
        connection.execute(text("DROP EXTENSION vector"))
    try:
        shelf = in_database(pgvector)
        shelf.put("before", [1.0, 0.0, 0.0])
        assert [each.item.text for each in shelf.store.search([shelf.mine], Wanted("test/3", pack([1, 0, 0])))] == [
            "before"
        ]
    finally:
        with pgvector.connect() as connection:
            connection.execute(text("CREATE EXTENSION vector"))
    later = Shelf(Store(pgvector).memories, shelf.aged)
    assert [each.item.text for each in later.store.search([later.mine], Wanted("test/3", pack([1, 0, 0])))] == [
        "before"
    ]


def test_sqlite_vec_answers_where_it_is_loaded(sqlite: Database) -> None:
    with sqlite_vec(sqlite):
        shelf = in_database(sqlite)
        shelf.put("one", [1.0, 0.0, 0.0])
        with sqlite.connect() as connection:
            version = connection.exec_driver_sql("SELECT vec_version()").scalar_one()
            score = connection.exec_driver_sql(
                "SELECT vec_distance_cosine(embedding, embedding) FROM memory"
            ).scalar_one()
    assert version.startswith("v0.")
    assert score == pytest.approx(0)


class Loading:
    """A connection of a Python whose SQLite loads extensions."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def enable_load_extension(self, allowed: bool) -> None:
        self.calls.append(("allow", allowed))

    def load_extension(self, path: str) -> None:
        self.calls.append(("load", path))


class Once:
    """A session of a connection that knows no vectors until it was prepared."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.prepared = False

    def rows(self, statement: str, **parameters: Any) -> list[Any]:
        if not self.prepared:
            raise sqlite3.OperationalError("no such function: vec_distance_cosine")
        return [statement]

    def use(self, work: Any) -> None:
        work(self.connection)
        self.prepared = True


def test_the_extension_is_loaded_with_the_first_search_and_nothing_else_may_be(sqlite: Database) -> None:
    connection = Loading()
    given: Any = Once(connection)
    assert Vectors(sqlite).nearest(given, {}, pack([1.0])) == ["memory_nearest_sqlite"]
    assert connection.calls == [("allow", True), ("load", package.loadable_path()), ("allow", False)]
