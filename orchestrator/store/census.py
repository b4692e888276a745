"""The fleet as it is now: which agents there are, who serves them, how busy they are. Costs as much as there is open work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.dispatch import agent_of
from orchestrator.contracts.fleet import (
    AgentState,
    AgentVersion,
    LiveAgent,
    PoolSummary,
    WorkerState,
    WorkerSummary,
)
from orchestrator.contracts.workflow import NODE_KINDS
from orchestrator.store.creation import database_now
from orchestrator.store.database import Database, Session, times
from orchestrator.store.fleet import card_of

#: Counting stops there: who has more to do is busy in any case.
MOST_QUEUED = 10_000


@dataclass(frozen=True, slots=True)
class Serving:
    """A live worker that serves an agent, with the version of it that it has."""

    worker_id: str
    worker: str
    slots: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an agent is: how many agent runs of it can run at a time, run, and are queued."""

    agent: str
    slots: int
    running: int
    queued: int
    paused: bool = False


class Census:
    """Reads the fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> datetime:
        """Give the time of the database, by which heartbeats are told."""
        with self._database.autocommit() as session:
            return database_now(session)

    def agents(self, *, lease_ttl_seconds: float) -> list[LiveAgent]:
        """Give every agent that a worker has ever announced, by name, as it is now."""

        with self._database.autocommit() as session:
            rows = [row for row in session.rows("agent_cards") if row[0] not in NODE_KINDS]
            busy = _Busy.read(session, [row[0] for row in rows], lease_ttl_seconds)
        return [busy.agent(card_of(text), queue, times(at)) for _, queue, text, at in rows]

    def loads(self, agents: Collection[str], *, lease_ttl_seconds: float) -> list[Load]:
        """Give how busy some agents are; those that nobody has announced have nothing to do, and no slots."""
        names = sorted(agents)
        with self._database.autocommit() as session:
            busy = _Busy.read(session, names, lease_ttl_seconds)
        return [busy.load(name) for name in names]

    def slots(self, agent: str, *, lease_ttl_seconds: float) -> int:
        """Count the slots of the live workers that serve an agent, as far as its pool lets it have them when not paused."""
        with self._database.autocommit() as session:
            return _Busy.read(session, [agent], lease_ttl_seconds).resumed_slots(agent)

    def workers(self, *, lease_ttl_seconds: float) -> list[WorkerSummary]:
        """Give every worker process by name, those too that give no sign of life and nobody has taken over from yet."""

        served: dict[str, list[str]] = {}
        with self._database.autocommit() as session:
            queues = session.rows("all_worker_queues")
            rows = session.rows("all_workers", lease_ttl=float(lease_ttl_seconds))
        for worker_id, queue in queues:
            if agent_of(queue) not in NODE_KINDS:
                served.setdefault(worker_id, []).append(agent_of(queue))
        return [
            WorkerSummary(
                id=row[0],
                name=row[1],
                host=row[2],
                pid=row[3],
                state=_state(is_fresh=bool(row[9]), is_draining=bool(row[5])),
                slots=row[4],
                running=row[10],
                agents=tuple(served.get(row[0], ())),
                broker=row[8],
                started_at=times(row[6]),
                beat_at=times(row[7]),
            )
            for row in rows
        ]


@dataclass(frozen=True, slots=True)
class _Busy:
    """What some agents have to do, and who is there for it, at one moment."""

    serving: Mapping[str, Sequence[Serving]]
    pools: Mapping[str, PoolSummary]
    running: Mapping[str, int]
    queued: Mapping[str, int]

    @classmethod
    def read(cls, session: Session, names: Sequence[str], lease_ttl_seconds: float) -> _Busy:
        serving: dict[str, list[Serving]] = {}
        for name, *rest in session.rows("serving", names=list(names), lease_ttl=float(lease_ttl_seconds)):
            serving.setdefault(name, []).append(Serving(*rest))
        running = {agent_of(queue): int(count) for queue, count in session.rows("running_of")}
        queued = {name: int(n) for name, n in session.rows("queued_of", names=list(names), bound=MOST_QUEUED)}
        pools = {
            row[0]: PoolSummary(
                agent=row[0],
                paused=bool(row[1]),
                slots=row[2],
                worker_slots=row[3],
                running=running.get(row[0], 0),
                changed_at=times(row[4]),
            )
            for row in session.rows("pools")
        }
        return cls(serving, pools, running, queued)

    def pool(self, name: str) -> PoolSummary:
        return self.pools.get(name) or PoolSummary(agent=name, running=self.running.get(name, 0))

    def slots(self, name: str) -> int:
        """Count the slots of the live workers that serve an agent, as far as its pool lets it have them."""
        return 0 if self.pool(name).paused else self.resumed_slots(name)

    def resumed_slots(self, name: str) -> int:
        """Count the same, paused or not."""
        pool = self.pool(name)
        most = pool.worker_slots
        each = (one.slots if most is None else min(one.slots, most) for one in self.serving.get(name, ()))
        return sum(each) if pool.slots is None else min(sum(each), pool.slots)

    def load(self, name: str) -> Load:
        return Load(
            name, self.slots(name), self.running.get(name, 0), self.queued.get(name, 0), paused=self.pool(name).paused
        )

    def agent(self, card: AgentCard, queue: str, announced_at: datetime | None) -> LiveAgent:
        serving, pool = self.serving.get(card.name, ()), self.pool(card.name)
        digests = Counter(one.digest or "unknown" for one in serving)
        served = AgentState.SERVED if serving else AgentState.UNSERVED
        return LiveAgent(
            **dict(card),
            state=AgentState.PAUSED if pool.paused else served,
            queue=queue,
            workers=len(serving),
            slots=self.slots(card.name),
            running=self.running.get(card.name, 0),
            queued=self.queued.get(card.name, 0),
            versions=tuple(AgentVersion(digest=digest, workers=n) for digest, n in digests.most_common()),
            served_by=tuple(one.worker for one in serving),
            pool=pool,
            announced_at=announced_at,
        )


def _state(*, is_fresh: bool, is_draining: bool) -> WorkerState:
    if not is_fresh:
        return WorkerState.LOST
    return WorkerState.DRAINING if is_draining else WorkerState.LIVE
