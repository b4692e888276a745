"""What `nightfleet doctor` finds: facts about an installation, and what they mean."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from orchestrator.contracts.policy import Value


class Level(StrEnum):
    """`ok` needs nobody, `warning` somebody in the morning, `error` somebody now."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Value):
    """What a fact means: a sentence, and what to do about it. `code` stays the same from release to release."""

    level: Level
    code: str
    message: str
    advice: str = ""


class SettingFact(Value):
    """A setting in force, secrets masked, and where it comes from."""

    variable: str
    value: str | None
    source: Literal["default", "profile", "environment", "option"]


class Service(Value):
    """A server that was asked; `error` says why it did not answer. Addresses are masked."""

    kind: Literal["postgresql", "sqlite", "rabbitmq", "redis", "memory"]
    address: str
    error: str | None = None
    version: str | None = None
    connect_ms: float | None = None
    answer_ms: float | None = None


class PostgresFact(Value):
    """How the Postgres server is set up: what it can hold, and what it keeps."""

    connections: int
    max_connections: int
    fsync: bool
    synchronous_commit: bool
    standby: bool


class RedisFact(Value):
    """What a Redis does when its memory is full; `max_bytes` 0 means no limit of its own."""

    eviction_policy: str
    used_bytes: int
    max_bytes: int
    replica: bool


class AgentFact(Value):
    """An agent as it is here, as the workers announced it, or both; digests are None where it is not known."""

    name: str
    origin: str
    digest: str | None
    announced_digest: str | None
    workers: int


class ProblemFact(Value):
    """A plugin that cannot be loaded here; the message begins with its place."""

    origin: str
    message: str


class WorkerFact(Value):
    """A worker process with a row in the database, alive or not."""

    id: str
    name: str
    pid: int
    slots: int
    running: int
    draining: bool
    live: bool
    beat_age_seconds: float
    #: Which broker and namespace it consumes from; None where it has not said so.
    broker: str | None = None


class PoolFact(Value):
    """What is wished for an agent: none of its agent runs begins, or at most so many run in the fleet and in each worker."""

    paused: bool = False
    slots: int | None = None
    worker_slots: int | None = None


class QueueFact(Value):
    """An agent's queue with rows that wait for it: `depth` and `consumers` are the broker's, None where it cannot tell.

    `bounded` means that counting has stopped at `waiting`. `pool` is what is wished for the agent, if that is less than all.
    """

    queue: str
    waiting: int
    bounded: bool
    oldest_seconds: float
    workers: int
    depth: int | None = None
    consumers: int | None = None
    pool: PoolFact | None = None

    @property
    def agent(self) -> str:
        return self.queue.removeprefix("agent.")


class HeldFact(Value):
    """An agent run that is running, for so long."""

    run_id: str
    agent: str
    seconds: float


class TableFact(Value):
    """A table, or the file of SQLite; rows are the database's own estimate, None where it has none."""

    name: str
    rows: int | None
    dead_rows: int | None
    bytes: int


class RetentionFact(Value):
    """What is deleted next: runs whose time has passed, and those whose time passes within a day. Counts are bounded.

    `days` and `runs` are what the settings say, 0 is no limit; `own_rules` is the number of projects that say otherwise.
    """

    days: int
    runs: int
    own_rules: int
    due: int
    due_within_a_day: int
    bounded: bool


class Unread(Value):
    """What could not be found out, and why."""

    what: str
    why: str


class Work(Value):
    """What the database knows of the fleet and its work. Counts are bounded; ages are differences of its own times."""

    workers: tuple[WorkerFact, ...] = ()
    queues: tuple[QueueFact, ...] = ()
    sweep_age_seconds: float | None = None
    open_runs: int = 0
    unpublished: int = 0
    unpublished_seconds: float = 0.0
    waiting_for_retry: int = 0
    orphans: tuple[HeldFact, ...] = ()
    longest: tuple[HeldFact, ...] = ()
    stuck_runs: tuple[str, ...] = ()
    failures: dict[str, int] = Field(default_factory=dict[str, int])
    tables: tuple[TableFact, ...] = ()
    retention: RetentionFact | None = None

    @property
    def live_workers(self) -> tuple[WorkerFact, ...]:
        return tuple(worker for worker in self.workers if worker.live)


class Facts(Value):
    """An installation as it was found; what needs a service that did not answer is None."""

    schema_version: Literal[1] = 1
    at: datetime
    embedded: bool
    settings: tuple[SettingFact, ...]
    versions: dict[str, str]
    database: Service
    broker: Service
    redis: Service | None = None
    revision: str | None = None
    needed_revision: str = ""
    clock_skew_seconds: float | None = None
    postgres: PostgresFact | None = None
    redis_memory: tuple[RedisFact, ...] = ()
    agents: tuple[AgentFact, ...] = ()
    problems: tuple[ProblemFact, ...] = ()
    #: What is wrong with the file of models that the settings name.
    models_file_error: str | None = None
    #: The same of the file of adapters.
    adapters_file_error: str | None = None
    work: Work | None = None
    unread: tuple[Unread, ...] = ()


class Diagnosis(Facts):
    """What `doctor --json` prints: the facts, what they mean, the worst of it, and the exit code that follows."""

    findings: tuple[Finding, ...]
    level: Level
    exit_code: int
