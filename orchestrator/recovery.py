"""The sweep: finds what a crash, a lost message or a lost broker left behind, and puts it back on its way.

It runs in every worker. Each one observes all heartbeats; the repairs are done by one at a time, in turns kept by the
database, so the sweep survives its own death. Every repair is idempotent, bounded and counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from orchestrator.advance import Advancer
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import ErrorInfo, RunState
from orchestrator.errors import AgentCrashed
from orchestrator.own_runs import OwnRuns
from orchestrator.settings import Settings
from orchestrator.store.fleet import Beat
from orchestrator.store.repairs import Lane, Orphan
from orchestrator.store.store import Store


class Watch:
    """Tells which workers are dead: the same heartbeat for a full lease of uninterrupted observation.

    Durations are differences of the database's own times, so no host's clock matters; a gap between two observations
    (the database was away, this process was stopped) starts every observation anew.
    """

    def __init__(self, lease_ttl_seconds: float, max_gap_seconds: float) -> None:
        self._ttl = lease_ttl_seconds
        self._max_gap = max_gap_seconds
        self._first_seen: dict[str, tuple[int, datetime]] = {}
        self._last: datetime | None = None

    def observe(self, beats: list[Beat]) -> list[str]:
        """Take in one reading of all heartbeats; gives the workers whose lease has expired."""
        if not beats:
            return []
        now = beats[0].seen_at
        if self._last is None or (now - self._last).total_seconds() > self._max_gap or now < self._last:
            self._first_seen.clear()
        self._last = now
        expired: list[str] = []
        for beat in beats:
            known = self._first_seen.get(beat.worker_id)
            if known is None or known[0] != beat.sequence:
                self._first_seen[beat.worker_id] = (beat.sequence, now)
            elif (now - known[1]).total_seconds() >= self._ttl:
                expired.append(beat.worker_id)
        present = {beat.worker_id for beat in beats}
        self._first_seen = {key: value for key, value in self._first_seen.items() if key in present}
        return expired

    def interrupt(self) -> None:
        """Start anew: an observation has failed."""
        self._first_seen.clear()
        self._last = None


class Depths(Protocol):
    """Knows how many messages wait in a queue at the broker."""

    def depth(self, name: str, /) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep mended."""

    taken_over: int = 0
    due: int = 0
    republished: int = 0
    advanced: int = 0

    def __bool__(self) -> bool:
        return bool(self.taken_over or self.republished or self.advanced)


class Sweep:
    """One process's share of the recovery; `counts` adds up what it has mended."""

    def __init__(
        self, store: Store, advancer: Advancer, depths: Depths, settings: Settings, own_runs: OwnRuns | None = None
    ) -> None:
        """Sweep for a fleet, or with `own_runs` for one embedded process, which leaves the runs of others alone."""
        self._own_runs = own_runs
        self._store = store
        self._advancer = advancer
        self._depths = depths
        self._ttl = settings.lease_ttl.total_seconds()
        self._interval = settings.sweep_interval.total_seconds()
        self._idle_grace = settings.idle_grace.total_seconds()
        self._republish_after = settings.republish_after.total_seconds()
        self._max_crashes = settings.max_crashes
        self.watch = Watch(self._ttl, max_gap_seconds=max(3 * self._interval, self._ttl / 3))
        self.counts: Counter[str] = Counter()

    def tick(self) -> Swept:
        """Observe, and mend if it is this process's turn; raises `DatabaseUnavailable` while there is no database."""
        if self._own_runs is not None:
            self._own_runs.look_again()
            return self._count(Swept(due=self.publish_due()))
        try:
            expired = self.watch.observe(self._store.fleet.beats())
        except Exception:
            self.watch.interrupt()
            raise
        # Taking over needs no turn: every observer may, and the epoch decides who was first.
        taken_over = sum(self._take_over(worker_id) for worker_id in expired)
        due = self.publish_due()
        if not self._store.repairs.take_turn(self._interval):
            return self._count(Swept(taken_over=taken_over, due=due))
        taken_over += sum(self.release(orphan) for orphan in self._store.repairs.orphans_of_nobody())
        republished = sum(self._republish_lost(lane) for lane in self._store.repairs.lanes())
        stuck = self._store.repairs.stuck_runs()
        for run_id in stuck:
            self._advancer.advance(run_id)
        due += self.publish_due()
        return self._count(Swept(taken_over, due, republished, len(stuck)))

    def wait_seconds(self) -> float:
        """Give the time until the next tick is worth it: the interval, or less when something is due before."""
        due = self._store.repairs.seconds_to_next_due()
        return self._interval if due is None else min(self._interval, due + 0.005)

    def _take_over(self, worker_id: str) -> int:
        count = 0
        while orphans := self._store.repairs.orphans_of(worker_id):
            moved = sum(self.release(orphan) for orphan in orphans)
            count += moved
            if not moved:
                break
        self._store.fleet.leave(worker_id)
        return count

    def release(self, orphan: Orphan) -> int:
        """Put an orphan back before all else, or end it when it has been one too often; gives 1 if that changed anything."""
        if orphan.crashes + 1 >= self._max_crashes:
            error = AgentCrashed(
                f"its worker died while it ran, {orphan.crashes + 1} times: it is not tried again "
                "(NIGHTFLEET_MAX_CRASHES); `nightfleet runs retry` starts it anew"
            )
            info = ErrorInfo(code=error.code, message=error.message)
            quarantined = self._store.repairs.quarantine(orphan, info.model_dump_json())
            if quarantined:
                self._advancer.on_run_ended(orphan.run_id, RunState.FAILED)
            return int(quarantined)
        return int(self._store.repairs.release(orphan, crashed=True))

    def publish_due(self) -> int:
        """Publish every queued agent run that is due and that nobody has published."""
        count = 0
        own = None if self._own_runs is None else self._own_runs.ids
        while dispatches := self._store.repairs.take_due(own):
            if not self._advancer.republish(dispatches):
                break
            count += len(dispatches)
        return count

    def _republish_lost(self, lane: Lane) -> int:
        """Publish again what must have been lost on a lane: overtaken, ignored by an idle worker, or missing at the broker."""
        repairs = self._store.repairs
        lost = repairs.take_overtaken(lane, grace_seconds=self._idle_grace)
        lost += repairs.take_unclaimed_by_idle(lane, grace_seconds=self._idle_grace, lease_ttl_seconds=self._ttl)
        if not lost:
            lost = self._missing_at_broker(lane)
        self._advancer.republish(lost)
        return len(lost)

    def _missing_at_broker(self, lane: Lane) -> list[Dispatch]:
        """Catch what the other two rules cannot see: a message lost on a quiet queue while no worker is ever idle.

        A queue that holds as many messages as rows wait for it has lost none, however long they wait.
        """
        repairs = self._store.repairs
        if not repairs.has_older(lane, age_seconds=self._republish_after):
            return []
        depth = self._depths.depth(lane.queue)
        if depth is None:
            return []
        missing = repairs.waiting(lane.queue, bound=depth + 50) - depth
        return [] if missing <= 0 else repairs.take_older(lane, age_seconds=self._republish_after, most=missing)

    def _count(self, swept: Swept) -> Swept:
        self.counts.update(
            taken_over=swept.taken_over, due=swept.due, republished=swept.republished, advanced=swept.advanced
        )
        return swept
