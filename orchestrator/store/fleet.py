"""The fleet: agents that were announced, worker processes, their heartbeats and queues."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.dispatch import queue_of
from orchestrator.planning.capabilities import agents_by_capability
from orchestrator.store.database import Database, Session, times


@dataclass(frozen=True, slots=True)
class Held:
    """An agent run under a claim, as the database sees it."""

    id: str
    epoch: int
    #: Claimed so long ago that its executor must know of it.
    settled: bool
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's heartbeat as an observer reads it; `seen_at` is the database's time of the reading."""

    worker_id: str
    sequence: int
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A live worker process."""

    id: str
    name: str
    pid: int
    slots: int
    draining: bool
    started_at: datetime | None
    beat_at: datetime | None
    running: int


class Fleet:
    """The aggregate of workers and agents; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def join(  # noqa: PLR0913 - all of it by name
        self,
        worker_id: str,
        *,
        name: str,
        pid: int,
        slots: int,
        cards: Sequence[AgentCard],
        broker: str | None = None,
        host: str | None = None,
    ) -> None:
        """Announce a worker process, its agents and its queues; again after its row was removed or its agents changed."""

        def work(session: Session) -> None:
            session.run("add_worker", id=worker_id, name=name, pid=pid, slots=slots, broker=broker, host=host)
            for card in sorted(cards, key=lambda card: card.name):
                queue = queue_of(card.name)
                session.run("add_agent", name=card.name, queue=queue, card=card.model_dump_json())
                session.run("add_worker_queue", worker_id=worker_id, queue=queue, digest=card.digest)
            session.run("keep_worker_queues", worker_id=worker_id, queues=[queue_of(card.name) for card in cards])

        self._database.transact(work)

    def beat(self, worker_id: str, *, slots: int, idle: bool, draining: bool, shut: Collection[str] = ()) -> bool:
        """Give a sign of life and what may have changed; false when the worker's row is gone and it must `join` again.

        `shut` are the queues that it takes nothing from for now.
        """

        def work(session: Session) -> bool:
            alive = session.run("beat", id=worker_id, slots=slots, draining=draining) == 1
            if alive:
                session.run("set_idle", worker_id=worker_id, idle=idle, shut=list(shut))
            return alive

        return self._database.transact(work)

    def leave(self, worker_id: str) -> None:
        """Remove a worker process that holds nothing any more."""
        self._database.execute(lambda session: session.run("remove_worker", id=worker_id))

    def held(self, worker_id: str, *, settled_after_seconds: float) -> list[Held]:
        """Give what a worker holds."""
        rows = self._database.execute(
            lambda session: session.rows("held_by", worker_id=worker_id, older_than=float(settled_after_seconds))
        )
        return [Held(row[0], row[1], bool(row[2]), row[3]) for row in rows]

    def beats(self) -> list[Beat]:
        """Give every worker's heartbeat, for an observer."""
        rows = self._database.execute(lambda session: session.rows("beats"))
        return [Beat(row[0], row[1], seen) for row in rows if (seen := times(row[2])) is not None]

    def agent_names(self) -> frozenset[str]:
        """Give the names of all agents that were ever announced."""
        return frozenset(row[0] for row in self._database.execute(lambda session: session.rows("agent_names")))

    def card(self, name: str) -> AgentCard | None:
        """Give what was announced last of an agent; None for one that never was."""
        row = self._database.execute(lambda session: session.row("agent_card", name=name))
        return None if row is None else AgentCard.model_validate_json(row[0])

    def agents(self, *, lease_ttl_seconds: float) -> list[tuple[AgentCard, int]]:
        """Give every announced agent with the number of live workers that serve it."""
        rows = self._database.execute(lambda session: session.rows("agents", lease_ttl=float(lease_ttl_seconds)))
        return [(card_of(row[1]), int(row[3])) for row in rows]

    def workers(self, *, lease_ttl_seconds: float) -> list[WorkerRow]:
        """Give the live workers."""
        rows = self._database.execute(lambda session: session.rows("live_workers", lease_ttl=float(lease_ttl_seconds)))
        return [
            WorkerRow(row[0], row[1], row[2], row[3], bool(row[4]), times(row[5]), times(row[6]), row[7])
            for row in rows
        ]

    def brokers(self, queues: Collection[str], *, lease_ttl_seconds: float) -> dict[str, set[str | None]]:
        """Give, for those of `queues` that live workers serve, from where these consume; None where one has not said so."""
        rows: list[tuple[Any, ...]] = self._database.execute(
            lambda session: session.rows("serving_brokers", queues=sorted(queues), lease_ttl=float(lease_ttl_seconds))
        )
        found: dict[str, set[str | None]] = {}
        for queue, broker in rows:
            found.setdefault(queue, set()).add(broker)
        return found

    def capabilities(self) -> dict[str, tuple[str, ...]]:
        """Give the announced agents that have each capability."""
        found = self._database.execute(lambda session: session.rows("agent_capabilities"))
        return agents_by_capability((name, _capabilities_of(text)) for name, text in found)

    def unserved(self, queues: Collection[str], *, lease_ttl_seconds: float) -> frozenset[str]:
        """Give those of `queues` that no live worker consumes."""
        return frozenset(queues) - self.brokers(queues, lease_ttl_seconds=lease_ttl_seconds).keys()


def card_of(text: str) -> AgentCard:
    """Decode a stored card; what a newer worker says beyond what this version knows is left out."""
    said = json.loads(text)
    return AgentCard.model_validate({name: value for name, value in said.items() if name in AgentCard.model_fields})


def _capabilities_of(text: str | None) -> Collection[str]:
    said = json.loads(text or "null")
    return (said.get("capabilities") if isinstance(said, dict) else said) or ()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
