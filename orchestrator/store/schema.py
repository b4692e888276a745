"""The schema's version: bring it up, take it down, or tell what is in the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import DatabaseUnavailable, SchemaOutOfDate
from orchestrator.store.database import Database

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

#: Undefined table, invalid schema name.
_NO_TABLE = {"42P01", "3F000"}

_LOCK_NOT_AVAILABLE = "55P03"

#: The revision that this version of the code needs: the newest in `migrations/versions`.
HEAD = "0014"


def current(database: Database) -> str | None:
    """Give the revision of the database, None for an empty one."""
    try:
        row = database.execute(lambda session: session.row("schema_version"))
    except Exception as error:
        if "no such table" in str(error) or getattr(error, "sqlstate", None) in _NO_TABLE:
            return None
        raise
    return None if row is None else str(row[0])


def check(database: Database) -> None:
    """Make sure that code and schema belong together; raises `SchemaOutOfDate` with the way out."""
    found = current(database)
    if found == HEAD:
        return
    if found is None:
        raise SchemaOutOfDate(f"database {database.masked_url} has no tables of ours yet: run `nightfleet db upgrade`")
    if found > HEAD:
        raise SchemaOutOfDate(
            f"database {database.masked_url} is at revision {found}, this code needs {HEAD}: a newer version of nightfleet "
            "has upgraded it; upgrade this installation too"
        )
    raise SchemaOutOfDate(
        f"database {database.masked_url} is at revision {found}, this code needs {HEAD}: run `nightfleet db upgrade`"
    )


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema to a revision: idempotent, and safe to run from several processes at once."""
    if revision == "head" and current(database) == HEAD:
        return  # without half a second of imports: this is how every embedded process begins
    from alembic import command
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    with database.connect() as connection:
        if database.dialect == "postgresql":
            # Held until the transaction ends, so it needs no session of its own behind a pooler.
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"nightfleet {database.schema}"}
            )
            connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{database.schema}"'))
        # The lock is held: what is there now was committed by whoever held it before.
        if current(database) != HEAD or revision != "head":
            try:
                command.upgrade(_config(database, connection), revision)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
                raise DatabaseUnavailable(
                    f"database {database.masked_url}: the tables are held by a transaction that has been open for long "
                    "(pg_stat_activity shows it); nothing was changed: end it and run `nightfleet db upgrade` again"
                ) from None


def downgrade(database: Database, revision: str = "base") -> None:
    """Take the schema down to a revision, and the data of what goes with it."""
    from alembic import command

    with database.connect() as connection:
        command.downgrade(_config(database, connection), revision)


def remove(database: Database) -> None:
    """Remove the schema with everything in it: for installations that live as long as a test."""
    from sqlalchemy import text

    with database.connect() as connection:
        connection.execute(text(f'DROP SCHEMA IF EXISTS "{database.schema}" CASCADE'))


def _config(database: Database, connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["schema"] = database.schema if database.dialect == "postgresql" else None
    return config
