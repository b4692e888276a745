"""Which agent a task gets that names a capability: decided when its run is submitted, and kept by the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from orchestrator.clock import Clock, shuffled
from orchestrator.errors import UnknownCapability
from orchestrator.planning.capabilities import Able, nobody_can
from orchestrator.planning.frontier import Plan
from orchestrator.store.census import Load
from orchestrator.store.creation import Arm, NewRun

#: How long the load of agents is remembered: a burst of submits asks the database once, and counts what it has given since.
_LOAD_SECONDS = 1.0


@dataclass(slots=True)
class _Candidate:
    """An agent that could be chosen, and how much it has been given since its load was read."""

    load: Load
    read_at: float
    #: Whose turn it is first among those that are equally busy.
    rank: int
    given: int = 0

    @property
    def busy(self) -> float:
        """How much each of its slots would have to do with one more."""
        return (self.load.running + self.load.queued + self.given + 1) / max(1, self.load.slots)


class Binder:
    """Gives tasks that name a capability the least busy agent that has it; thread-safe.

    Those that are equally busy take turns, from a different one on in each process and at each reading.
    """

    def __init__(
        self, able: Callable[[], Able], loads: Callable[[Collection[str]], Sequence[Load]], clock: Clock
    ) -> None:
        """`able` gives the agents that have each capability, `loads` how busy some agents are now."""
        self._able = able
        self._loads = loads
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, _Candidate] = {}

    def bound(self, plan: Plan, runs: Sequence[NewRun]) -> Sequence[NewRun]:
        """Give the runs with an agent for each task that names a capability; raises `UnknownCapability`."""
        if not plan.needs:
            return runs
        with self._lock:
            found = {capability: self._candidates(capability) for capability in set(plan.needs.values())}
            return [
                replace(run, agents={at: _least_busy(found[capability]) for at, capability in plan.needs.items()})
                for run in runs
            ]

    def bound_arms(self, arms: Sequence[Arm]) -> Sequence[Arm]:
        """Give the arms with runs that are bound, each to agents of its own plan."""
        return [replace(arm, runs=tuple(self.bound(arm.plan, arm.runs))) for arm in arms]

    def least_busy(self, capability: str) -> str:
        """Give the least busy agent that has a capability by what the database says now; raises `UnknownCapability`."""
        with self._lock:
            self._known.clear()
            return _least_busy(self._candidates(capability))

    def shared_out(self, capability: str, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Share some pieces of work out among the agents that have a capability: who does each, and who could.

        Raises `UnknownCapability`.
        """
        with self._lock:
            candidates = self._candidates(capability)
            return tuple(_least_busy(candidates) for _ in range(count)), tuple(sorted(self._able().get(capability, ())))

    def _candidates(self, capability: str) -> Sequence[_Candidate]:
        able = self._able()
        agents = able.get(capability, ())
        if not agents:
            raise UnknownCapability(nobody_can(capability, able), details={"capabilities": [capability]})
        now = self._clock.monotonic()
        old = [name for name in agents if now - _read_at(self._known.get(name)) > _LOAD_SECONDS]
        for rank, load in enumerate(shuffled(self._loads(old) if old else ())):
            self._known[load.agent] = _Candidate(load, now, rank)
        return _worth_asking([self._known[name] for name in sorted(agents) if name in self._known])


def _read_at(candidate: _Candidate | None) -> float:
    return -1e9 if candidate is None else candidate.read_at


def _worth_asking(candidates: Sequence[_Candidate]) -> Sequence[_Candidate]:
    """Leave out whom nobody serves or whose pool is paused, unless that is so of all: what is chosen then waits."""
    served = [each for each in candidates if each.load.slots > 0]
    return served or [each for each in candidates if not each.load.paused] or candidates


def _least_busy(candidates: Sequence[_Candidate]) -> str:
    chosen = min(candidates, key=lambda each: (each.busy, each.given, each.rank))
    chosen.given += 1
    return chosen.load.agent
