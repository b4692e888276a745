"""The pools of agents: how many agent runs of one agent may run at a time. A wish is a row, which workers follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.dispatch import queue_of
from orchestrator.contracts.fleet import PoolSummary
from orchestrator.store.agent_runs import AgentRuns, Claim
from orchestrator.store.database import Database, Session, times


@dataclass(frozen=True, slots=True)
class Refused:
    """A claim that a pool does not let begin for now; its agent run stays queued."""


class Pools:
    """The aggregate of pools; every method is one transaction."""

    def __init__(self, database: Database, agent_runs: AgentRuns) -> None:
        self._database = database
        self._agent_runs = agent_runs

    def bounded(self) -> list[PoolSummary]:
        """Give the pools that ask for less than everything."""
        return [_pool(row) for row in self._database.execute(lambda session: session.rows("pools"))]

    def of(self, agent: str) -> PoolSummary:
        """Give the pool of an agent, with how much of it runs."""

        def work(session: Session) -> PoolSummary:
            row = session.row("pool", agent=agent)
            return _pool(row or (agent, False, None, None, None), running=_running(session, agent))

        return self._database.transact(work)

    def change(self, agent: str, wish: Callable[[PoolSummary], PoolSummary]) -> PoolSummary:
        """Wish something else of a pool, from what is wished now: changes at the same time follow one another."""

        def work(session: Session) -> PoolSummary:
            session.run("open_pool", agent=agent)
            row = session.row("lock_pool", agent=agent)
            if row is None:
                raise LookupError(f"the pool of {agent} is gone")
            new = wish(_pool(row, running=_running(session, agent)))
            row = session.row(
                "change_pool",
                agent=agent,
                paused=new.paused,
                fleet_slots=new.slots,
                worker_slots=new.worker_slots,
            )
            return new if row is None else _pool(row, running=new.running)

        return self._database.transact(work)

    def claim(self, agent_run_id: str, worker_id: str, agent: str) -> Claim | Refused | None:
        """Claim an agent run of an agent whose pool is bounded: never more of them at once than the fleet may run.

        Claims of one agent follow one another, held by its pool's row. None: there is nothing to do.
        """

        def work(session: Session) -> Claim | Refused | None:
            row = session.row("lock_pool", agent=agent)
            pool = None if row is None else _pool(row)
            if pool is not None and (pool.paused or _is_full(session, pool)):
                return Refused()
            return self._agent_runs.claim_in(session, agent_run_id, worker_id)

        return self._database.transact(work)


def _is_full(session: Session, pool: PoolSummary) -> bool:
    return pool.slots is not None and _running(session, pool.agent) >= pool.slots


def _running(session: Session, agent: str) -> int:
    row = session.row("running_on", queue=queue_of(agent))
    return 0 if row is None else int(row[0])


def _pool(row: tuple[Any, ...], running: int = 0) -> PoolSummary:
    return PoolSummary(
        agent=row[0],
        paused=bool(row[1]),
        slots=row[2],
        worker_slots=row[3],
        running=running,
        changed_at=times(row[4]),
    )
