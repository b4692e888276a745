"""Runs inside a caller's own transaction: they are there when it commits, and never were when it rolls back.

A connection that is joined stays its owner's: what is done there is done in a savepoint, with cursors of ours, so that no
error of ours ends the caller's transaction and nothing that the caller has set up for values or rows is used or changed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg import errors
from psycopg.adapt import AdaptersMap
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from orchestrator.errors import NightfleetError, UsageError
from orchestrator.planning.frontier import Plan
from orchestrator.store.creation import Created, Creation, FirstUse, NewRun, Place, first_uses
from orchestrator.store.database import Database, Row, Session, times

log = logging.getLogger("nightfleet.enlisted")

_SAVEPOINT = "nightfleet_submit"
#: Each round means that somebody else has committed one of our new keys between our look and our insert.
_ROUNDS = 8
_WAITING = "nightfleet.after_commit"

_ACCEPTED = (
    "give a psycopg 3 connection, a SQLAlchemy connection or session on psycopg 3 (postgresql+psycopg://), or "
    "django.db.connection on psycopg 3"
)


class Enlisted:
    """A caller's transaction that creates runs.

    Raises `UsageError` for what is no open transaction of the installation's own database.
    """

    def __init__(self, database: Database, given: Any) -> None:
        self._database = database
        self._given = _unwrapped(given)
        connection = _driver_connection(self._given)
        _check_open(connection)
        _begin(self._given)
        self._session = Session(database, _Cursors(connection))

    def create(self, plan: Plan, runs: Sequence[NewRun], place: Place) -> Created:
        """Insert runs with all their agent runs, to be published after the commit; see `Runs.create`."""
        used: dict[str, FirstUse] = {}
        for left in reversed(range(_ROUNDS)):
            self._session.command(f"SAVEPOINT {_SAVEPOINT}")
            try:
                creation = Creation(plan, place, self._arrive(), published=False)
                used |= first_uses(self._session, place, runs)
                created = creation.insert(self._session, runs, used)
            except BaseException as error:  # noqa: BLE001 - raised again, as what it means
                self._undo()
                if not left or not _is_taken_key(error):
                    raise self._explained(error) from None
            else:
                self._session.command(f"RELEASE SAVEPOINT {_SAVEPOINT}")
                return created
            # By our own connection: a caller's snapshot may be older than the run that has the key.
            used = self._database.execute(lambda session: first_uses(session, place, runs))
        raise AssertionError("the last round returns or raises")

    def after_commit(self, publish: Callable[[], None]) -> None:
        """Call `publish` after the commit where whoever owns the connection offers that: a SQLAlchemy session does."""
        if _is_a(self._given, "sqlalchemy.orm", "Session"):
            _call_after_commit(self._given, publish)

    def _arrive(self) -> Any:
        """Make sure that this is the installation's database, and give its time, not that of the transaction's begin."""
        table = self._database.qualify("run")
        [now, *there] = _whereabouts(self._session, table)
        [_, *here] = self._database.execute(lambda session: _whereabouts(session, table))
        if there != here:
            raise UsageError(self._elsewhere())
        return times(now)

    def _undo(self) -> None:
        # If the connection is gone, so is the transaction; the first error is the one that matters.
        with contextlib.suppress(Exception):
            self._session.command(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            self._session.command(f"RELEASE SAVEPOINT {_SAVEPOINT}")

    def _elsewhere(self) -> str:
        return (
            f"the connection leads to another database than {self._database.masked_url}, schema "
            f"{self._database.schema!r}: a run can only join a transaction of the database that holds all runs; point "
            "NIGHTFLEET_DATABASE_URL there, or submit without the connection after your commit"
        )

    def _explained(self, error: BaseException) -> BaseException:
        match error:
            case NightfleetError():
                return error
            case errors.UndefinedTable() | errors.InvalidSchemaName():
                return UsageError(self._elsewhere())
            case errors.InsufficientPrivilege():
                schema = self._database.schema
                return UsageError(
                    f"the connection's role must not write runs ({_first_line(error)}): GRANT USAGE ON SCHEMA "
                    f'"{schema}" and GRANT SELECT, INSERT ON {_granted(schema, error)} to it'
                )
            case errors.ForeignKeyViolation():
                return UsageError(
                    "this workflow or project is used for the first time, and your transaction's snapshot (REPEATABLE "
                    "READ or SERIALIZABLE) is older than it: begin the transaction again, as after a serialization failure",
                    retryable=True,
                )
            case _:
                return error


def undecided(database: Database, run_ids: Sequence[str]) -> list[str]:
    """Give those of the runs that wait for a decision that nobody has taken, such as a first task's condition."""
    rows = database.execute(lambda session: session.rows("undecided_of", runs=sorted(run_ids)))
    return [row[0] for row in rows]


