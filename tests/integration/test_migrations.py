"""The schema goes up and down, is what the tables in code say, and lives in a Postgres schema of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from orchestrator.errors import DatabaseUnavailable, SchemaOutOfDate
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from orchestrator.store.store import Store
from orchestrator.store.tables import metadata

MIGRATIONS = Path(schema.__file__).parent / "migrations"
#: On SQLite, where we have none of these indexes.
EXPRESSIONS = pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
UPGRADE = """
import sys
from datetime import timedelta
from orchestrator.store import schema
from orchestrator.store.database import Database
database = Database(sys.argv[1], schema=sys.argv[2], pool_size=1, connect_timeout=timedelta(seconds=30), prepare=True)
input()
schema.upgrade(database)
database.close()
"""


def address(database: Database) -> str:
    if database.dialect == "sqlite":
        return f"sqlite:///{database.url.target}"
    return database.url.target


@pytest.fixture
def empty(database: Database) -> Database:
    """A database as it is before the first upgrade."""
    schema.downgrade(database)
    with database.connect() as connection:
        connection.execute(text(f"DROP TABLE {database.qualify('alembic_version')}"))
        if database.dialect == "postgresql":
            connection.execute(text(f'DROP SCHEMA "{database.schema}"'))
    return database


def beside(database: Database, name: str) -> Database:
    """Give another, empty schema of the same database; whoever fills it drops it."""
    soon = timedelta(seconds=30)
    return Database(
        address(database), schema=f"{database.schema}_{name}", pool_size=1, connect_timeout=soon, prepare=True
    )


@contextmanager
def inside(database: Database) -> Generator[Any]:
    """Give a connection to which our schema is the one without a name, as reflection wants it."""
    arguments = {} if database.dialect == "sqlite" else {"options": f"-csearch_path={database.schema}"}
    engine = create_engine(address(database).replace("postgresql://", "postgresql+psycopg://"), connect_args=arguments)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def tables_of(database: Database) -> set[str]:
    with inside(database) as connection:
        return set(inspect(connection).get_table_names())


def set_revision(database: Database, revision: str) -> None:
    with database.connect() as connection:
        connection.execute(text(f"UPDATE {database.qualify('alembic_version')} SET version_num = '{revision}'"))


# Up and down ----------------------------------------------------------------------------------------------------------


def test_an_upgrade_makes_every_table_with_the_default_tenant_and_project(empty: Database) -> None:
    assert schema.current(empty) is None
    schema.upgrade(empty)
    assert schema.current(empty) == schema.HEAD
    assert tables_of(empty) == {*metadata.tables, "alembic_version"}
    with empty.connect() as connection:
        project = connection.execute(text(f"SELECT id, tenant_id, name FROM {empty.qualify('project')}")).one()
        sweeps = connection.execute(text(f"SELECT id FROM {empty.qualify('sweep')}")).scalars().all()
    assert [*map(str, project)] == [DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID, "default"]
    assert sweeps == [1]


def test_a_downgrade_takes_everything_down_and_an_upgrade_brings_it_back(database: Database) -> None:
    for _ in range(2):
        schema.downgrade(database)
        assert schema.current(database) is None
        assert tables_of(database) == {"alembic_version"}
        schema.upgrade(database)
        schema.check(database)


def test_every_step_goes_down_and_up_again(database: Database) -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    for revision in script.walk_revisions():
        schema.downgrade(database, str(revision.down_revision or "base"))
        schema.upgrade(database, revision.revision)
        assert schema.current(database) == revision.revision
    schema.upgrade(database)
    schema.check(database)


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(database: Database) -> None:
    store = Store(database)
    assert store.repairs.take_turn(0.0, lease_seconds=60)
    schema.upgrade(database)
    assert schema.current(database) == schema.HEAD
    assert not store.repairs.take_turn(60.0, lease_seconds=60)


def test_processes_that_upgrade_at_the_same_time_do_not_disturb_each_other(empty: Database) -> None:
    command = [sys.executable, "-c", UPGRADE, address(empty), empty.schema]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("now\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert (process.returncode, errors) == (0, "")
    schema.check(empty)


# What code and schema say ---------------------------------------------------------------------------------------------


def test_the_newest_migration_is_the_revision_that_the_code_needs() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    assert script.get_heads() == [schema.HEAD]
    assert sorted(revision.revision for revision in script.walk_revisions()) == [
        file.name[:4] for file in sorted((MIGRATIONS / "versions").glob("[0-9]*.py"))
    ]


@EXPRESSIONS
def test_the_migrations_make_the_tables_that_the_code_describes(database: Database) -> None:
    options = {"compare_type": True, "compare_server_default": True}
    with inside(database) as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    # SQLite has no identities: who inserts there gives the number.
    numbered = ("modify_default", "agent_message", "number")
    is_numbered = [database.dialect == "sqlite" and (op[0][0], *op[0][2:4]) == numbered for op in found]
    assert [op for op, left_out in zip(found, is_numbered, strict=True) if not left_out] == []


@EXPRESSIONS
def test_the_comparison_would_find_a_difference(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(text(f"ALTER TABLE {database.qualify('run')} ADD COLUMN forgotten text"))
    with inside(database) as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    assert "forgotten" in str(found)


def test_constraints_and_storage_are_those_that_the_code_describes(postgres: Database) -> None:
    """What Alembic does not compare: names of keys, rules of deletion, conditions of indexes, fill factors."""
    with closing(beside(postgres, "described")) as described:
        with described.connect() as connection:
            connection.execute(text(f'CREATE SCHEMA "{described.schema}"'))
            metadata.create_all(connection)
        try:
            assert details_of(postgres) == details_of(described)
        finally:
            with described.connect() as connection:
                connection.execute(text(f'DROP SCHEMA "{described.schema}" CASCADE'))


def details_of(database: Database) -> list[tuple[str, ...]]:
    """Give every constraint, index and option of storage as Postgres tells them, without the schema's name."""
    query = """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = CAST(:schema AS regnamespace)
        UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = CAST(:schema AS text)
        UNION ALL SELECT relname, 'storage', array_to_string(reloptions, ',') FROM pg_class
            WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind = 'r'
    """
    with database.connect() as connection:
        rows = connection.execute(text(query), {"schema": database.schema}).all()
    found = [tuple(re.sub(rf"\"?{database.schema}\"?\.", "", str(value)) for value in row) for row in rows]
    return sorted(row for row in found if "alembic" not in row[0])


