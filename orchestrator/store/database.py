"""Connections and transactions over plain SQL, the same for Postgres and SQLite.

Statements have names (`statements.py`). Each runs in autocommit mode unless it is inside `transaction()`: no session state
is left on a pooled connection, so PgBouncer in transaction mode is fine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.cached_property import cached_property
from orchestrator.errors import DatabaseUnavailable, NightfleetError
from orchestrator.settings import Settings, mask
from orchestrator.store.connect import Connector, parse_url
from orchestrator.store.pool import Pool, PoolTimeout
from orchestrator.store.sqlite_forks import forks
from orchestrator.store.statements import sources, translate

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

T = TypeVar("T")
Row = tuple[Any, ...]

#: SQLite times as text: fixed width, so that they sort; UTC.
_SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"
#: What SQLite takes as it is.
_SQLITE_TYPES = frozenset({str, int, float, bool, bytes, type(None)})

#: Deadlock, serialization failure, lock not available.
_TRANSIENT_STATES = frozenset({"40P01", "40001", "55P03"})


class Session:
    """One connection for the length of a `with` block; rows come as tuples, JSON and ids as text."""

    __slots__ = ("_connection", "_database")

    def __init__(self, database: Database, connection: Any) -> None:
        self._database = database
        self._connection = connection

    @property
    def dialect(self) -> str:
        """`postgresql` or `sqlite`."""
        return self._database.dialect

    def rows(self, statement: str, **parameters: Any) -> list[Row]:
        """Run a named statement and give all its rows."""
        cursor = self._execute(statement, parameters)
        found: list[Row] = cursor.fetchall()
        cursor.close()
        return found

    def row(self, statement: str, **parameters: Any) -> Row | None:
        """Run a named statement and give its first row, or None."""
        # All rows are fetched: SQLite commits only when a RETURNING statement has been stepped to its end.
        found = self.rows(statement, **parameters)
        return found[0] if found else None

    def run(self, statement: str, **parameters: Any) -> int:
        """Run a named statement and give the number of rows that it changed."""
        cursor = self._execute(statement, parameters)
        count = int(cursor.rowcount)
        cursor.close()
        return count

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert many rows at once: by COPY on Postgres. Lists become arrays there and JSON text on SQLite."""
        if not rows:
            return
        names = ", ".join(columns)
        cursor = self._connection.cursor()
        try:
            if self._database.dialect == "postgresql":
                with cursor.copy(f"COPY {self._database.qualify(table)} ({names}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            else:
                marks = ", ".join("?" * len(columns))
                adapted = [[sqlite_value(value) for value in row] for row in rows]
                cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", adapted)
        finally:
            cursor.close()

    def use(self, work: Callable[[Any], None]) -> None:
        """Let `work` prepare the driver's connection for what this database offers on request alone."""
        work(self._connection)

    def command(self, sql: str) -> None:
        """Run a command of transaction control."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
        finally:
            cursor.close()

    def _execute(self, statement: str, parameters: dict[str, Any]) -> Any:
        cursor = self._connection.cursor()
        if self._database.dialect == "sqlite":
            for key, value in parameters.items():
                if type(value) not in _SQLITE_TYPES:
                    parameters[key] = sqlite_value(value)
        try:
            cursor.execute(self._database.statement(statement), parameters)
        except BaseException:
            cursor.close()
            raise
        return cursor


class Checkout:
    """A connection of the pool for the length of a `with` block, in a transaction if it has a `begin`.

    A class, not a generator: every claim and every completion comes through here.
    """

    __slots__ = ("_begin", "_database", "_session", "_taken")

    def __init__(self, database: Database, begin: str | None) -> None:
        self._database = database
        self._begin = begin

    def __enter__(self) -> Session:
        try:
            self._taken = self._database.pool.take()
        except Exception as error:  # noqa: BLE001 - raised again, as what it means
            raise self._database.explained(error) from None
        self._session = Session(self._database, self._taken)
        if self._begin is not None:
            self._end(self._begin)
        return self._session

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is None:
            if self._begin is not None:
                self._end("COMMIT")
            self._database.pool.give_back(self._taken)
            return
        if self._begin is not None:
            _rollback(self._session)
        self._give_back(error)

    def _end(self, command: str) -> None:
        try:
            self._session.command(command)
        except BaseException as error:
            self._give_back(error)
            raise

    def _give_back(self, error: BaseException) -> None:
        """Return the connection, or drop it if it is broken: that is raised as what it means."""
        explained = self._database.explained(error)
        # Ctrl-C comes between any two steps of ours, with a transaction begun perhaps that would lock everybody out.
        interrupted = not isinstance(error, Exception)
        self._database.pool.give_back(self._taken, broken=interrupted or explained is not error)
        if explained is not error:
            raise explained from None


class Database:
    """A pool of connections; thread-safe, lazy, and usable on both sides of a fork.

    Raises `DatabaseUnavailable` (with the address masked) when there is no connection to be had.
    """

    def __init__(self, url: str, *, schema: str, pool_size: int, connect_timeout: timedelta, prepare: bool) -> None:
        self.url = parse_url(url)
        self.dialect = self.url.dialect
        self.schema = schema
        self.masked_url = mask(url)
        self._connector = Connector(self.url, connect_timeout=connect_timeout, prepare=prepare)
        self.pool = Pool(self._connector.open, self._connector.is_stale, size=pool_size)
        self.pool_size = pool_size
        self._statements: dict[str, str] = {}
        #: How often there was no connection to be had, or one was lost.
        self.outages = 0
        # A deferred BEGIN fails with SQLITE_BUSY when it turns from reader to writer; an immediate one waits its turn.
        self.begin = "BEGIN" if self.dialect == "postgresql" else "BEGIN IMMEDIATE"
        #: Places for SQLAlchemy's connections, which have a pool of their own: one thread may hold one of each.
        self._lent = Pool(self._connector.open, self._connector.is_stale, size=pool_size)
        if self.dialect == "sqlite":
            forks().watch(self, self.url.target)

    @cached_property
    def engine(self) -> Engine:
        """SQLAlchemy over the same kind of connections, of which it keeps one: for listings and migrations."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import QueuePool

        url = "postgresql+psycopg://" if self.dialect == "postgresql" else "sqlite://"
        engine = create_engine(
            url,
            creator=self._connector.open,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=self.pool_size - 1,
            pool_pre_ping=True,
        )
        schema = self.schema if self.dialect == "postgresql" else None
        return engine.execution_options(schema_translate_map={None: schema})

    @classmethod
    def from_settings(cls, settings: Settings) -> Database:
        """Give the fleet's database, or the embedded SQLite file under `home`."""
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            settings.home.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{settings.home.absolute() / 'nightfleet.db'}"
        return cls(
            url,
            schema=settings.database_schema,
            pool_size=settings.database_pool_size,
            connect_timeout=settings.connect_timeout,
            prepare=settings.database_prepared_statements,
        )

    def qualify(self, table: str) -> str:
        """Give the name of a table of ours as SQL."""
        return f'"{self.schema}".{table}' if self.dialect == "postgresql" else table

    def statement(self, name: str) -> str:
        """Give the SQL of a named statement for this database."""
        found = self._statements.get(name)
        if found is None:
            found = self._statements[name] = translate(sources()[name], self.dialect, self.qualify)
        return found

    def autocommit(self) -> Checkout:
        """Give a session for a `with` block in which each statement is a transaction of its own."""
        return Checkout(self, None)

    def transaction(self) -> Checkout:
        """Give a session whose statements are committed together, or not at all when the `with` block raises."""
        return Checkout(self, self.begin)

    def execute(self, work: Callable[[Session], T]) -> T:
        """Run `work`, one statement, in autocommit mode; again if the database broke a deadlock by it."""
        return self._patiently(work, None)

    def transact(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction, again if the database broke a deadlock by it: `work` must only touch the session."""
        return self._patiently(work, self.begin)

    def _patiently(self, work: Callable[[Session], T], begin: str | None) -> T:
        def once() -> T:
            with Checkout(self, begin) as session:
                return work(session)

        try:
            return once()
        except Exception as error:
            if not _is_transient(error):
                raise
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        return Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_attempt(8),
            wait=wait_random_exponential(multiplier=0.01, max=0.5),
            reraise=True,
        )(once)

    @contextmanager
    def connect(self, *, snapshot: bool = False) -> Generator[Connection]:
        """Give a SQLAlchemy connection in a transaction; with `snapshot` all statements see one moment, and write nothing."""
        postgres = self.dialect == "postgresql"
        begin = self.begin
        if snapshot:
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if postgres else "BEGIN"
        try:
            # A fork waits for what is under way on SQLite, and knows it by these places.
            with nullcontext() if postgres else self._lent.place(), self.engine.begin() as connection:
                # The drivers are in autocommit mode, so the transaction is begun by hand; its end is SQLAlchemy's.
                connection.exec_driver_sql(begin)
                yield connection
        except Exception as error:
            explained = self.explained(error)
            if explained is error:
                raise
            raise explained from None

    def let_go(self, seconds: float) -> Callable[[], None] | None:
        """Close all connections when they are no longer in use, before a fork; none is opened until what this gives is called.

        None if one is still in use after so many seconds.
        """
        # In the order in which a thread takes them that needs both.
        lend = self._lent.empty(seconds)
        if lend is None:
            return None
        go_on = self.pool.empty(seconds)
        if go_on is None:
            lend()
            return None
        if "engine" in vars(self):
            self.engine.dispose()

        def both() -> None:
            lend()
            go_on()

        return both

    def forked(self) -> None:
        """Forget the parent's connections without closing them; call it in the child after a fork."""
        self.pool.forked()
        if "engine" in vars(self):
            self.engine.dispose(close=False)

    def close(self) -> None:
        """Close every idle connection; the next use opens new ones."""
        self.pool.close()
        if "engine" in vars(self):
            self.engine.dispose()

    def explained(self, error: BaseException) -> BaseException:
        """Give the error as one of ours if it means that the database cannot be reached, else as it is."""
        if isinstance(error, PoolTimeout):
            self.outages += 1
            return DatabaseUnavailable(f"database {self.masked_url}: no connection was free in time ({error})")
        cause = getattr(error, "orig", None) or error  # what SQLAlchemy has wrapped
        if not _means_unreachable(cause):
            return error
        self.outages += 1
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        if self.url.password:
            reason = reason.replace(str(self.url.password), "***")
        return DatabaseUnavailable(
            f"cannot reach the database {self.masked_url}: {reason}; start it or correct NIGHTFLEET_DATABASE_URL "
            "(`nightfleet db check` tells more)"
        )


def times(value: Any) -> datetime | None:
    """Give a time column's value as an aware UTC `datetime`, whatever the database."""
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value)).replace(tzinfo=UTC)  # `strptime` takes as long as a statement


