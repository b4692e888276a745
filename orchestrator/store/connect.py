"""How each database is connected to: its URL, its driver, and what every new connection is told."""

from __future__ import annotations

import select
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SettingsInvalid
from orchestrator.store.sqlite_forks import forks

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where a database is: `target` is a libpq connection string, or the path of a file."""

    dialect: str
    target: str = field(repr=False)
    password: str | None = field(default=None, repr=False)


def parse_url(text: str) -> DatabaseUrl:
    """Read a database URL; raises `SettingsInvalid` for what is none of ours, without showing it."""
    scheme, separator, rest = text.partition("://")
    if not separator or not scheme:
        raise SettingsInvalid("NIGHTFLEET_DATABASE_URL is no URL; write postgresql://user:password@host:5432/name")
    if scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        target = f"postgresql://{rest}"
        try:
            parts = conninfo_to_dict(target)
            any(int(port) for port in str(parts.get("port", "")).split(",") if port)
        except (ProgrammingError, ValueError):
            raise SettingsInvalid(
                "NIGHTFLEET_DATABASE_URL is no URL; write postgresql://user:password@host:5432/name, with %XX for special "
                "characters in user and password"
            ) from None
        password = parts.get("password")
        return DatabaseUrl("postgresql", target, None if password is None else str(password))
    if scheme in {"sqlite", "sqlite+pysqlite"}:
        path = rest.partition("?")[0].removeprefix("/")
        if path in {"", ":memory:"}:
            raise SettingsInvalid("NIGHTFLEET_DATABASE_URL names no file; write sqlite:////folder/name.db")
        return DatabaseUrl("sqlite", path)
    raise SettingsInvalid(f"NIGHTFLEET_DATABASE_URL: {scheme}:// is not supported; use postgresql:// or sqlite://")


class Connector:
    """Opens connections: in autocommit mode, ready for our statements."""

    def __init__(self, url: DatabaseUrl, *, connect_timeout: timedelta, prepare: bool) -> None:
        self._url = url
        self._connect_timeout = max(1, round(connect_timeout.total_seconds()))
        self._prepare = prepare

    def open(self) -> Any:
        """Open a connection."""
        return self._open_sqlite() if self._url.dialect == "sqlite" else self._open_postgres()

    def is_stale(self, connection: Any) -> bool:
        """Tell whether the server has hung up on an idle connection: then there is an end of file to read.

        Costs a system call where a ping would cost a round trip; after a restart of the server no caller sees an old
        connection fail.
        """
        if self._url.dialect == "sqlite":
            return False
        if connection.closed:
            return True
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def _open_sqlite(self) -> sqlite3.Connection:
        import sqlite3

        forks().check(self._url.target)
        Path(self._url.target).parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._url.target, check_same_thread=False, isolation_level=None, timeout=30)
        connection.execute("PRAGMA journal_mode = WAL")
        # Survives the death of the process, not a power cut: the price of a commit without waiting for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _open_postgres(self) -> Any:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.types.string import TextLoader

        options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 2 if self._prepare else None}
        if "connect_timeout" not in conninfo_to_dict(self._url.target):
            options["connect_timeout"] = self._connect_timeout
        connection = psycopg.connect(self._url.target, **options)
        # Ids and JSON stay text: ids are compared and sent on, JSON is decoded by who reads it, if anybody does.
        for name in ("uuid", "json", "jsonb"):
            connection.adapters.register_loader(name, TextLoader)
        if self._prepare:
            _plan_once(connection)
        return connection


def _plan_once(connection: Any) -> None:
    # Planning our statements anew costs more than executing them, and every one of them goes by an index whatever its
    # parameters are. Only where statements are prepared, so never on a connection that a pooler shares.
    connection.execute(f"SET {'; SET '.join(_PLANNING)}")


_PLANNING = (
    "plan_cache_mode = force_generic_plan",
    # A plan made while a table was all but empty would read the whole of it for as long as the connection lives.
    "enable_seqscan = off",
    # A bitmap is for thousands of rows, and gives them, and so their locks, in no order of ours.
    "enable_bitmapscan = off",
    # Without the plans above a statement may look so dear that it is compiled: a hundred milliseconds each time.
    "jit = off",
)
