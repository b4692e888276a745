"""Timers: wake what sleeps until now, publish what is queued and due, and look again when the next one is due.

Every worker does it. So that a fleet does not ask the database all at once for each timer, whoever comes too late looks
less often, and whoever is slow leaves time for the agents.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.advance import Advancer
from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.failpoints import failpoint
from orchestrator.own_runs import OwnRuns
from orchestrator.store.repairs import TAKEN_AT_ONCE
from orchestrator.store.store import Store

#: Between two looks: thousands of timers that end one after the other are woken together.
LEAST_WAIT_SECONDS = 0.02
#: How much longer than a look the pause after it is at least.
_REST = 4.0
#: Timers end with the database's microseconds, which a pause does not have.
_AFTER_SECONDS = 0.005


class Timers:
    """One process's share of the timers; `longest_wait` seconds after another process has died they are fired here."""

    def __init__(
        self,
        store: Store,
        advancer: Advancer,
        *,
        longest_wait: float,
        own_runs: OwnRuns | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._store = store
        self._advancer = advancer
        self._own_runs = own_runs
        self._clock = clock
        self.longest_wait = longest_wait
        #: The shortest pause, by how much others were quicker, and by how long the last look took.
        self._too_late = LEAST_WAIT_SECONDS
        self._least = LEAST_WAIT_SECONDS
        #: Whether something should have been due at the next look.
        self._expected = False

    def fire(self) -> int:
        """Publish every agent run that is due: one that is suspended until now, or queued and published by nobody.

        Gives how many those were; raises `DatabaseUnavailable`.
        """
        own = None if self._own_runs is None else self._own_runs.ids
        began, expected = self._clock.monotonic(), self._expected
        self._expected = False

        def wake() -> list[Dispatch]:
            woken = self._store.waits.wake_due(own)
            if woken:
                failpoint("after_wake")
            return woken

        fired = self._publish_all(wake) + self._publish_all(lambda: self._store.repairs.take_due(own))
        if fired:
            self._too_late = LEAST_WAIT_SECONDS
        elif expected:
            self._too_late = min(self.longest_wait, 2 * self._too_late)
        self._least = max(self._too_late, _REST * (self._clock.monotonic() - began))
        return fired

    def wait_seconds(self) -> float:
        """Give the time until the next look is worth it: the longest wait, or less when something is due before."""
        due = self._store.repairs.seconds_to_next_due()
        self._expected = due is not None and due < self.longest_wait
        return self.longest_wait if due is None else min(self.longest_wait, max(self._least, due + _AFTER_SECONDS))

    def _publish_all(self, take: Callable[[], list[Dispatch]]) -> int:
        """Publish what is taken, batch by batch, until nothing is left or the broker is away."""
        count = 0
        while dispatches := take():
            if not self._advancer.republish(dispatches):
                break
            count += len(dispatches)
            if len(dispatches) < TAKEN_AT_ONCE:
                break
        return count
