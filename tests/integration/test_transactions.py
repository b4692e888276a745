"""A run that joins a caller's transaction: there when it commits, never there when it rolls back, whoever the caller is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from fleet import PROOF_AGENTS, Fleet, fleet, settings_of
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.string import StrDumper
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from steps import race

from orchestrator import IdempotencyConflict, Orchestrator, RunFilter, RunHandle, RunNotFound, UsageError
from orchestrator.contracts.dispatch import queue_of
from orchestrator.store import schema
from orchestrator.store.database import Database
from orchestrator.store.retention import FIRST_ID


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), lease_ttl=600) as made:
        made.start_worker()
        yield made


@pytest.fixture
def nf(installation: Fleet) -> Orchestrator:
    return installation.orchestrator


@pytest.fixture
def url(installation: Fleet) -> str:
    return installation.environment["NIGHTFLEET_DATABASE_URL"]


@pytest.fixture
def conn(url: str) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(url)) as connection:
        yield connection


@pytest.fixture(scope="module")
def engine(installation: Fleet) -> Iterator[sqlalchemy.Engine]:
    url = installation.environment["NIGHTFLEET_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    made = sqlalchemy.create_engine(url)
    yield made
    made.dispose()


def exists(nf: Orchestrator, run: RunHandle) -> bool:
    try:
        return bool(nf.run(run.id).state)
    except RunNotFound:
        return False


# The transaction decides ----------------------------------------------------------------------------------------------


def test_a_committed_run_is_published_by_the_sweep_and_ends(nf: Orchestrator, conn: psycopg.Connection[Any]) -> None:
    run = nf.submit("a=branch | [b=branch, c=branch] | gather", connection=conn)
    assert not exists(nf, run)
    conn.commit()
    done = nf.run(run.id).wait(60)  # by its id: another process, that knows nothing of the transaction
    assert done.state == "succeeded"
    assert [part.epoch for part in done.agent_runs] == [1, 1, 1, 1]


def test_a_rollback_leaves_no_run(installation: Fleet, nf: Orchestrator, conn: psycopg.Connection[Any]) -> None:
    before = installation.query("SELECT count(*) FROM run")
    run = nf.submit("quiet", connection=conn)
    conn.rollback()
    assert not exists(nf, run)
    assert installation.query("SELECT count(*) FROM run") == before
    assert installation.query("SELECT count(*) FROM countdown WHERE run_id = %s", run.id) == [(0,)]


def test_many_runs_join_one_transaction(nf: Orchestrator, conn: psycopg.Connection[Any]) -> None:
    runs = nf.submit_many("quiet", [{}] * 1200, connection=conn)
    assert not exists(nf, runs[-1])
    conn.commit()
    nf.publish(runs)
    nf.publish([])
    assert {run.wait(300).state for run in (runs[0], runs[600], runs[-1])} == {"succeeded"}


def test_a_savepoint_of_the_caller_that_is_undone_takes_its_runs_along(
    nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    kept = nf.submit("quiet", connection=conn)
    with conn.transaction(force_rollback=True):
        undone = nf.submit("quiet", connection=conn)
    conn.commit()
    assert (exists(nf, kept), exists(nf, undone)) == (True, False)


def test_a_run_begins_with_its_first_condition_when_it_has_one(
    nf: Orchestrator, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    workflow = tmp_path / "gated.yaml"
    workflow.write_text("tasks: {a: {agent: quiet, when: input.go}, b: {agent: quiet, when: '!input.go'}}")
    run = nf.submit(str(workflow), {"go": True}, connection=conn)
    conn.commit()
    assert {part.task: str(part.state) for part in run.wait(60).agent_runs} == {"a": "succeeded", "b": "skipped"}


def test_the_time_of_a_run_is_that_of_its_submit_and_not_of_a_long_transactions_begin(
    installation: Fleet, nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    began = conn.execute("SELECT now()").fetchone()
    later = installation.query("SELECT clock_timestamp()")[0]
    run = nf.submit("quiet", connection=conn)
    conn.commit()
    assert began is not None
    assert began < later < (run.snapshot().created_at,)


# Publishing sooner ----------------------------------------------------------------------------------------------------


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Fleet]:
    """An installation without a worker: nobody sweeps."""
    with fleet(tmp_path) as made:
        yield made


def unpublished(installation: Fleet) -> int:
    return int(
        installation.query("SELECT count(*) FROM agent_run WHERE state = 'queued' AND published_at IS NULL")[0][0]
    )


def test_publish_before_the_commit_does_nothing_and_after_it_publishes_once(
    idle: Fleet, conn: psycopg.Connection[Any]
) -> None:
    run = idle.orchestrator.submit("quiet", connection=conn)
    run.publish()
    conn.commit()
    assert (unpublished(idle), idle.broker_depths()) == (1, 0)
    for _ in range(2):
        run.publish()
    assert unpublished(idle) == 0
    idle.until(lambda: idle.broker_depths() == 1, "one message")


def test_waiting_for_a_committed_run_publishes_it(idle: Fleet, conn: psycopg.Connection[Any]) -> None:
    run, other = (idle.orchestrator.submit("quiet", connection=conn) for _ in range(2))
    with pytest.raises(RunNotFound, match="still open, or was rolled back; wait for it after the commit"):
        run.wait(1)
    conn.commit()
    with pytest.raises(TimeoutError):
        run.wait(0)
    assert unpublished(idle) == 1
    assert next(other.events()).state == "queued"
    assert unpublished(idle) == 0


def test_a_session_of_sqlalchemy_publishes_after_its_commit(idle: Fleet, engine: sqlalchemy.Engine) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            idle.orchestrator.submit("quiet", connection=session)
        assert idle.query("SELECT count(*) FROM run") == [(0,)]
        idle.orchestrator.submit("quiet", connection=session)
        session.commit()
        assert idle.query("SELECT count(*) FROM agent_run WHERE published_at IS NOT NULL") == [(2,)]
        idle.orchestrator.submit("quiet", connection=session)
        session.rollback()
        session.commit()
    assert idle.query("SELECT count(*) FROM run") == [(2,)]


def test_a_savepoint_that_is_rolled_back_takes_no_publication_of_the_rest_along(
    idle: Fleet, engine: sqlalchemy.Engine
) -> None:
    with Session(engine) as session:
        kept = idle.orchestrator.submit("quiet", connection=session)
        with session.begin_nested() as savepoint:
            idle.orchestrator.submit("quiet", connection=session)
            savepoint.rollback()
        session.commit()
    assert idle.query("SELECT run_id::text FROM agent_run WHERE published_at IS NOT NULL") == [(kept.id,)]
    assert idle.query("SELECT count(*) FROM run") == [(1,)]


def test_a_publication_that_goes_wrong_does_not_come_out_of_the_commit(
    idle: Fleet, engine: sqlalchemy.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    idle.kernel.publisher.ensure({queue_of("quiet")})
    settings = idle.kernel.settings.model_copy(update={"queue_type": "quorum"})  # the queue is of another kind
    with Orchestrator(settings) as wrong, Session(engine) as session:
        for _ in range(2):
            wrong.submit("quiet", connection=session)
        session.commit()
        assert session.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    assert caplog.text.count("left to the sweep") == 2
    assert unpublished(idle) == 2


@pytest.mark.parametrize("how", ["publish", "session"])
def test_a_first_condition_is_decided_without_waiting_for_a_sweep(
    how: str, idle: Fleet, conn: psycopg.Connection[Any], engine: sqlalchemy.Engine, tmp_path: Path
) -> None:
    workflow = tmp_path / "gated.yaml"
    workflow.write_text("tasks: {a: {agent: quiet, when: input.go}, b: {agent: quiet, when: '!input.go'}}")
    with Session(engine) as session:
        joined: Any = conn if how == "publish" else session
        runs = idle.orchestrator.submit_many(str(workflow), [{"go": True}] * 3, connection=joined)
        idle.orchestrator.publish(runs)
        joined.commit()
    if how == "publish":
        assert idle.query("SELECT DISTINCT state FROM agent_run") == [("blocked",)]
        idle.orchestrator.publish(runs)
    states = "SELECT task, state, published_at IS NOT NULL FROM agent_run GROUP BY 1, 2, 3 ORDER BY 1"
    assert idle.query(states) == [("a", "queued", True), ("b", "skipped", False)]
    idle.until(lambda: idle.broker_depths() == 3, "one message for each run")


def test_a_broker_that_is_away_costs_a_transaction_nothing(
    installation: Fleet, conn: psycopg.Connection[Any], engine: sqlalchemy.Engine
) -> None:
    settings = installation.kernel.settings.model_copy(update={"broker_url": broker_that_is_away()})
    with Orchestrator(settings) as away, Session(engine) as session:
        run, other = away.submit("quiet", connection=conn), away.submit("quiet", connection=session)
        conn.commit()
        run.publish()
        session.commit()
        assert {run.wait(60).state, other.wait(60).state} == {"succeeded"}


def broker_that_is_away() -> Any:
    from pydantic import SecretStr

    return SecretStr("amqp://guest:guest@127.0.0.1:1//")


# Whose connection it is -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain(url: str) -> Generator[tuple[Any, Callable[[], None]]]:
    with contextlib.closing(psycopg.connect(url)) as connection:
        yield connection, connection.commit


@contextlib.contextmanager
def autocommit_in_a_transaction(url: str) -> Generator[tuple[Any, Callable[[], None]]]:
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("BEGIN")
        yield connection, lambda: connection.execute("COMMIT") and None


@contextlib.contextmanager
def odd(url: str) -> Generator[tuple[Any, Callable[[], None]]]:
    """A connection on which its owner has changed all that can be."""

    class Shouting(StrDumper):
        def dump(self, obj: str) -> bytes:
            return obj.upper().encode()

    options = "-c TimeZone=Asia/Kathmandu -c DateStyle=German -c search_path=pg_catalog"
    with contextlib.closing(psycopg.connect(url, row_factory=dict_row, options=options)) as connection:  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]
        connection.cursor_factory = psycopg.ClientCursor
        connection.adapters.register_dumper(str, Shouting)
        connection.prepare_threshold = 0
        yield connection, connection.commit
        row: Any = connection.execute("SELECT %s AS said, gen_random_uuid() AS id", ("hello",)).fetchone()
        assert row["said"] == "HELLO"
        assert type(row["id"]).__name__ == "UUID"


@contextlib.contextmanager
def of_sqlalchemy(url: str) -> Generator[tuple[Any, Callable[[], None]]]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:  # nothing is begun: its first statement is ours
        yield connection, connection.commit
    engine.dispose()


@contextlib.contextmanager
def session_of_sqlalchemy(url: str) -> Generator[tuple[Any, Callable[[], None]]]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with Session(engine) as session:
        yield session, session.commit
    engine.dispose()


@contextlib.contextmanager
def scoped_session_of_sqlalchemy(url: str) -> Generator[tuple[Any, Callable[[], None]]]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    registry = scoped_session(sessionmaker(engine))
    try:
        yield registry, registry.commit
    finally:
        registry.remove()
        engine.dispose()


CALLERS = [
    plain, autocommit_in_a_transaction, odd, of_sqlalchemy, session_of_sqlalchemy, scoped_session_of_sqlalchemy,
]  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS, ids=lambda each: each.__name__)
def test_any_connection_of_psycopg_joins(caller: Any, nf: Orchestrator, url: str) -> None:
    with caller(url) as (connection, commit):
        key = f"Ключ {caller.__name__}"
        run = nf.submit("branch | gather", {"text": "Schöne Grüße ✓"}, idempotency_key=key, connection=connection)
        again = nf.submit("branch | gather", {"text": "Schöne Grüße ✓"}, idempotency_key=key, connection=connection)
        assert run.id == again.id
        assert not exists(nf, run)
        commit()
    done = run.wait(60)
    assert (done.state, done.input) == ("succeeded", {"text": "Schöne Grüße ✓"})
    assert nf.submit("branch | gather", {"text": "Schöne Grüße ✓"}, idempotency_key=key).id == run.id


def test_a_connection_through_pgbouncer_joins(nf: Orchestrator, pgbouncer_url: str) -> None:
    with psycopg.connect(pgbouncer_url, prepare_threshold=None) as connection:
        run = nf.submit("quiet", connection=connection)
    assert run.wait(60).state == "succeeded"


def test_what_cannot_be_joined_is_refused_with_the_cure(nf: Orchestrator, url: str, tmp_path: Path) -> None:
    import sqlite3

    def refused(connection: Any, match: str) -> None:
        with pytest.raises(UsageError, match=match):
            nf.submit("quiet", connection=connection)

    with psycopg.connect(url, autocommit=True) as auto:
        refused(auto, r"autocommit mode and no transaction is open.*transaction\.atomic")
        assert auto.info.transaction_status.name == "IDLE"
    with psycopg.connect(url) as failed:
        with pytest.raises(psycopg.Error):
            failed.execute("SELECT no_such_column")
        refused(failed, "has failed, nothing can join it: roll it back")
        failed.rollback()
        with failed.pipeline():
            refused(failed, "pipeline mode")
    refused(failed, "is closed")
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as automatic:
        refused(automatic, "autocommit mode")
    refused(engine, r"sqlalchemy\.engine\.base\.Engine is no connection .*give a psycopg 3 connection")
    engine.dispose()
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as file:
        refused(file, "is of SQLite, and the runs of a fleet are in Postgres")
    refused("postgresql://", r"builtins\.str is no connection")


def test_an_asynchronous_connection_is_refused(nf: Orchestrator, url: str) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            with pytest.raises(UsageError, match="is asynchronous, and joining needs a blocking connection"):
                nf.submit("quiet", connection=connection)

    asyncio.run(main())


def test_a_connection_to_another_database_is_refused_and_its_transaction_goes_on(nf: Orchestrator, url: str) -> None:
    with psycopg.connect(make_conninfo(url, dbname="postgres")) as other:
        other.execute("CREATE TEMPORARY TABLE mine (n int)")
        with pytest.raises(UsageError, match=r"leads to another database than .*point NIGHTFLEET_DATABASE_URL there"):
            nf.submit("quiet", connection=other)
        assert other.execute("SELECT count(*) FROM mine").fetchone() == (0,)


def test_a_database_that_has_the_same_tables_is_still_another_one(
    nf: Orchestrator, url: str, installation: Fleet
) -> None:
    settings = installation.kernel.settings
    name = f"{settings.database_schema}_copy"
    installation.query(f"CREATE DATABASE {name}")
    try:
        copy = f"{url.rpartition('/')[0]}/{name}"
        other = Database.from_settings(settings_of(**{**settings.model_dump(), "database_url": copy}))
        schema.upgrade(other)
        other.close()
        with psycopg.connect(copy) as connection, pytest.raises(UsageError, match="leads to another database than"):
            nf.submit("quiet", connection=connection)
    finally:
        installation.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def stranger(installation: Fleet) -> Iterator[str]:
    """A role that may do nothing with the installation's schema."""
    role = f"{installation.environment['NIGHTFLEET_DATABASE_SCHEMA']}_app"
    installation.query(f"CREATE ROLE {role}")
    yield role
    installation.query(f"DROP OWNED BY {role}")
    installation.query(f"DROP ROLE {role}")