# Check ----------------------------------------------------------------------------------------------------------------


def problem(database: Database) -> str:
    with pytest.raises(SchemaOutOfDate) as caught:
        schema.check(database)
    if database.url.password:
        assert database.url.password not in caught.value.message
    assert database.masked_url in caught.value.message
    return caught.value.message


def test_a_schema_that_is_up_to_date_passes(database: Database) -> None:
    schema.check(database)


def test_an_empty_database_is_told_how_to_begin(empty: Database) -> None:
    assert problem(empty).endswith("has no tables of ours yet: run `nightfleet db upgrade`")


def test_a_schema_that_is_behind_is_told_to_go_up(database: Database) -> None:
    set_revision(database, "0000")
    assert f"is at revision 0000, this code needs {schema.HEAD}: run `nightfleet db upgrade`" in problem(database)


def test_a_schema_that_is_ahead_is_not_told_to_upgrade_the_database(database: Database) -> None:
    set_revision(database, "9999")
    message = problem(database)
    assert "a newer version of nightfleet has upgraded it; upgrade this installation too" in message
    assert "db upgrade" not in message


# Where it lives -------------------------------------------------------------------------------------------------------


def test_everything_is_in_the_schema_of_the_settings_and_nothing_in_public(postgres: Database) -> None:
    assert Settings().database_schema == "nightfleet"
    query = text(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'i', 'S') AND n.nspname IN ('public', :schema)"
    )
    with postgres.connect() as connection:
        found = connection.execute(query, {"schema": postgres.schema}).all()
    ours = {*metadata.tables, *(index.name for table in metadata.tables.values() for index in table.indexes)}
    names = {name for where, name in found if where == postgres.schema}
    assert {*ours, "alembic_version"} <= names
    assert not names & {name for where, name in found if where == "public"}


def test_two_installations_share_one_database(postgres: Database) -> None:
    with closing(beside(postgres, "other")) as other:
        try:
            schema.upgrade(other)
            set_revision(other, "0000")
            schema.check(postgres)
            assert Store(other).fleet.agent_names() == frozenset()
        finally:
            with other.connect() as connection:
                connection.execute(text(f'DROP SCHEMA "{other.schema}" CASCADE'))


def test_an_upgrade_gives_up_before_a_transaction_that_stays_open(postgres: Database) -> None:
    schema.downgrade(postgres, "0001")
    statement = text(f"SELECT count(*) FROM {postgres.qualify('run')}")
    with inside(postgres) as other:
        other.execute(statement)  # and its transaction stays open
        with pytest.raises(DatabaseUnavailable, match="nothing was changed"):
            schema.upgrade(postgres)
    assert schema.current(postgres) == "0001"
    schema.upgrade(postgres)
    assert schema.current(postgres) == schema.HEAD


def test_an_upgrade_works_behind_pgbouncer(bounced: Database) -> None:
    schema.downgrade(bounced)
    schema.upgrade(bounced)
    schema.check(bounced)
