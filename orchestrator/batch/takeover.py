"""Runs that an earlier embedded process has left: nobody else goes on with them. A fleet does so by itself."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.clock import Clock, system_clock
from orchestrator.kernel import Kernel


class Takeover:
    """Makes runs this process's own, if each embedded process moves its own runs."""

    def __init__(self, kernel: Kernel, clock: Clock = system_clock) -> None:
        self._kernel = kernel
        self._clock = clock
        self._lease_ttl = kernel.settings.lease_ttl.total_seconds()
        self._taken: dict[str, float] = {}

    def take(self, run_ids: Iterable[str]) -> None:
        """Put runs that are not ours back on their way."""
        own = self._kernel.own_runs
        if own is None:
            return
        for run_id in run_ids:
            if run_id not in own:
                own.add(run_id)
                self._taken[run_id] = self._clock.monotonic()
                self._put_back(run_id)

    def look_again(self) -> None:
        """Put back what was still held when a run was taken: its holder's last heartbeat was too young to call it dead."""
        before = self._clock.monotonic() - self._lease_ttl - 1.0
        for run_id in [run_id for run_id, at in self._taken.items() if at < before]:
            del self._taken[run_id]
            self._put_back(run_id)

    def let_go(self, run_id: str) -> None:
        """Forget a run that has ended."""
        self._taken.pop(run_id, None)
        if self._kernel.own_runs is not None:
            self._kernel.own_runs.discard(run_id)

    def _put_back(self, run_id: str) -> None:
        held = self._kernel.store.repairs.take_over_run(run_id, lease_ttl_seconds=self._lease_ttl)
        self._kernel.advancer.republish(held)
        self._kernel.advancer.advance(run_id)
