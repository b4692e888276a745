"""The runs that one embedded process moves. Several may share a store, so each moves its own; a fleet has no such thing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from itertools import count

from orchestrator.advance import Advancer
from orchestrator.clock import Clock, system_clock
from orchestrator.errors import ServiceUnavailable
from orchestrator.store.store import Store

log = logging.getLogger("nightfleet.own_runs")

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
        #: Each with a number of its own for every time that it was added.
        self._ids: dict[str, int] = {}
        self._added = count()
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
            self._ids.update(zip(run_ids, self._added, strict=False))

    def take(self, run_ids: Iterable[str]) -> None:
        """Make runs that may be an earlier process's this one's own, and put those back on their way.

        A service that is away costs time only: `look_again` puts back what could not be.
        """
        now = self._clock.monotonic()
        with self._lock:
            ids = list(run_ids)
            new = [run_id for run_id in dict.fromkeys(ids) if run_id not in self._ids]
            self._ids.update(zip(ids, self._added, strict=False))
            self._taken.update(dict.fromkeys(new, now))
        try:
            for run_id in new:
                self._put_back(run_id)
        except ServiceUnavailable as error:
            log.warning("runs of an earlier process are put back later: %s", error.message)

    def look_again(self) -> None:
        """Put back what was still held when a run was taken: its holder's last heartbeat was too young to call it dead.

        Raises `DatabaseUnavailable`; the next look then begins with what is left.
        """
        now = self._clock.monotonic()
        with self._lock:
            over = [run_id for run_id, at in self._taken.items() if at < now - self._lease_ttl - 1.0]
        for run_id in over:
            self._put_back(run_id)
            with self._lock:
                self._taken.pop(run_id, None)
        if now - self._forgot_at >= _FORGET_SECONDS:
            self._forgot_at = now
            self._forget_ended()

    def let_go(self, run_ids: Iterable[str]) -> None:
        """Forget runs that have ended, or were never made."""
        with self._lock:
            for run_id in run_ids:
                self._forget(run_id)

    def _forget_ended(self) -> None:
        with self._lock:
            before = dict(self._ids)
        # One that is not there yet is about to be made.
        ended = [run_id for run_id, state in self._store.runs.states_of(sorted(before)).items() if state.final]
        with self._lock:
            for run_id in ended:
                # One that was added again meanwhile is open again: `retry` opens it before it adds it.
                if self._ids.get(run_id) == before[run_id]:
                    self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._ids.pop(run_id, None)
        self._taken.pop(run_id, None)

    def _put_back(self, run_id: str) -> None:
        held = self._store.repairs.take_over_run(run_id, lease_ttl_seconds=self._lease_ttl)
        self._advancer.republish(held)
        self._advancer.advance(run_id)
