"""Moves runs through a store by hand, as workers would, and looks at what is stored: for tests of the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Table, select, update

from orchestrator.clock import ids
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import AgentRuns, Claim, Finish, Outcome
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database, times
from orchestrator.store.store import Store
from orchestrator.store.tables import agent_run, run

T = TypeVar("T")

DONE = Outcome(AgentRunState.SUCCEEDED, output='{"text":"done"}')
FAILED = Outcome(AgentRunState.FAILED, error='{"code":"agent_failed","message":"no"}')
WORKER, OTHER_WORKER = "0199c0de-0000-7000-8000-000000000001", "0199c0de-0000-7000-8000-000000000002"


def task(identity: str, *after: str, **fields: Any) -> TaskDefinition:
    """Define a task whose agent has its name."""
    return TaskDefinition.model_validate({"id": identity, "agent": identity, "after": after, **fields})


def plan_of(*tasks: TaskDefinition) -> Plan:
    return Plan(WorkflowDefinition(tasks=tasks))


def join(width: int) -> Plan:
    """Plan that many tasks, `a0`, `a1` and so on, which all meet in the task `end`."""
    members = [task(f"a{number}") for number in range(width)]
    return plan_of(*members, task("end", *(member.id for member in members)))


def race(*works: Callable[[], T]) -> list[T]:
    """Do everything at the same time, each in a thread of its own; gives the results, or raises the first error."""
    start = threading.Barrier(len(works))

    def go(work: Callable[[], T]) -> T:
        start.wait(60)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(go, work) for work in works]]


def spread(work: Callable[[Any], T], items: Sequence[Any], threads: int) -> list[T]:
    """Do `work` on every item from a number of threads; gives the results in the items' order."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


class Steps:
    """One workflow on one store: makes runs and moves their tasks by name."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store = store
        self.plan = plan
        self._of_thread = threading.local()

    @property
    def agent_runs(self) -> AgentRuns:
        """The repository as this thread's own: each thread stands for a process, and none waits for another one's group."""
        if not hasattr(self._of_thread, "agent_runs"):
            self._of_thread.agent_runs = AgentRuns(self.store.database)
        return self._of_thread.agent_runs

    def start(self, count: int = 1) -> list[str]:
        """Create runs; gives their ids."""
        return list(self.create(*(NewRun(ids.new(), '{"text":"hello"}') for _ in range(count))))

    def create(self, *new: NewRun, project: str = "default") -> tuple[str, ...]:
        return self.store.runs.create(self.plan, new, project=project).ids

    def id(self, run_id: str, name: str) -> str:
        return self.plan.id_at(run_id, self.plan.position[name])

    def try_claim(self, run_id: str, name: str, worker: str = WORKER) -> Claim | None:
        return self.agent_runs.claim(self.id(run_id, name), worker)

    def claim(self, run_id: str, name: str, worker: str = WORKER) -> Claim:
        claim = self.try_claim(run_id, name, worker)
        assert claim is not None
        return claim

    def finish(self, claim: Claim, outcome: Outcome = DONE) -> Finish | None:
        return self.agent_runs.finish(claim, self.plan, outcome)

    def do(self, run_id: str, *names: str, outcome: Outcome = DONE) -> Finish:
        """Claim and finish tasks one after the other; gives what the last one set free."""
        finished = None
        for name in names:
            finished = self.finish(self.claim(run_id, name), outcome)
        assert finished is not None
        return finished

    def requeue(
        self, claim: Claim, delay_seconds: float = 0.0, agent: str | None = None, *, failed: bool = True
    ) -> bool:
        return self.agent_runs.requeue(
            claim, delay_seconds=delay_seconds, error=FAILED.error, failed=failed, agent=agent
        )

    def row(self, run_id: str, name: str) -> dict[str, Any]:
        """Give an agent run as it is stored."""
        return stored(self.store.database, agent_run, self.id(run_id, name))

    def change(self, run_id: str, name: str, **values: Any) -> None:
        """Put an agent run into a condition that would take long to come about."""
        change(self.store.database, agent_run, self.id(run_id, name), **values)

    def states(self, run_id: str) -> dict[str, str]:
        """Give the states of all agent runs by their tasks."""
        return {row[1]: row[3] for row in self.store.runs.states(run_id)}

    def state(self, run_id: str) -> RunState:
        return self.store.runs.state(run_id)

    def run_row(self, run_id: str) -> dict[str, Any]:
        return stored(self.store.database, run, run_id)


def stored(database: Database, table: Table, identity: str) -> dict[str, Any]:
    """Give a row by column; times are aware."""
    with database.connect() as connection:
        row = connection.execute(select(table).where(table.c.id == identity)).mappings().one()
    return {name: times(value) if name.endswith("_at") else value for name, value in row.items()}


def change(database: Database, table: Table, identity: str, **values: Any) -> None:
    """Set columns of a row."""
    with database.connect() as connection:
        count = connection.execute(update(table).where(table.c.id == identity).values(**values)).rowcount
    assert count == 1


def ago(database: Database, seconds: float) -> Any:
    """Give a time that lies so many seconds back, as the database stores it."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds)
    return moment if database.dialect == "postgresql" else moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def wait_for_lock(database: Database) -> None:
    """Wait until some session of ours waits for a lock."""
    pause = threading.Event()
    for _ in range(1_200):
        with database.connect() as connection:
            waiting = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s",
                (f"%{database.schema}%",),
            ).scalar_one()
        if waiting:
            return
        pause.wait(0.05)
    raise AssertionError("nobody waits")
