"""What every test gets: an environment without settings of ours, and the real servers when it asks for them."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import schemas
import services
from servers import private_pgvector

from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.store import Store

#: Settings of ours and whatever a model provider's SDK reads; the addresses of the test servers stay.
_SCRUBBED = re.compile(r"NIGHTFLEET_(?!TEST_)|OPENAI_|ANTHROPIC_|\w+_API_KEY$")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in filter(_SCRUBBED.match, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _clean_logging() -> Iterator[None]:
    """Take back which lines of workers a command that runs in this process leaves out."""
    of_workers = logging.getLogger("nightfleet.worker")
    filters = list(of_workers.filters)
    yield
    of_workers.filters[:] = filters


def _service(name: str) -> str:
    """Give a server's address; the servers are started if nobody has done so. One that is missing is an error."""
    variable = f"NIGHTFLEET_TEST_{name}_URL"
    known = services.urls()
    return known[variable] if variable in known else services.start()[variable]


@pytest.fixture(scope="session")
def postgres_url() -> str:
    return _service("DATABASE")


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    return _service("RABBITMQ")


@pytest.fixture(scope="session")
def redis_url() -> str:
    return _service("REDIS")


@pytest.fixture(scope="session")
def redis_tls_url() -> str:
    return _service("REDIS_TLS")


@pytest.fixture(scope="session")
def pgbouncer_url() -> str:
    return _service("PGBOUNCER")


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port at which nobody listens, and that nobody else can be given meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def _opened(url: str, *, prepare: bool = True, copied: bool = True, made_at: str | None = None) -> Generator[Database]:
    """Give a database of a test's own; on Postgres that is a schema, made at `made_at` and dropped at the end."""
    name = f"test_{secrets.token_hex(8)}"
    database = Database(url, schema=name, pool_size=24, connect_timeout=timedelta(seconds=30), prepare=prepare)
    try:
        if copied:
            schemas.make(made_at or url, name)
        else:
            schema.upgrade(database)
        yield database
    finally:
        if database.dialect == "postgresql":
            schema.remove(database)
        database.close()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """An upgraded schema of the test's own on Postgres."""
    with _opened(postgres_url) as database:
        yield database


@pytest.fixture
def migrated(postgres_url: str) -> Iterator[Database]:
    """The same as the migrations make it: a copy has its indexes in another order, of which the first of two equals is read."""
    with _opened(postgres_url, copied=False) as database:
        yield database


@pytest.fixture(scope="session")
def pgvector_url() -> Iterator[str]:
    """A Postgres that has pgvector, with the extension in its database."""
    with private_pgvector() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        yield server.url


@pytest.fixture
def pgvector(pgvector_url: str) -> Iterator[Database]:
    """An upgraded schema of the test's own on a Postgres with pgvector."""
    with _opened(pgvector_url) as database:
        yield database


@pytest.fixture
def bounced(pgbouncer_url: str, postgres_url: str) -> Iterator[Database]:
    """The same behind PgBouncer in transaction mode, without prepared statements; what makes a copy changes its session."""
    with _opened(pgbouncer_url, prepare=False, made_at=postgres_url) as database:
        yield database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    """An upgraded SQLite file of the test's own."""
    with _opened(f"sqlite:///{tmp_path / 'nightfleet.db'}") as database:
        yield database


@pytest.fixture(params=["postgres", "sqlite"])
def database(request: pytest.FixtureRequest) -> Database:
    """An upgraded, empty database: the test runs on Postgres and on SQLite."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)
