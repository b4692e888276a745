"""Connections: poolers, TLS, deadlocks, and errors that say what to do and give nothing away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import services
from sqlalchemy import text
from steps import Steps, join, plan_of, race, spread, task

from orchestrator.clock import ids
from orchestrator.contracts.run import RunState
from orchestrator.errors import DatabaseUnavailable, SettingsInvalid
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database, Session
from orchestrator.store.repairs import Loss
from orchestrator.store.store import Store

SECRET = "s3cr%t/p@ss"
SECRET_IN_URL = "s3cr%25t%2Fp%40ss"


@contextmanager
def connected(url: str, *, schema: str = "nightfleet", pool_size: int = 2, prepare: bool = True) -> Generator[Database]:
    made = Database(url, schema=schema, pool_size=pool_size, connect_timeout=timedelta(seconds=1), prepare=prepare)
    with closing(made):
        yield made


def address(database: Database) -> str:
    return database.url.target


def go_through_a_life(store: Store) -> None:
    """Create, claim, finish and join once each way."""
    steps = Steps(store, join(2))
    [run_id] = steps.create(NewRun(ids.new(), "{}", "doc-42"))
    assert steps.create(NewRun(ids.new(), "{}", "doc-42")) == (run_id,)
    assert sum(claim is not None for claim in race(*[lambda: steps.try_claim(run_id, "a0")] * 8)) == 1
    zombie = steps.store.repairs.orphans_of("0199c0de-0000-7000-8000-000000000001")[0]
    assert store.repairs.release(zombie, Loss.DIED_ALONE)
    steps.do(run_id, "a0")
    assert [dispatch.agent for dispatch in steps.do(run_id, "a1").released] == ["end"]
    assert steps.requeue(steps.claim(run_id, "end"))
    assert steps.do(run_id, "end").ended
    assert steps.state(run_id) is RunState.SUCCEEDED


# Servers between us and Postgres --------------------------------------------------------------------------------------


def test_the_store_works_behind_pgbouncer_in_transaction_mode(bounced: Database) -> None:
    store = Store(bounced)
    go_through_a_life(store)
    steps = Steps(store, join(3))
    runs = steps.start(40)
    spread(lambda run_id: steps.do(run_id, "a0", "a1", "a2", "end"), runs, threads=24)
    assert {steps.state(run_id) for run_id in runs} == {RunState.SUCCEEDED}


def test_no_setting_of_a_session_is_left_on_a_pooled_connection(bounced: Database) -> None:
    """What one transaction sets, another client of the pooler would find."""
    go_through_a_life(Store(bounced))
    with bounced.connect() as connection:
        changed = connection.execute(text("SELECT name FROM pg_settings WHERE source = 'session'")).scalars().all()
        # Of this connection alone: other tests migrate schemas on the same server at the same time.
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        locks = connection.execute(text(held)).scalar_one()
        prepared = connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
    assert (set(changed) - {"application_name", "client_encoding"}, locks, prepared) == (set(), 0, 0)


def test_a_connection_of_ours_alone_plans_its_statements_once_and_compiles_none(
    postgres: Database, bounced: Database
) -> None:
    settings = "SELECT current_setting('plan_cache_mode'), current_setting('jit')"
    with postgres.connect() as own, bounced.connect() as shared:
        assert tuple(own.execute(text(settings)).one()) == ("force_generic_plan", "off")
        assert shared.execute(text(settings)).one()[0] == "auto"


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_the_store_works_over_tls(postgres: Database, mode: str) -> None:
    authority = services.urls()["NIGHTFLEET_TEST_CA_FILE"]
    with connected(f"{address(postgres)}?sslmode={mode}&sslrootcert={authority}", schema=postgres.schema) as encrypted:
        with encrypted.connect() as connection:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert connection.execute(text(query)).scalar_one() is True
        Steps(Store(encrypted), plan_of(task("a"))).start()


# Deadlocks ------------------------------------------------------------------------------------------------------------


def test_a_transaction_that_postgres_breaks_to_end_a_deadlock_is_run_again(postgres: Database) -> None:
    steps = Steps(Store(postgres), plan_of(task("a")))
    both = steps.start(2)
    first_locked = threading.Barrier(2)
    attempts: list[str] = []

    def lock_in_order(order: list[str]) -> str:
        tried = False

        def work(session: Session) -> str:
            nonlocal tried
            attempts.append(order[0])
            session.row("lock_run", run_id=order[0])
            if not tried:
                tried = True
                first_locked.wait(60)
            session.row("lock_run", run_id=order[1])
            return order[0]

        return postgres.transact(work)

    assert race(lambda: lock_in_order(both), lambda: lock_in_order(both[::-1])) == both
    assert len(attempts) > 2


def test_a_transaction_that_fails_leaves_nothing_and_its_connection_is_good_for_the_next(database: Database) -> None:
    steps = Steps(Store(database), plan_of(task("a")))
    [run_id] = steps.start()

    def broken(session: Session) -> None:
        session.run("cancel_open", run_id=run_id)
        raise RuntimeError("in the middle")

    for _ in range(30):
        with pytest.raises(RuntimeError, match="in the middle"):
            database.transact(broken)
    assert steps.states(run_id) == {"a": "queued"}


def test_an_error_in_a_statement_is_not_taken_for_an_outage(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)(no such|bind|missing|parameter|query)") as caught:
        database.execute(lambda session: session.row("lock_run"))
    assert not isinstance(caught.value, DatabaseUnavailable)


# Outages --------------------------------------------------------------------------------------------------------------


def failing(url: str) -> str:
    """Give the message of the error when the first statement meets no database."""
    with connected(url) as database, pytest.raises(DatabaseUnavailable) as caught:
        database.execute(lambda session: session.row("database_now"))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert caught.value.retryable
    assert SECRET not in repr(caught.value)
    assert SECRET_IN_URL not in repr(caught.value)
    return caught.value.message


def test_a_database_that_is_not_there_is_an_error_with_its_masked_address_and_what_to_do(refusing_port: int) -> None:
    message = failing(f"postgresql://someone:{SECRET_IN_URL}@127.0.0.1:{refusing_port}/jobs?application_name=x")
    assert message.startswith("cannot reach the database postgresql://someone:***@127.0.0.1:")
    assert "/jobs: connection" in message
    assert "start it or correct NIGHTFLEET_DATABASE_URL" in message
    assert "nightfleet db check" in message
    assert "\n" not in message


def test_wrong_credentials_are_told_without_the_password(postgres_url: str) -> None:
    place = postgres_url.rpartition("@")[2]
    message = failing(f"postgresql://nightfleet:{SECRET_IN_URL}@{place}")
    assert "password authentication failed" in message
    assert "nightfleet:***@" in message


def test_a_missing_database_is_told(postgres_url: str) -> None:
    assert 'database "nowhere" does not exist' in failing(postgres_url.rpartition("/")[0] + "/nowhere")


def test_sqlalchemys_own_connections_tell_an_outage_in_the_same_words(refusing_port: int) -> None:
    url = f"postgresql://someone:{SECRET_IN_URL}@127.0.0.1:{refusing_port}/jobs"
    with connected(url) as database, pytest.raises(DatabaseUnavailable, match="cannot reach the database") as caught:
        schema.check(database)
    assert SECRET not in str(caught.value)


def test_a_file_that_cannot_be_opened_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    assert "unable to open database file" in failing(f"sqlite:///{tmp_path / 'folder.db'}")


def test_a_pool_without_a_free_connection_is_an_outage_that_says_so(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(address(postgres), schema=postgres.schema, pool_size=1) as small:
        monkeypatch.setattr(small.pool, "timeout_seconds", 0.05)
        with small.autocommit(), pytest.raises(DatabaseUnavailable, match="no connection was free in time") as caught:
            small.execute(lambda session: session.row("database_now"))
        assert str(postgres.url.password) not in caught.value.message
        assert small.execute(lambda session: session.row("database_now")) is not None


def test_one_connection_is_enough_for_every_operation(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that asks for a second connection waits for ever when each thread holds one."""
    url = address(database) if database.dialect == "postgresql" else f"sqlite:///{database.url.target}"
    plan = plan_of(task("a"), task("b", "a", when="a.text == 'done'"))
    with connected(url, schema=database.schema, pool_size=1) as small:
        monkeypatch.setattr(small.pool, "timeout_seconds", 0.05)
        steps = Steps(Store(small), plan)
        [run_id] = steps.start()
        steps.do(run_id, "a")
        steps.store.runs.cancel(run_id)
        # The first to ask for the plan is a transaction under way.
        Store(small).runs.reopen(run_id)


