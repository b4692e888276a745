"""What the sweep mends: leases of the dead, lost publications, decisions that nobody took. Bounded batches, indexed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from orchestrator.clock import position_of
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import RunState
from orchestrator.failpoints import failpoint
from orchestrator.store.compensation import end_run, go_on
from orchestrator.store.database import Database, Session, times
from orchestrator.store.runs import Runs
from orchestrator.store.subwork import end_one
from orchestrator.store.subwork_steps import stop_below

#: The most rows that `take_due` gives, as its statements say.
TAKEN_AT_ONCE = 500
#: How many rows with a condition `stuck_runs` looks at in one call, and how many runs it gives.
_LOOKED_AT_ONCE = 2000
_STUCK_AT_ONCE = 100
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
#: Something published this much earlier than what has been claimed since should have been claimed too.
TRAFFIC_MARGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """A running agent run whose holder is gone."""

    id: str
    run_id: str
    epoch: int
    crashes: int
    worker_id: str


class Loss(Enum):
    """Why a claim comes back without an outcome; what it makes of the agent run, and what it charges it with."""

    #: (whether it is a suspect from now on, crashes that are added, crashes that are added if it was a suspect before)
    HANDED_BACK = (False, 0, 0)
    #: With everything else that ran there: any of it may be why.
    WORKER_DIED = (True, 0, 0)
    #: Its worker lives and knows nothing of it. Counted from the second time on, so that an error of ours between claim
    #: and record cannot repeat an agent for ever.
    FORGOTTEN = (True, 0, 1)
    #: In a process of its own, so nothing else can be why.
    DIED_ALONE = (True, 1, 1)

    @property
    def counted(self) -> bool:
        """Whether it brings an agent run that is a suspect already nearer to its quarantine."""
        return self.value[2] > 0


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue at one priority: what is lost can be told only among messages that overtake each other nowhere else."""

    queue: str
    priority: int


