"""The beat: submits workflows at their times. Any number of processes may run; each firing is one run.

A firing is known by its idempotency key, and the last one is read from the database: what a process that died, or a
database that was away, has left out is made up for by whoever comes next.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from orchestrator.clock import Clock, system_clock
from orchestrator.errors import IdempotencyConflict, NightfleetError, ServiceUnavailable, UnknownAgent
from orchestrator.failpoints import failpoint
from orchestrator.observability.logging import get_logger
from orchestrator.schedules.file import Schedule
from orchestrator.store.firings import Firings

log = get_logger("nightfleet.beat")

#: How long nobody looks at the clock: it may be set, and the machine may have slept.
_LONGEST_WAIT_SECONDS = 5.0
_RETRY_SECONDS = 2.0


class Submit(Protocol):
    """Submits workflows: `Service.submit`."""

    def __call__(
        self, workflow: Any, inputs: Sequence[Any], *, project: str, keys: Sequence[str | None]
    ) -> list[str]: ...


class Beat:
    """One process's share of the firings; `counts` tells what became of them, by schedule."""

    def __init__(
        self, schedules: Sequence[Schedule], submit: Submit, firings: Firings, clock: Clock = system_clock
    ) -> None:
        self.schedules = schedules
        self.counts: dict[tuple[str, str], int] = {}
        self.ticked_at = clock.monotonic()
        self._submit = submit
        self._firings = firings
        self._clock = clock
        #: Up to when each schedule's firings are settled.
        self._settled: dict[str, datetime] = {}

    def run(self, stopping: threading.Event) -> None:
        """Fire until told to stop."""
        while not stopping.wait(self.tick()):
            pass

    def tick(self) -> float:
        """Fire what is due; gives the seconds until the next look."""
        self.ticked_at = self._clock.monotonic()
        wait = _LONGEST_WAIT_SECONDS
        for schedule in self.schedules:
            try:
                settled = self._fire_due(schedule, self._clock.now())
            except ServiceUnavailable as error:
                log.warning("not submitted, tries again", schedule=schedule.name, error=error.message)
                settled = False
            except Exception:
                log.exception("not submitted, tries again", schedule=schedule.name)
                settled = False
            wait = min(wait, self._seconds_to_next(schedule) if settled else _RETRY_SECONDS)
        return wait

    def next_of(self, schedule: Schedule) -> datetime | None:
        """Give the next time at which a schedule is due."""
        return schedule.times.after(self._clock.now())

    def _seconds_to_next(self, schedule: Schedule) -> float:
        due = self.next_of(schedule)
        if due is None:
            return _LONGEST_WAIT_SECONDS
        return max(0.0, (due - self._clock.now()).total_seconds())

    def _fire_due(self, schedule: Schedule, now: datetime) -> bool:
        """Fire what a schedule has missed up to now; false when that has to be tried again."""
        settled = self._settled.get(schedule.name)
        if settled is None:
            settled = self._settled[schedule.name] = self._first_look(schedule, now)
        # A clock that was ahead, and was set back, must not keep us waiting; what was fired by it is known by its key.
        settled = min(settled, now)
        for due in schedule.missed(settled, now):
            if not self._fire(schedule, due):
                return False
            self._settled[schedule.name] = due
        self._settled[schedule.name] = now
        return True

    def _first_look(self, schedule: Schedule, now: datetime) -> datetime:
        """Give the time after which firings are missed: the last one, now for a schedule that has never fired."""
        # One of the future comes from a host whose clock was wrong, and settles nothing.
        key = self._firings.last(schedule.project, schedule.key_prefix, schedule.key(now))
        if key is not None:
            return datetime.fromisoformat(key.removeprefix(schedule.key_prefix)).astimezone(UTC)
        return now if schedule.catch_up is None else now - schedule.catch_up

    def _fire(self, schedule: Schedule, due: datetime) -> bool:
        key = schedule.key(due)
        about = {"schedule": schedule.name, "due": due.isoformat()}
        if (run_id := self._firings.run_of(schedule.project, key)) is not None:
            log.debug("fired elsewhere", run_id=run_id, **about)
            return self._count(schedule, "elsewhere")
        failpoint("before_firing")
        try:
            [run_id] = self._submit(schedule.workflow, [schedule.input], project=schedule.project, keys=[key])
        except IdempotencyConflict as error:
            log.warning("fired elsewhere, from another version of the file", error=error.message, **about)
            return self._count(schedule, "elsewhere")
        except UnknownAgent as error:
            log.warning("waits for a worker with its agents", error=error.message, **about)
            return False
        except ServiceUnavailable:
            raise
        except NightfleetError as error:
            log.error("cannot be submitted", error=error.message, code=error.code, **about)  # noqa: TRY400 - the message says it
            return self._count(schedule, "refused")
        late = (self._clock.now() - due).total_seconds()
        log.info("fired", run_id=run_id, late_seconds=round(late, 1), **about)
        return self._count(schedule, "submitted")

    def _count(self, schedule: Schedule, outcome: str) -> bool:
        known = (schedule.name, outcome)
        self.counts[known] = self.counts.get(known, 0) + 1
        return True