def test_after_a_restart_of_the_server_at_most_one_statement_meets_an_old_connection(postgres: Database) -> None:
    """A pool that finds one of its connections broken does not hand out the others of that time."""
    name = f"test-{postgres.schema}"
    with connected(f"{address(postgres)}?application_name={name}", schema=postgres.schema, pool_size=4) as ours:
        all_open = threading.Barrier(4)
        race(*[lambda: ours.execute(lambda session: (session.row("database_now"), all_open.wait(60)))] * 4)
        with postgres.connect() as connection:
            query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = :name"
            assert connection.execute(text(query), {"name": name}).scalar_one() == 4
        outages = 0
        for _ in range(8):
            try:
                ours.execute(lambda session: session.row("database_now"))
            except DatabaseUnavailable:
                outages += 1
        assert outages <= 1


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"])
def test_every_usual_spelling_of_postgres_is_one_driver(url: str) -> None:
    with connected(url) as database:
        assert (database.dialect, database.url.target) == ("postgresql", "postgresql://u:p@h/d")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "is no URL; write postgresql://"),
        ("mysql://u:p@h/d", "mysql:// is not supported; use postgresql:// or sqlite://"),
        ("postgresql+asyncpg://u:p@h/d", "is not supported"),
        ("sqlite://", "names no file; write sqlite:////folder/name.db"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://u:p@h:port/d", "is no URL; write postgresql://"),
    ],
)
def test_an_address_that_cannot_be_used_is_an_invalid_setting(url: str, reason: str) -> None:
    with pytest.raises(SettingsInvalid, match="NIGHTFLEET_DATABASE_URL") as caught, connected(url):
        pass
    assert reason in caught.value.message
    assert "u:p@" not in caught.value.message


