"""Upgraded schemas by copy: more than a thousand tests want one of their own, and migrations take most of a second."""

from __future__ import annotations

import functools
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
from servers import installed

from orchestrator.store import schema
from orchestrator.store.database import Database


def make(url: str, name: str) -> None:
    """Make what `schema.upgrade` makes of nothing: the schema `name` on Postgres, the file on SQLite."""
    if url.startswith("sqlite:///"):
        shutil.copyfile(_file(), url.removeprefix("sqlite:///"))
        return
    original, script = _script(url)
    if not script:
        with _upgraded(url, name):
            return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"BEGIN; {script.replace(original, name)} COMMIT".encode())


@functools.cache
def _file() -> Path:
    path = Path(tempfile.mkdtemp(prefix="nightfleet-tests-")) / "upgraded.db"
    with _upgraded(f"sqlite:///{path}", ""):
        return path


@functools.cache
def _script(url: str) -> tuple[str, str]:
    """Give a schema's name and the SQL that makes it, as Postgres tells it; none where pg_dump is older than the server."""
    original = f"test_{secrets.token_hex(8)}"
    with _upgraded(url, original) as database:
        options = ["--schema", original, "--inserts", "--no-owner", "--no-privileges"]
        dump = subprocess.run(
            [installed("pg_dump") or "false", *options, url], capture_output=True, text=True, check=False
        )
        schema.remove(database)
    # What begins with a backslash is for psql.
    lines = [] if dump.returncode else [line for line in dump.stdout.splitlines() if not line.startswith("\\")]
    return original, "\n".join(lines)


@contextmanager
def _upgraded(url: str, name: str) -> Generator[Database]:
    database = Database(url, schema=name, pool_size=2, connect_timeout=timedelta(seconds=30), prepare=False)
    try:
        schema.upgrade(database)
        yield database
    finally:
        database.close()