def moment(value: Any) -> datetime:
    """Give a time of a column that is never NULL."""
    found = times(value)
    if found is None:
        raise ValueError("a time that must be set is not")
    return found


def sqlite_value(value: Any) -> Any:
    """Give a parameter as SQLite takes it: times as text that sorts, lists as JSON."""
    match value:
        case datetime():
            return value.astimezone(UTC).strftime(_SQLITE_TIME)
        case list() | tuple():
            import json

            return json.dumps(value)
        case _:
            return value


def _rollback(session: Session) -> None:
    # If the connection is gone, so is the transaction; the first error is the one that matters.
    with contextlib.suppress(Exception):
        session.command("ROLLBACK")


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, NightfleetError):
        return False
    # Two submissions with one new idempotency key: the second finds the first one's run when it tries again.
    if "uq_run_idempotency" in str(error) or "run.idempotency_key" in str(error):
        return True
    return getattr(error, "sqlstate", None) in _TRANSIENT_STATES


def _means_unreachable(error: BaseException | None) -> bool:
    if error is None or isinstance(error, DatabaseUnavailable):
        return False
    module = type(error).__module__
    if module == "sqlite3":
        return "unable to open" in str(error)
    if not module.startswith("psycopg"):
        return False
    state = getattr(error, "sqlstate", None)
    if state is None:  # no answer from a server: refused, timed out, closed
        return type(error).__name__ in {"OperationalError", "ConnectionTimeout", "InterfaceError", "PipelineAborted"}
    # Connection exceptions, insufficient resources, shutting down or starting up, wrong credentials or database.
    return state[:2] in {"08", "53", "28", "3D"} or state in {"57P01", "57P02", "57P03", "58000"}
