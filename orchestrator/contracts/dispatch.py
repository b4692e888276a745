"""What a message says: which agent run is ready. Everything else is in the database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from orchestrator.clock import run_id_of

_TASK_ID = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.[0-9]{1,9}", re.ASCII)


class Priority(IntEnum):
    """Recovered work goes before resumed work and later stages, and those before new runs. At most three steps."""

    NEW = 0
    LATER = 1
    RECOVERED = 2


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One publication of an agent run. `number` counts them, so that a revoked Celery id is never used again."""

    id: str
    number: int
    agent: str
    priority: int

    @property
    def run_id(self) -> str:
        return run_id_of(self.id)

    @property
    def task_id(self) -> str:
        """The Celery task id."""
        return f"{self.id}.{self.number}"


def agent_run_id_of(task_id: str) -> str:
    """Give the agent run that a Celery task id stands for; raises `ValueError` for an id that is not of this form."""
    found = _TASK_ID.fullmatch(task_id)
    if found is None:
        raise ValueError(f"{task_id!r} is the Celery id of no agent run")
    return found[1]


def queue_of(agent: str) -> str:
    """Give the name of an agent's queue, routing key and Celery task; the namespace comes before it at the broker."""
    return f"agent.{agent}"


def agent_of(queue: str) -> str:
    """Give the agent whose queue this is."""
    return queue.removeprefix("agent.")