class Repairs:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._database = database
        self._runs = runs
        self._looked_at = _FIRST_ID

    def take_turn(self, interval_seconds: float, *, lease_seconds: float) -> datetime | None:
        """Give until when this process alone sweeps, None if it is not its turn: one begins in each interval.

        The turn ends with `end_turn`, or by itself when its process has died.
        """
        row = self._database.execute(
            lambda session: session.row("take_turn", interval=float(interval_seconds), lease=float(lease_seconds))
        )
        return times(row[0]) if row else None

    def end_turn(self, held_until: datetime) -> None:
        """Let others sweep."""
        self._database.execute(lambda session: session.run("end_turn", held_until=held_until))

    def orphans_of(self, worker_id: str) -> list[Orphan]:
        """Give up to 500 agent runs that a worker holds."""
        rows = self._database.execute(lambda session: session.rows("held_by_dead", worker_id=worker_id))
        return [Orphan(row[0], row[1], row[2], row[3], worker_id) for row in rows]

    def orphans_of_nobody(self, *, lease_ttl_seconds: float) -> list[Orphan]:
        """Give up to 500 agent runs that were claimed a lease ago by a worker whose row is gone."""
        rows = self._database.execute(
            lambda session: session.rows("held_by_nobody", lease_ttl=float(lease_ttl_seconds))
        )
        return [Orphan(*row) for row in rows]

    def release(self, orphan: Orphan, loss: Loss) -> bool:
        """Put an orphan back into its queue, before all else; false when it has moved on meanwhile."""
        suspect, charge, charge_suspect = loss.value
        failpoint("before_release")
        count = self._database.execute(
            lambda session: session.run(
                "release_held",
                id=orphan.id,
                run_id=orphan.run_id,
                epoch=orphan.epoch,
                worker_id=orphan.worker_id,
                suspect=suspect,
                charge=charge,
                charge_suspect=charge_suspect,
            )
        )
        failpoint("after_release")
        return count == 1

    def take_due(self, runs: Collection[str] | None = None) -> list[Dispatch]:
        """Mark up to 500 unpublished, due rows as published now and give them, to be published; of `runs` only, if given."""
        return self._dispatches("take_due") if runs is None else self._dispatches("take_due_of", runs=sorted(runs))

    def take_over_run(self, run_id: str, *, lease_ttl_seconds: float) -> list[Dispatch]:
        """Mark what a process that is gone left of a run as published now and give it, to be published."""
        return self._dispatches("resume_rows", run_id=run_id, lease_ttl=float(lease_ttl_seconds))

    def seconds_to_next_due(self) -> float | None:
        """Give the wait until the next row is due to be published or woken, None if there is none."""
        row = self._database.execute(lambda session: session.row("next_due"))
        due, now = (times(row[0]), times(row[1])) if row else (None, None)
        return None if due is None or now is None else max(0.0, (due - now).total_seconds())

    def lanes(self) -> list[Lane]:
        """Give the lanes in which anything is queued and published."""
        return [Lane(*row) for row in self._database.execute(lambda session: session.rows("queued_lanes"))]

    def take_overtaken(self, lane: Lane, *, grace_seconds: float) -> list[Dispatch]:
        """Take up to 50 rows that later publications have overtaken by far: marked as published again."""

        def work(session: Session) -> list[Any]:
            row = session.row(
                "lost_before_traffic", queue=lane.queue, priority=lane.priority, margin=TRAFFIC_MARGIN_SECONDS
            )
            latest = times(row[0]) if row else None
            if latest is None:
                return []
            before = latest - timedelta(seconds=TRAFFIC_MARGIN_SECONDS)
            return self._take_before(session, lane, before, grace_seconds)

        return _as_dispatches(self._database.transact(work))

    def take_unclaimed_by_idle(self, lane: Lane, *, grace_seconds: float, lease_ttl_seconds: float) -> list[Dispatch]:
        """Take up to 50 rows that a worker with a free slot has not claimed for `grace_seconds`, and that none is coming to."""

        def work(session: Session) -> list[Any]:
            row = session.row(
                "idle_on_queue",
                queue=lane.queue,
                priority=lane.priority,
                grace=float(grace_seconds),
                lease_ttl=float(lease_ttl_seconds),
            )
            before = times(row[0]) if row else None
            return [] if before is None else self._take_before(session, lane, before, grace_seconds)

        return _as_dispatches(self._database.transact(work))

    def has_older(self, lane: Lane, *, age_seconds: float) -> bool:
        """Tell whether a lane has a published row of that age."""
        row = self._database.execute(
            lambda session: session.row("any_older", queue=lane.queue, priority=lane.priority, age=float(age_seconds))
        )
        return row is not None

    def waiting(self, queue: str, *, bound: int) -> int:
        """Count the published rows that wait on a queue, up to a bound."""
        row = self._database.execute(lambda session: session.row("waiting_on_queue", queue=queue, bound=bound))
        return int(row[0]) if row else 0

    def take_older(self, lane: Lane, *, age_seconds: float, most: int) -> list[Dispatch]:
        """Take up to `most` rows of an age that doubles with each time they are taken."""
        return self._dispatches(
            "take_lost_older", queue=lane.queue, priority=lane.priority, age=float(age_seconds), most=most
        )

    def quarantine(self, orphan: Orphan, error: str) -> RunState | None:
        """End a suspect and its run as failed; None for what is none, or has moved on meanwhile.

        Gives the run's state: it goes on while what it did is undone. If it is a compensation itself, the others go on; of
        sub-work its caller is told.
        """

        def work(session: Session) -> RunState | None:
            row = session.row("lock_run", run_id=orphan.run_id)
            if row is None or RunState(row[0]).final:
                return None
            ended = session.row("quarantine_row", id=orphan.id, epoch=orphan.epoch, error=error)
            if ended is None:
                return None
            parent_id, subwork_id, asked = ended
            if parent_id is not None:
                _leave_to_sweep(session, end_one(session, orphan.id, parent_id, subwork_id))
                return RunState.RUNNING
            plan, position = self._runs.plan_in(session, row[1]), position_of(orphan.id)
            if plan.undo_at(position) is None:
                return end_run(session, plan, orphan.run_id, RunState.FAILED, error)
            if asked:
                stop_below(session, [orphan.id])
            gone_on = go_on(session, plan, orphan.run_id, position, row[2])
            _leave_to_sweep(session, gone_on.released)
            return gone_on.state if gone_on.ended else RunState.RUNNING

        return self._database.transact(work)

    def stuck_runs(self) -> list[str]:
        """Give up to 100 runs with a decision that nobody has taken; the next call goes on where this one has stopped."""
        rows = self._database.execute(
            lambda session: session.rows("stuck_runs", after=self._looked_at, bound=_LOOKED_AT_ONCE)
        )
        found = list(dict.fromkeys(row[2] for row in rows if row[2] is not None))
        if len(found) <= _STUCK_AT_ONCE:
            self._looked_at = rows[0][1] if rows and rows[0][0] == _LOOKED_AT_ONCE else _FIRST_ID
        return found[:_STUCK_AT_ONCE]

    def _take_before(self, session: Session, lane: Lane, before: Any, grace_seconds: float) -> list[Any]:
        return session.rows(
            "take_lost_before", queue=lane.queue, priority=lane.priority, before=before, grace=float(grace_seconds)
        )

    def _dispatches(self, statement: str, **parameters: Any) -> list[Dispatch]:
        return _as_dispatches(self._database.execute(lambda session: session.rows(statement, **parameters)))


def _leave_to_sweep(session: Session, released: Iterable[Dispatch]) -> None:
    for dispatch in released:
        session.run("unpublished", id=dispatch.id, dispatch=dispatch.number)


def _as_dispatches(rows: list[Any]) -> list[Dispatch]:
    return [Dispatch(row[0], row[4], row[2], row[5]) for row in rows]