class _Cursor(psycopg.Cursor[tuple[Any, ...]]):
    """A cursor that reads and writes values as on a connection of ours."""

    @property
    def adapters(self) -> AdaptersMap:
        return _adapters()


class _Cursors:
    """A caller's connection, as far as a `Session` needs one."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection, row_factory=tuple_row)


@cache
def _adapters() -> AdaptersMap:
    made = AdaptersMap(psycopg.adapters)
    for name in ("uuid", "json", "jsonb"):
        made.register_loader(name, TextLoader)
    return made


# Whose connection it is -----------------------------------------------------------------------------------------------


def _is_a(given: Any, module: str, name: str) -> bool:
    """Tell whether this is an instance of a library's class; a library that nobody has imported has none."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(given, kind)


def _unwrapped(given: Any) -> Any:
    """Give the session of this thread or task where a registry of sessions was given (Flask-SQLAlchemy's `db.session`)."""
    return given() if _is_a(given, "sqlalchemy.orm", "scoped_session") else given


def _driver_connection(given: Any) -> psycopg.Connection[Any]:
    found = given
    if _is_a(given, "sqlalchemy.orm", "Session"):
        found = given.connection().connection.driver_connection
    elif _is_a(given, "sqlalchemy.engine", "Connection"):
        found = given.connection.driver_connection
    elif hasattr(given, "ensure_connection"):  # Django's: not imported, since nothing of ours needs it
        given.ensure_connection()
        found = given.connection
    if isinstance(found, psycopg.Connection):
        return found
    raise UsageError(f"connection: {_refusal(found)}; {_ACCEPTED}")


def _refusal(found: Any) -> str:
    kind = type(found)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if any(base.__name__.startswith("Async") for base in kind.__mro__) or kind.__module__.startswith("asyncpg"):
        return f"{name} is asynchronous, and joining needs a blocking connection"
    if kind.__module__.startswith("psycopg2"):
        return f"{name} is of psycopg2"
    if "sqlite" in kind.__module__.lower():
        return f"{name} is of SQLite, and the runs of a fleet are in Postgres"
    return f"{name} is no connection that can be joined"


def _check_open(connection: psycopg.Connection[Any]) -> None:
    status = connection.info.transaction_status
    if connection.closed:
        raise UsageError("the connection is closed: give one with an open transaction")
    if status is TransactionStatus.INERROR:
        raise UsageError("the connection's transaction has failed, nothing can join it: roll it back first")
    if connection.autocommit and status is TransactionStatus.IDLE:
        raise UsageError(
            "the connection is in autocommit mode and no transaction is open, so there is nothing to join: begin one "
            "(psycopg: `with connection.transaction():`, Django: `with transaction.atomic():`), or leave `connection` away"
        )
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        raise UsageError("the connection is in pipeline mode: submit outside of it")


def _begin(given: Any) -> None:
    # SQLAlchemy begins with a connection's first statement and does not see ours: its commit() would do nothing.
    if _is_a(given, "sqlalchemy.engine", "Connection") and not given.in_transaction():
        given.begin()


def _call_after_commit(session: Any, publish: Callable[[], None]) -> None:
    waiting: list[Callable[[], None]] | None = session.info.get(_WAITING)
    if waiting is None:
        from sqlalchemy import event

        waiting = session.info[_WAITING] = []
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_rollback", _rolled_back)
    waiting.append(publish)


def _committed(session: Any) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: nothing can be seen of it yet
    waiting: list[Callable[[], None]] = session.info[_WAITING]
    while waiting:
        try:
            waiting.pop(0)()
        except Exception:  # the caller's commit is done, and must not seem to have failed
            log.exception("runs of a committed transaction are left to the sweep")


def _rolled_back(session: Any) -> None:
    if session.in_nested_transaction():
        return  # a savepoint: what was submitted outside of it may yet be committed
    session.info[_WAITING].clear()


def _whereabouts(session: Session, table: str) -> Row:
    return session.rows("whereabouts", table=table)[0]


# Errors ---------------------------------------------------------------------------------------------------------------


def _is_taken_key(error: BaseException) -> bool:
    return isinstance(error, errors.UniqueViolation) and error.diag.constraint_name == "uq_run_idempotency"


def _granted(schema: str, error: BaseException) -> str:
    """Give the tables that a submit writes: that of budgets only for a run with one of its own."""
    tables = ["run", "agent_run", "countdown", *(["budget"] if "budget" in _first_line(error) else [])]
    return ", ".join(f'"{schema}".{table}' for table in tables)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
