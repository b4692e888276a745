"""What there is to count in the whole fleet: open work, queues, workers. Every statement goes by a partial index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.contracts.dispatch import agent_of
from orchestrator.store.database import Database, times


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queue: what is due now, what will be due later (retries), and how long the oldest has been due."""

    due: int = 0
    later: int = 0
    oldest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FleetReading:
    """The fleet at one moment, by state and by agent."""

    runs: Mapping[str, int]
    waiting: Mapping[str, Waiting]
    running: Mapping[str, int]
    workers: int
    slots: int
    #: Messages that wait, by the agent that will receive them.
    mail: Mapping[str, int] = field(default_factory=dict[str, int])


class Readings:
    """Reads the fleet; costs as much as there is open work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fleet(self, *, lease_ttl_seconds: float) -> FleetReading:
        """Give what is open now, and the live workers."""
        with self._database.autocommit() as session:
            runs = session.rows("open_runs")
            announced = session.rows("announced_queues")
            waiting = session.rows("waiting_by_queue")
            running = session.rows("running_by_queue")
            mail = session.rows("waiting_mail")
            size = session.row("fleet_size", lease_ttl=float(lease_ttl_seconds)) or (0, 0)
        idle = {agent_of(row[0]): Waiting() for row in announced}
        return FleetReading(
            runs={"pending": 0, "running": 0} | {row[0]: int(row[1]) for row in runs},
            waiting=idle | {agent_of(row[0]): _waiting(row) for row in waiting},
            mail=dict.fromkeys(idle, 0) | {row[0]: int(row[1]) for row in mail},
            running=dict.fromkeys(idle, 0) | {agent_of(row[0]): int(row[1]) for row in running},
            workers=int(size[0]),
            slots=int(size[1]),
        )


def _waiting(row: tuple[Any, ...]) -> Waiting:
    since, now = times(row[3]), times(row[4])
    oldest = max(0.0, (now - since).total_seconds()) if since is not None and now is not None else 0.0
    return Waiting(due=int(row[2]), later=int(row[1]) - int(row[2]), oldest_seconds=oldest)
