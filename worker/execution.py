"""What a worker process holds, and what becomes of each delivery."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import NightfleetError
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim
from worker.effects.base import Account
from worker.effects.motion import Motion

#: How often to look, while effects are under way, whether they are wanted still.
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Ignored:
    """A duplicate, or nothing to do any more: acknowledge, publish nothing."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """It may not begin now: the pool of its agent is full or paused. Its message goes back to the queue."""


@dataclass(frozen=True, slots=True)
class Done:
    """Recorded. `carried` are the Celery ids, of those that the request carries, which Celery may publish now."""

    carried: frozenset[str]


@dataclass(frozen=True, slots=True)
class Retrying:
    """Recorded as queued again, due in `delay_seconds`."""

    error: NightfleetError
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Recorded as failed for good."""

    error: NightfleetError


@dataclass(frozen=True, slots=True)
class Waiting:
    """Recorded as suspended, for at most `seconds`; `again` is to be published: what it waits for has come already."""

    reason: str
    seconds: float | None
    again: Dispatch | None = None


Verdict = Ignored | Deferred | Done | Retrying | Failed | Waiting


@dataclass(slots=True)
class Execution:
    """A claim that this process executes."""

    claim: Claim
    plan: Plan
    account: Account
    task: TaskDefinition
    began: float
    #: How to interrupt an async agent at its await.
    interrupt: Callable[[], None] | None = None
    #: How to tell an agent in a process of its own that it is to stop at its next effect.
    tell_stopped: Callable[[], None] | None = None
    #: Whether its agent run is given back when it has stopped at its next effect: the worker ends.
    leaving: bool = False
    #: Whether a limit of an async agent has passed: known even while that is what cancels it.
    timed_out: Callable[[], bool] = lambda: False
    #: Set when the watchdog has recorded the end instead of the thread that is stuck in the agent.
    given_up: bool = False
    #: Whether it may have asked for sub-work, which then ends with it.
    has_subwork: bool = False
    motion: Motion = field(init=False)

    def __post_init__(self) -> None:
        self.motion = Motion(self.account)
        self.has_subwork = self.claim.has_subwork

    def wait_until_idle(self) -> None:
        """Wait until nothing of it is under way; raises why nobody waits for that any more."""
        while not self.motion.wait_until_idle(_LOOK_SECONDS):
            if not self.leaving or self.motion.given_up:
                self.account.check()


class Executions:
    """What this process holds, by agent run; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Execution] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    @contextmanager
    def holding(self, execution: Execution) -> Generator[None]:
        with self._lock:
            self._held[execution.claim.id] = execution
        try:
            yield
        finally:
            self.drop(execution)

    def drop(self, execution: Execution) -> None:
        """Hold an execution no longer."""
        with self._lock:
            if self._held.get(execution.claim.id) is execution:
                del self._held[execution.claim.id]

    def get(self, agent_run_id: str) -> Execution | None:
        with self._lock:
            return self._held.get(agent_run_id)

    def all(self) -> list[Execution]:
        with self._lock:
            return list(self._held.values())
