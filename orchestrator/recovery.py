"""The sweep: finds what a crash, a lost message or a lost broker left behind, and puts it back on its way.

It runs in every worker. Each one observes all heartbeats; the repairs are done by one at a time, in turns kept by the
database, so the sweep survives its own death. Every repair is idempotent, bounded and counted.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from orchestrator.advance import Advancer
from orchestrator.bus.stranded import Stranded
from orchestrator.clock import system_clock
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import ErrorInfo
from orchestrator.errors import AgentCrashed, RunDeadlineExceeded, ServiceUnavailable
from orchestrator.own_runs import OwnRuns
from orchestrator.settings import Settings
from orchestrator.store.fleet import Beat
from orchestrator.store.repairs import Lane, Loss, Orphan
from orchestrator.store.runs import Overdue
from orchestrator.store.store import Store
from orchestrator.timers import Timers

log = logging.getLogger("nightfleet.recovery")

#: Counting stops to be cheap: a loss among so many shows when what was published later has been claimed.
_COUNTED_DEPTH = 10_000
#: Rows that one sweep counts in all lanes together, and what asking the broker is worth; the next one goes on there.
_COUNTED_ROWS = 10_000
_ASKING = 100
#: How often mail is looked after: nobody waits for that whose message is on its way.
_MAIL_SECONDS = 2.0
#: Ids in one line of the log.
_NOTED = 50


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
    expired: int = 0

    def __bool__(self) -> bool:
        return bool(self.taken_over or self.republished or self.advanced or self.expired)


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
        #: No timer that is set between two ticks is over before the second one.
        self.longest_wait = min(self._interval, settings.suspend_after.total_seconds())
        self.timers = Timers(store, advancer, longest_wait=self.longest_wait, own_runs=own_runs)
        self._idle_grace = settings.idle_grace.total_seconds()
        self._republish_after = settings.republish_after.total_seconds()
        self._max_crashes = settings.max_crashes
        self.watch = Watch(self._ttl, max_gap_seconds=max(3 * self._interval, self._ttl / 3))
        #: How many rows this sweep may still count, and the first lane that had to be left out.
        self._left = _COUNTED_ROWS
        self._uncounted: Lane | None = None
        self.counts: Counter[str] = Counter()
        self._stranded = Stranded(store.database)
        self._mail_at = float("-inf")

    def tick(self) -> Swept:
        """Observe, and mend if it is this process's turn; raises `DatabaseUnavailable` while there is no database."""
        if self._own_runs is not None:
            self._own_runs.look_again()
            woken = self._look_after_calls()
            woken += self._look_after_mail()
            return self._count(Swept(due=self.timers.fire() + woken, expired=self._end_overdue()))
        try:
            expired = self.watch.observe(self._store.fleet.beats())
        except Exception:
            self.watch.interrupt()
            raise
        # Taking over needs no turn: every observer may, and the epoch decides who was first.
        taken_over = sum(self._take_over(worker_id) for worker_id in expired)
        swept = Swept(taken_over=taken_over, due=self.timers.fire())
        turn = self._store.repairs.take_turn(self._interval, lease_seconds=self._ttl)
        if turn is None:
            return self._count(swept)
        try:
            return self._count(self._mend(swept))
        finally:
            # A turn that cannot be ended ends with its lease.
            with contextlib.suppress(ServiceUnavailable):
                self._store.repairs.end_turn(turn)

    def _mend(self, swept: Swept) -> Swept:
        """Do what one process does at a time: each part looks at a bounded number of rows, by an index."""
        orphans = self._store.repairs.orphans_of_nobody(lease_ttl_seconds=self._ttl)
        freed = [orphan.id for orphan in orphans if self.release(orphan)]
        _note("taken over", freed, why="their workers have left the fleet")
        republished = sum(self._republish_lost(lane) for lane in self._lanes())
        stuck = self._store.repairs.stuck_runs()
        _note("advanced", stuck, why="a decision was due, and nobody had taken it", what="runs")
        for run_id in stuck:
            self._advancer.advance(run_id)
        expired = self._end_overdue()
        due = swept.due + self._look_after_calls() + self._look_after_mail() + self.timers.fire()
        return Swept(swept.taken_over + len(freed), due, republished, len(stuck), expired)

    def _end_overdue(self) -> int:
        """Fail the runs whose deadline has passed; gives how many they were."""
        ended: list[str] = []
        for run in self._store.runs.overdue():
            state = self._store.runs.expire(run.id, _deadline_passed(run).model_dump_json())
            if state is None:
                continue
            ended.append(run.id)
            if state.final:
                self._advancer.on_run_ended(run.id, state)
        _note("failed", ended, why="their deadline has passed", what="runs")
        return len(ended)

    def _look_after_calls(self) -> int:
        """Give up model calls that nobody will settle, and publish who waits for a budget that has room; gives how many."""
        lost = self._store.ledger.close_lost()
        if lost:
            log.warning(
                "kept as unknown what was reserved for model calls: their workers are gone, and they may have been billed",
                extra={"count": lost},
            )
        woken = self._store.ledger.wake(None if self._own_runs is None else self._own_runs.ids)
        return len(woken) if self._advancer.republish(woken) else 0

    def _look_after_mail(self) -> int:
        """Let messages be dead that nobody will receive, and wake who waits for what nobody will send; gives how many."""
        now = system_clock.monotonic()
        if now - self._mail_at < _MAIL_SECONDS:
            return 0
        self._mail_at = now
        self._stranded.clear()
        woken = self._stranded.release_stuck(None if self._own_runs is None else self._own_runs.ids)
        _note(
            "told that no message can come",
            [each.id for each in woken],
            why="who could send one waits too, or has ended",
        )
        return len(woken) if self._advancer.republish(woken) else 0

    def _take_over(self, worker_id: str) -> int:
        count = 0
        while orphans := self._store.repairs.orphans_of(worker_id):
            moved = [orphan.id for orphan in orphans if self.release(orphan)]
            _note("taken over", moved, why=f"no sign of life of their worker for {self._ttl:g} s", worker_id=worker_id)
            count += len(moved)
            if not moved:
                break
        self._store.fleet.leave(worker_id)
        return count

    def release(self, orphan: Orphan, loss: Loss = Loss.WORKER_DIED) -> int:
        """Put an orphan back before all else, or end a suspect that was lost too often; gives 1 if that changed anything.

        What ran on a dying worker is a suspect and is charged nothing: `worker.isolation` finds the guilty.
        """
        if loss.counted and orphan.crashes + 1 >= self._max_crashes:
            error = AgentCrashed(
                f"its executor was lost {orphan.crashes + 1} times: it is not tried again (NIGHTFLEET_MAX_CRASHES); "
                "`nightfleet runs dead redrive` starts it anew"
            )
            info = ErrorInfo(code=error.code, message=error.message)
            if (state := self._store.repairs.quarantine(orphan, info.model_dump_json())) is not None:
                if state.final:
                    self._advancer.on_run_ended(orphan.run_id, state)
                return 1
        return int(self._store.repairs.release(orphan, loss))

    def publish_due(self) -> None:
        """Publish what is due, between two ticks."""
        self._count(Swept(due=self.timers.fire()))

    def _lanes(self) -> list[Lane]:
        """Give the lanes, those first that the last sweep had no time to count."""
        lanes = self._store.repairs.lanes()
        first = lanes.index(self._uncounted) if self._uncounted in lanes else 0
        self._left, self._uncounted = _COUNTED_ROWS, None
        return lanes[first:] + lanes[:first]

    def _republish_lost(self, lane: Lane) -> int:
        """Publish again what must have been lost on a lane: overtaken, ignored by an idle worker, or missing at the broker."""
        repairs, grace = self._store.repairs, self._idle_grace
        found = {
            "what was published later has been claimed": repairs.take_overtaken(lane, grace_seconds=grace),
            "an idle worker has not claimed them": repairs.take_unclaimed_by_idle(
                lane, grace_seconds=grace, lease_ttl_seconds=self._ttl
            ),
        }
        if not any(found.values()):
            found = {"the broker has fewer messages": self._missing_at_broker(lane)}
        for why, lost in found.items():
            _note("published again", [each.id for each in lost], why=why, queue=lane.queue, priority=lane.priority)
            self._advancer.republish(lost)
        return sum(map(len, found.values()))

    def _missing_at_broker(self, lane: Lane) -> list[Dispatch]:
        """Catch what the other two rules cannot see: a message lost on a quiet queue while no worker is ever idle.

        A queue that holds as many messages as rows wait for it has lost none, however long they wait.
        """
        repairs = self._store.repairs
        if not repairs.has_older(lane, age_seconds=self._republish_after):
            return []
        if self._left <= 0:
            self._uncounted = self._uncounted or lane
            return []
        self._left -= _ASKING
        depth = self._depths.depth(lane.queue)
        if depth is None or depth > _COUNTED_DEPTH:
            return []
        waiting = repairs.waiting(lane.queue, bound=depth + 50)
        self._left -= waiting
        missing = waiting - depth
        return [] if missing <= 0 else repairs.take_older(lane, age_seconds=self._republish_after, most=missing)

    def _count(self, swept: Swept) -> Swept:
        self.counts.update(asdict(swept))
        return swept


def _deadline_passed(run: Overdue) -> ErrorInfo:
    allowed = ""
    if run.deadline_at is not None and run.created_at is not None:
        allowed = f" of {(run.deadline_at - run.created_at).total_seconds():g} s"
    message = f"the run has not ended within its deadline{allowed}: what was open of it is cancelled; give it more time"
    return ErrorInfo(code=RunDeadlineExceeded.code, message=message)


def _note(done: str, ids: Sequence[str], *, why: str, what: str = "agent_runs", **about: Any) -> None:
    """Say what was mended and why; nothing where there was nothing to mend."""
    if ids:
        shown = " ".join(ids[:_NOTED])
        log.warning("%s: %s", done, why, extra={"count": len(ids), what: shown, **about})