def test_a_role_that_must_not_write_runs_is_told_what_to_grant(
    nf: Orchestrator, url: str, stranger: str, installation: Fleet
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"SET ROLE {stranger}".encode())
        with pytest.raises(UsageError, match=r"GRANT USAGE ON SCHEMA .* and GRANT SELECT, INSERT ON") as caught:
            nf.submit("quiet", connection=connection)
    for grant in caught.value.message.partition("): ")[2].removesuffix(" to it").split(" and "):
        installation.query(f"{grant} TO {stranger}")
    with psycopg.connect(url) as connection:
        connection.execute(f"SET ROLE {stranger}".encode())
        run = nf.submit("quiet", idempotency_key="granted", connection=connection)
    assert run.wait(60).state == "succeeded"


def test_a_run_with_a_budget_of_its_own_needs_one_right_more_and_comes_and_goes_with_the_transaction(
    nf: Orchestrator, url: str, stranger: str, installation: Fleet
) -> None:
    schema = installation.environment["NIGHTFLEET_DATABASE_SCHEMA"]
    installation.query(f'GRANT USAGE ON SCHEMA "{schema}" TO {stranger}')
    for table in ("run", "agent_run", "countdown"):
        installation.query(f'GRANT SELECT, INSERT ON "{schema}".{table} TO {stranger}')
    with psycopg.connect(url) as connection:
        connection.execute(f"SET ROLE {stranger}".encode())
        with pytest.raises(UsageError, match=r'"\.countdown, "\w+"\.budget to it'):
            nf.submit("quiet", budget=1, connection=connection)
    installation.query(f'GRANT SELECT, INSERT ON "{schema}".budget TO {stranger}')
    with psycopg.connect(url) as connection:
        connection.execute(f"SET ROLE {stranger}".encode())
        gone = nf.submit("quiet", budget=1, connection=connection)
        connection.rollback()
        connection.execute(f"SET ROLE {stranger}".encode())
        run = nf.submit("quiet", user="ada", budget=2, connection=connection)
    assert run.wait(60).user == "ada"
    limits = {each.scope: each.limit_usd for each in nf.budgets(of_runs=True)}
    assert (limits[f"run/{run.id}"], limits.get(f"run/{gone.id}")) == ("2", None)


