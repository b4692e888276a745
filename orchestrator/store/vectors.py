"""Search by nearness on each database: pgvector where Postgres has it, sqlite-vec where it can be loaded, else without.

Without an extension the answers are the same, and come later: every vector is compared in SQL, or in Python.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orchestrator.contracts.vector import similarity, unpack
from orchestrator.store.database import Database, Row, Session

log = logging.getLogger("nightfleet.memory")

#: What sqlite-vec calls the distance of two vectors.
_FUNCTION = "vec_distance_cosine"

ADVICE = (
    "this Postgres has no pgvector, so memories are compared one by one: install it on the server (the package "
    "postgresql-NN-pgvector, or an image such as pgvector/pgvector) and run CREATE EXTENSION vector in the database, which "
    "takes a role that may; it has to be in a schema of the search path, as `public` is. Workers find it when they start"
)


class Vectors:
    """How vectors are stored and compared in one database; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._postgres = database.dialect == "postgresql"
        self._nearest: str | None = None if self._postgres else "memory_nearest_sqlite"
        self._lock = threading.Lock()

    def stored(self, vector: bytes) -> Any:
        """Give a packed vector as a parameter."""
        return unpack(vector) if self._postgres else vector

    def nearest(self, session: Session, parameters: dict[str, Any], vector: bytes) -> list[Row]:
        """Give the nearest rows; `parameters` are those of `memory_nearest` but for the vector."""
        given = {**parameters, "vector": self.stored(vector)}
        if self._postgres:
            return session.rows(self._statement(session), **given)
        try:
            return session.rows("memory_nearest_sqlite", **given)
        except Exception as error:
            if f"no such function: {_FUNCTION}" not in str(error):
                raise
        session.use(_load)
        return session.rows("memory_nearest_sqlite", **given)

    def _statement(self, session: Session) -> str:
        """Give the statement for what this server has; looked up once."""
        with self._lock:
            if self._nearest is None:
                row = session.row("memory_has_vectors")
                self._nearest = "memory_nearest" if row is not None and row[0] else "memory_nearest_plain"
                if self._nearest == "memory_nearest_plain":
                    log.warning(ADVICE)
            return self._nearest


def _load(connection: Any) -> None:
    """Let a connection of SQLite compare vectors: by sqlite-vec, else by the same function in Python."""
    with suppress(Exception):  # a Python that loads no extensions, or an installation without the package
        _load_extension(connection)
        return
    connection.create_function(_FUNCTION, 2, _distance, deterministic=True)


def _load_extension(connection: Any) -> None:
    import sqlite_vec  # pyright: ignore[reportMissingTypeStubs]

    allow: Callable[[bool], None] = connection.enable_load_extension
    allow(True)  # noqa: FBT003 - sqlite3's own
    try:
        connection.load_extension(sqlite_vec.loadable_path())
    finally:
        allow(False)  # noqa: FBT003


def _distance(first: bytes, second: bytes) -> float:
    return 1.0 - similarity(first, second)
