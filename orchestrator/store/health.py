"""What the database knows about the health of an installation: bounded reads that change nothing and lock nothing."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.diagnosis import HeldFact, PoolFact, PostgresFact, QueueFact, TableFact, WorkerFact
from orchestrator.contracts.dispatch import queue_of
from orchestrator.store.database import Database, Row, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.retention import ENDED, ProjectRow, project_row

#: Counting stops here: beyond it an operator needs no exact number, and the doctor no million rows.
COUNT_BOUND = 10_000
_DAY_SECONDS = 86_400.0


class Health:
    """Each method is one read; on Postgres it gives up after a while, also before a locked table."""

    def __init__(self, database: Database, *, lease_ttl_seconds: float, patience_seconds: float = 3.0) -> None:
        self._database = database
        self._patience = f"{patience_seconds * 1000:.0f}"
        self._lease_ttl = float(lease_ttl_seconds)

    def now(self) -> datetime | None:
        """Give the database's time."""
        return times(self._rows("database_now")[0][0])

    def postgres(self) -> tuple[str, PostgresFact]:
        """Give version and settings of the Postgres server."""
        version, used, most, fsync, synchronous, standby = self._rows("postgres_server")[0]
        fact = PostgresFact(
            connections=int(used),
            max_connections=most,
            fsync=fsync,
            synchronous_commit=synchronous,
            standby=standby,
        )
        return str(version).partition(" ")[0], fact

    def sqlite(self) -> tuple[str, TableFact]:
        """Give the version of SQLite and its file as one table."""
        version, size = self._rows("sqlite_server")[0]
        return str(version), TableFact(name="nightfleet.db", rows=None, dead_rows=None, bytes=size)

    def agents(self) -> list[tuple[AgentCard, int]]:
        """Give every announced agent with the number of live workers that serve it."""
        rows = self._rows("agents", lease_ttl=self._lease_ttl)
        return [(AgentCard.model_validate_json(row[1]), int(row[3])) for row in rows]

    def workers(self) -> tuple[WorkerFact, ...]:
        """Give every worker process, the silent ones too."""
        return tuple(
            WorkerFact(
                id=row[0],
                name=row[1],
                pid=row[2],
                slots=row[3],
                draining=bool(row[4]),
                live=(age := _age(row[5], row[6])) <= self._lease_ttl,
                beat_age_seconds=age,
                running=row[7],
                broker=row[8],
            )
            for row in self._rows("worker_beats")
        )

    def queues(self) -> tuple[QueueFact, ...]:
        """Give every queue that something waits for, the one that has waited longest first."""
        served = {str(row[0]): int(row[1]) for row in self._rows("served_queues", lease_ttl=self._lease_ttl)}
        waiting: Counter[str] = Counter()
        oldest: dict[str, float] = {}
        bounded: set[str] = set()
        for queue, count, since, now in self._rows("waiting_lanes", bound=COUNT_BOUND):
            waiting[queue] += count
            oldest[queue] = max(oldest.get(queue, 0.0), _age(since, now))
            if count >= COUNT_BOUND:
                bounded.add(queue)
        pools = {queue_of(row[0]): row for row in self._rows("pools")}
        return tuple(
            QueueFact(
                queue=queue,
                waiting=waiting[queue],
                bounded=queue in bounded,
                oldest_seconds=oldest[queue],
                workers=served.get(queue, 0),
                pool=_pool(pools[queue]) if queue in pools else None,
            )
            for queue in sorted(oldest, key=lambda queue: -oldest[queue])
        )

    def unpublished(self) -> tuple[int, float]:
        """Give how many rows are due and not published, and for how many seconds the first of them."""
        count, since, now = self._rows("unpublished_due", bound=COUNT_BOUND)[0]
        return int(count), _age(since, now)

    def waiting_for_retry(self) -> int:
        """Count the rows whose retry is due later."""
        return int(self._rows("unpublished_later", bound=COUNT_BOUND)[0][0])

    def orphans(self) -> tuple[HeldFact, ...]:
        """Give up to 100 running agent runs whose worker has been silent for two leases, or is gone."""
        return _held(self._rows("running_without_worker", silence=2 * self._lease_ttl))

    def longest(self) -> tuple[HeldFact, ...]:
        """Give the agent runs that have been running for the longest time."""
        return _held(self._rows("running_longest"))

    def stuck_runs(self, *, rest_seconds: float) -> tuple[str, ...]:
        """Give up to 100 open runs in which nothing can move."""
        return tuple(row[0] for row in self._rows("runs_that_rest", rest=float(rest_seconds)))

    def open_runs(self) -> int:
        """Count the runs that have not ended."""
        return int(self._rows("open_run_count", bound=COUNT_BOUND)[0][0])

    def failures(self) -> dict[str, int]:
        """Count the failed runs of a day by the code of their error."""
        rows = self._rows("recent_failures", age=_DAY_SECONDS, bound=COUNT_BOUND)
        return {str(row[0]): int(row[1]) for row in sorted(rows, key=lambda row: (-row[1], row[0]))}

    def sweep_age_seconds(self) -> float | None:
        """Give how long ago the sweep ran."""
        rows = self._rows("last_sweep")
        return _age(rows[0][0], rows[0][1]) if rows else None

    def projects(self) -> list[ProjectRow]:
        """Give every project, and how long it keeps its runs where it says so."""
        return [project_row(row) for row in self._rows("projects", tenant_id=DEFAULT_TENANT_ID)]

    def expired(self, project_id: str, *, age_seconds: float) -> int:
        """Count the runs of a project that ended that long ago, up to `COUNT_BOUND` in each state."""
        about = {"project_id": project_id, "age": age_seconds, "bound": COUNT_BOUND}
        return sum(int(self._rows("expired_count", state=state.value, **about)[0][0]) for state in ENDED)

    def tables(self) -> tuple[TableFact, ...]:
        """Give the tables, the largest first."""
        if self._database.dialect == "sqlite":
            return (self.sqlite()[1],)
        rows = self._rows("table_sizes", schema=self._database.schema)
        # Minus one is Postgres's word for a table that was never analysed.
        return tuple(
            TableFact(name=row[0], rows=None if row[1] < 0 else row[1], dead_rows=row[2], bytes=row[3]) for row in rows
        )

    def _rows(self, statement: str, **parameters: Any) -> list[Row]:
        if self._database.dialect == "sqlite":
            return self._database.execute(lambda session: session.rows(statement, **parameters))
        with self._database.transaction() as session:
            session.rows("limit_patience", milliseconds=self._patience)
            return session.rows(statement, **parameters)


def _held(rows: list[Row]) -> tuple[HeldFact, ...]:
    return tuple(HeldFact(run_id=row[0], agent=row[1], seconds=_age(row[2], row[3])) for row in rows)


def _pool(row: Row) -> PoolFact:
    return PoolFact(paused=bool(row[1]), slots=row[2], worker_slots=row[3])


def _age(since: Any, now: Any) -> float:
    """Give the seconds between two times of the database, 0 where the first is not set."""
    before, after = times(since), times(now)
    return 0.0 if before is None or after is None else max(0.0, (after - before).total_seconds())