def test_an_embedded_orchestrator_joins_no_transaction(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    with (
        Orchestrator.embedded(tmp_path / "home", agents_path=str(PROOF_AGENTS)) as embedded,
        pytest.raises(UsageError, match="an embedded orchestrator keeps its runs in a file of its own"),
    ):
        embedded.submit("quiet", connection=conn)


# Errors leave the caller's transaction usable -------------------------------------------------------------------------


def test_whatever_is_refused_leaves_the_callers_transaction_as_it_was(
    installation: Fleet, nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("CREATE TEMPORARY TABLE ledger (n int) ON COMMIT DROP")
    conn.execute("INSERT INTO ledger VALUES (1)")
    first = nf.submit("quiet", {"n": 1}, idempotency_key="kept", connection=conn)
    with pytest.raises(IdempotencyConflict, match=f"'kept' was used for run {first.id} with another input"):
        nf.submit("quiet", {"n": 2}, idempotency_key="kept", connection=conn)
    with pytest.raises(IdempotencyConflict, match="with another workflow"):
        nf.submit("branch", {"n": 1}, idempotency_key="kept", connection=conn)
    with pytest.raises(UsageError):
        nf.submit("no_such_agent", connection=conn)
    with pytest.raises(UsageError):
        nf.submit("quiet", {"no json": object()}, connection=conn)
    second = nf.submit("quiet", connection=conn)
    assert conn.execute("SELECT n FROM ledger").fetchone() == (1,)
    conn.commit()
    assert (exists(nf, first), exists(nf, second)) == (True, True)


def test_a_key_that_somebody_commits_meanwhile_gives_that_run(nf: Orchestrator, conn: psycopg.Connection[Any]) -> None:
    first = nf.submit("quiet", {"n": 1}, idempotency_key="committed")
    assert nf.submit("quiet", {"n": 1}, idempotency_key="committed", connection=conn).id == first.id
    with pytest.raises(IdempotencyConflict, match=first.id):
        nf.submit("quiet", {"n": 2}, idempotency_key="committed", connection=conn)


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel), ids=lambda level: level.name)
def test_a_snapshot_older_than_the_run_that_has_the_key_still_finds_it(
    level: psycopg.IsolationLevel, nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    key = f"older {level.name}"
    nf.submit("quiet").wait(60)  # the workflow is known
    conn.isolation_level = level
    conn.execute("SELECT 1")
    first = nf.submit("quiet", {"n": 1}, idempotency_key=key)
    assert nf.submit("quiet", {"n": 1}, idempotency_key=key, connection=conn).id == first.id
    with pytest.raises(IdempotencyConflict, match=first.id):
        nf.submit("quiet", {"n": 2}, idempotency_key=key, connection=conn)
    fresh = nf.submit("quiet", {"n": 3}, idempotency_key=f"{key} fresh", connection=conn)
    conn.commit()
    assert fresh.wait(60).state == "succeeded"


def test_a_snapshot_older_than_the_workflow_itself_is_told_to_begin_again(
    nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT 1")
    with pytest.raises(UsageError, match=r"used for the first time.* begin the transaction again") as caught:
        nf.submit("first_of_its_kind=quiet", connection=conn)
    assert caught.value.retryable
    conn.rollback()
    run = nf.submit("first_of_its_kind=quiet", connection=conn)
    conn.commit()
    assert run.wait(60).state == "succeeded"


def test_a_workflow_whose_definition_was_deleted_with_its_runs_is_stored_anew(
    nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    nf.submit("seldom=quiet", project="seldom").wait(60)
    nf.purge(RunFilter(project="seldom"))
    deletions = nf.service.kernel.store.deletions
    while deletions.delete_unused_definitions(FIRST_ID, most=500, older_than_seconds=0.0)[1]:
        pass
    conn.execute("CREATE TEMPORARY TABLE ledger (n int) ON COMMIT DROP")
    conn.execute("INSERT INTO ledger VALUES (7)")
    run = nf.submit("seldom=quiet", connection=conn)
    assert conn.execute("SELECT n FROM ledger").fetchone() == (7,)
    conn.commit()
    assert run.wait(60).state == "succeeded"


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_of_two_transactions_with_one_new_key_the_second_waits_for_the_end_of_the_first(
    commits: bool, nf: Orchestrator, url: str
) -> None:
    key = f"raced {commits}"
    inserted, asked = threading.Event(), threading.Event()

    def first() -> str:
        with psycopg.connect(url) as connection, psycopg.connect(url, autocommit=True) as watcher:
            run = nf.submit("quiet", idempotency_key=key, connection=connection)
            inserted.set()
            _until_blocked(watcher, connection)
            asked.set()
            if not commits:
                connection.rollback()
        return run.id

    def second() -> str:
        inserted.wait(60)
        with psycopg.connect(url) as connection:
            run = nf.submit("quiet", idempotency_key=key, connection=connection)
            assert asked.is_set()
        return run.id

    ids = race(first, second)
    assert (ids[0] == ids[1]) is commits
    assert nf.run(ids[1]).wait(60).state == "succeeded"


def _until_blocked(watcher: psycopg.Connection[Any], holder: psycopg.Connection[Any]) -> None:
    pause = threading.Event()
    query = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    for _ in range(1_200):
        row = watcher.execute(query, (holder.info.backend_pid,)).fetchone()
        if row is not None and row[0]:
            return
        pause.wait(0.05)
    raise AssertionError("nobody waits for the first transaction")


def test_a_connection_that_is_lost_in_the_middle_leaves_no_run(
    installation: Fleet, nf: Orchestrator, conn: psycopg.Connection[Any]
) -> None:
    run = nf.submit("quiet", connection=conn)
    installation.query("SELECT pg_terminate_backend(%s)", conn.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        nf.submit("quiet", connection=conn)
    assert not exists(nf, run)
