"""The fleet as it is now: agents with who serves them, workers with what they do, pools with what is wished."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.policy import Value
from orchestrator.contracts.workflow import Name


class AgentState(StrEnum):
    """Whether agent runs of an agent begin: someone serves it, its pool is paused, nobody does."""

    SERVED = "served"
    PAUSED = "paused"
    UNSERVED = "unserved"


class WorkerState(StrEnum):
    """Whether a worker process takes work: it beats, it ends, or it has given no sign of life for a lease."""

    LIVE = "live"
    DRAINING = "draining"
    LOST = "lost"


class PoolSummary(Value):
    """How many agent runs of an agent may run at a time: `slots` in the whole fleet, `worker_slots` in each worker.

    None is as many as workers have slots. While it is `paused` none begins; those that run go on. `running` is how many do.
    """

    schema_version: Literal[1] = 1
    agent: Name
    paused: bool = False
    slots: int | None = Field(default=None, ge=1)
    worker_slots: int | None = Field(default=None, ge=1)
    running: int = 0
    changed_at: datetime | None = None

    @property
    def bounded(self) -> bool:
        """Whether it asks for less than everything."""
        return self.paused or self.slots is not None or self.worker_slots is not None


class AgentVersion(Value):
    """A version of an agent that live workers have, and how many they are."""

    digest: str
    workers: int


class LiveAgent(AgentCard):
    """An agent as the fleet has it now: its card, who serves it, and how busy it is.

    `slots` is how many agent runs of it can run at a time: those of the live `workers` that serve it, bounded by its pool.
    Other agents may be running in them. `running` and `queued` are counted in the database, `queued` up to 10,000 and without
    what waits for other tasks of its run. More than one of `versions` says that workers differ: a deployment is under way,
    or was left half done.
    """

    state: AgentState
    queue: str
    workers: int
    slots: int
    running: int
    queued: int
    versions: tuple[AgentVersion, ...] = ()
    served_by: tuple[str, ...] = ()
    pool: PoolSummary
    announced_at: datetime | None = None

    @property
    def load(self) -> float:
        """How much there is to do for each slot; that of an agent without slots counts as if it had one."""
        return (self.running + self.queued) / max(1, self.slots)


class WorkerSummary(Value):
    """A worker process: where it is, whether it takes work, how busy it is, and what it serves.

    It is `lost` once it has given no sign of life for a lease (`NIGHTFLEET_LEASE_TTL`); a few seconds later another worker takes
    over what it held, and it is in no list any more.
    """

    schema_version: Literal[1] = 1
    id: str
    name: str
    host: str | None = None
    pid: int
    state: WorkerState
    slots: int
    running: int
    agents: tuple[str, ...] = ()
    broker: str | None = None
    started_at: datetime | None = None
    beat_at: datetime | None = None
