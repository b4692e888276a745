"""The runs that one embedded process moves. Several may share a store, so each moves its own; a fleet has no such thing."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from orchestrator.advance import Advancer
from orchestrator.clock import Clock, system_clock
from orchestrator.store.store import Store

#: Ended runs are forgotten this often.
_FORGET_SECONDS = 30.0


class OwnRuns:
    """Which runs are this process's own, and what an earlier process has left of them; thread-safe."""

    def __init__(self, store: Store, advancer: Advancer, lease_ttl_seconds: float, clock: Clock = system_clock) -> None:
        self._store = store
        self._advancer = advancer
        self._lease_ttl = lease_ttl_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._ids: set[str] = set()
        self._taken: dict[str, float] = {}
        self._forgot_at = clock.monotonic()

    @property
    def ids(self) -> list[str]:
        """Their ids as they are now."""
        with self._lock:
            return sorted(self._ids)

    def add(self, run_ids: Iterable[str]) -> None:
        """Make new runs this process's own."""
        with self._lock:
            self._ids.update(run_ids)

    def take(self, run_ids: Iterable[str]) -> None:
        """Make runs that may be an earlier process's this one's own, and put those back on their way."""
        for run_id in run_ids:
            with self._lock:
                known = run_id in self._ids
                self._ids.add(run_id)
                if not known:
                    self._taken[run_id] = self._clock.monotonic()
            if not known:
                self._put_back(run_id)

    def look_again(self) -> None:
        """Put back what was still held when a run was taken: its holder's last heartbeat was too young to call it dead."""
        now = self._clock.monotonic()
        with self._lock:
            over = [run_id for run_id, at in self._taken.items() if at < now - self._lease_ttl - 1.0]
            for run_id in over:
                del self._taken[run_id]
        for run_id in over:
            self._put_back(run_id)
        if now - self._forgot_at >= _FORGET_SECONDS:
            self._forgot_at = now
            self._forget_ended()

    def let_go(self, run_ids: Iterable[str]) -> None:
        """Forget runs that have ended."""
        with self._lock:
            for run_id in run_ids:
                self._ids.discard(run_id)
                self._taken.pop(run_id, None)

    def _forget_ended(self) -> None:
        # One that is not there yet is about to be made.
        self.let_go([run_id for run_id, state in self._store.runs.states_of(self.ids).items() if state.final])

    def _put_back(self, run_id: str) -> None:
        held = self._store.repairs.take_over_run(run_id, lease_ttl_seconds=self._lease_ttl)
        self._advancer.republish(held)
        self._advancer.advance(run_id)