def test_without_an_address_the_store_is_a_file_in_the_home_of_the_installation(tmp_path: Path) -> None:
    with closing(Database.from_settings(Settings(home=tmp_path / "new" / "home"))) as database:
        schema.upgrade(database)
        assert (tmp_path / "new" / "home" / "nightfleet.db").is_file()
        assert database.dialect == "sqlite"


# SQLite ---------------------------------------------------------------------------------------------------------------


def test_sqlite_writers_wait_for_each_other_instead_of_failing(sqlite: Database, tmp_path: Path) -> None:
    """Two processes' worth of pools on one file: each transaction reads before it writes."""
    with connected(f"sqlite:///{tmp_path / 'nightfleet.db'}", pool_size=8) as other:
        stores = [Steps(Store(each), plan_of(task("a"), task("b", "a"))) for each in (sqlite, other)]
        runs = stores[0].start(200)
        works: list[Callable[[], object]] = [
            lambda steps=stores[number % 2], share=runs[number::8]: [steps.do(run_id, "a", "b") for run_id in share]
            for number in range(8)
        ]
        race(*works)
        assert stores[0].store.runs.unfinished() == []


def test_ctrl_c_while_a_transaction_waits_to_begin_does_not_lock_all_others_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's BEGIN waits for other writers, so it is there that Ctrl-C is noticed: after it, with the lock taken."""
    command = Session.command

    def interrupted(self: Session, sql: str) -> None:
        command(self, sql)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Session, "command", interrupted)
        with pytest.raises(KeyboardInterrupt), database.transaction():
            raise AssertionError("it never began")
    steps = Steps(Store(database), plan_of(task("a")))
    # Two at once, so that the connection that was interrupted cannot be the only one that is used.
    with database.autocommit():
        assert len(steps.start(2)) == 2


def test_sqlite_readers_do_not_wait_for_a_writer(sqlite: Database) -> None:
    steps = Steps(Store(sqlite), plan_of(task("a")))
    [run_id] = steps.start()
    with sqlite.transaction() as session:
        session.run("cancel_open", run_id=run_id)
        assert steps.states(run_id) == {"a": "queued"}


def test_sqlite_survives_the_death_of_its_process(sqlite: Database) -> None:
    with sqlite.connect() as connection:
        journal = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar_one()
    assert (journal, synchronous) == ("wal", 1)
