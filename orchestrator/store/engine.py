"""How each database is connected to: drivers, pools, and what every new connection is told."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.errors import SettingsInvalid


def parse_url(text: str) -> URL:
    """Read a database URL; raises `SettingsInvalid` for what is none of ours, without showing it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsInvalid(
            "NIGHTFLEET_DATABASE_URL is no URL; write postgresql://user:password@host:5432/name"
        ) from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in {"sqlite", "sqlite+pysqlite"}:
        return url
    raise SettingsInvalid(
        f"NIGHTFLEET_DATABASE_URL: {url.drivername}:// is not supported; use postgresql:// or sqlite://"
    )


def make_engine(url: URL, *, pool_size: int, connect_timeout: timedelta, prepare: bool) -> Engine:
    """Make the engine: connections in autocommit mode, opened when they are needed, left as they are between uses."""
    seconds = max(1, round(connect_timeout.total_seconds()))
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": 30,
        "pool_reset_on_return": None,
    }
    try:
        if url.get_backend_name() == "sqlite":
            if url.database and url.database != ":memory:":
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            arguments: dict[str, Any] = {"check_same_thread": False, "isolation_level": None, "timeout": 30}
            from sqlalchemy.pool import QueuePool

            engine = create_engine(url, poolclass=QueuePool, connect_args=arguments, **options)
            event.listen(engine, "connect", _prepare_sqlite)
            return engine
        arguments = {"autocommit": True, "prepare_threshold": 2 if prepare else None, "connect_timeout": seconds}
        if "connect_timeout" in url.query:
            del arguments["connect_timeout"]
        engine = create_engine(url, connect_args=arguments, **options)
    except NoSuchModuleError as error:
        raise SettingsInvalid(f"NIGHTFLEET_DATABASE_URL: {error}") from None
    event.listen(engine, "connect", _prepare_postgres)
    if prepare:
        event.listen(engine, "connect", _plan_once)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # Survives the death of the process, not a power cut: the price of a commit without waiting for the disk.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _plan_once(connection: Any, _entry: ConnectionPoolEntry) -> None:
    # Planning our statements anew costs more than executing them, and every one of them goes by an index whatever its
    # parameters are. Only where statements are prepared, so never on a connection that a pooler shares.
    connection.execute("SET plan_cache_mode = force_generic_plan")
    # A plan made while a table was all but empty would read the whole of it for as long as the connection lives.
    connection.execute("SET enable_seqscan = off")
    # A bitmap is for thousands of rows, and gives them, and so their locks, in no order of ours.
    connection.execute("SET enable_bitmapscan = off")


def _prepare_postgres(connection: Any, _entry: ConnectionPoolEntry) -> None:
    # Ids and JSON stay text: ids are compared and sent on, JSON is decoded by who reads it, if anybody does.
    from psycopg.types.string import TextLoader

    for name in ("uuid", "json", "jsonb"):
        connection.adapters.register_loader(name, TextLoader)
