"""Retention: deletes what has ended long ago, a little at a time, and never what is open.

Any number of processes may do it, each in a thread that nothing waits for; they take turns. A turn is a tour through all
projects in small transactions, of which one call of `tick` does as many as fit in a moment.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from orchestrator.clock import Clock, created_at, system_clock
from orchestrator.contracts.memory import Forgetting
from orchestrator.contracts.policy import Retention
from orchestrator.errors import MemoryUnavailable, ServiceUnavailable
from orchestrator.settings import Settings
from orchestrator.store.retention import ENDED, FIRST_ID, Deletions, ProjectRow, Recorded

log = logging.getLogger("nightfleet.retention")

#: Between the beginnings of two tours, in the whole fleet.
INTERVAL_SECONDS = 60.0
#: The most rows that one statement looks for.
MOST_AT_ONCE = 500

#: How long one call may keep the database busy, how long one transaction should take, and the pause between two calls.
_BUDGET_SECONDS = 0.1
_PAUSE_SECONDS = 0.9
_FIRST_AT_ONCE = 50
#: How often one tour looks for journals; the next one goes on.
_LOOKS = 200
_DAY_SECONDS = 86_400.0
#: Ids are made by hosts' clocks, ages are told by the database's.
_CLOCK_MARGIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Rule:
    """How long the runs of one project are kept; None is no limit."""

    project_id: str
    age_seconds: float | None
    journal_seconds: float | None
    keep: int | None

    @classmethod
    def of(cls, project: ProjectRow, settings: Settings) -> Rule:
        """Give the rule of a project: its own words, and the settings where it has none."""
        kept = in_force(project.retention, settings)
        days, journal_days = kept.days or None, kept.journal_days or None
        if days is not None and journal_days is not None and journal_days >= days:
            journal_days = None
        age, journal = (None if each is None else each * _DAY_SECONDS for each in (days, journal_days))
        return cls(project.id, age, journal, kept.runs or None)


def in_force(given: Retention, settings: Settings) -> Retention:
    """Give what a project says, completed by the settings."""
    usual = {
        "days": settings.retention_days,
        "journal_days": settings.retention_journal_days,
        "runs": settings.retention_runs,
    }
    return Retention(**{name: usual[name] if own is None else own for name, own in given})


class Forgets(Protocol):
    """Where something is remembered that is to be forgotten in time: any number of processes may ask for it at once."""

    def forget(self, rule: Forgetting, *, most: int) -> int:
        """Forget up to `most` of what a rule does not keep; gives how much that was."""
        ...


class Keeper:
    """One process's share of the retention; `counts` adds up what it has deleted, by kind.

    `memories` and `sessions` are where agents remember, if that is to be kept small too.
    """

    def __init__(
        self,
        deletions: Deletions,
        settings: Settings,
        clock: Clock = system_clock,
        *,
        memories: Forgets | None = None,
        sessions: Forgets | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter(
            runs=0, journals=0, definitions=0, bills=0, answers=0, memories=0, sessions=0, webhooks=0
        )
        self._memories = memories
        self._sessions = sessions
        self._lock = threading.Lock()
        self._deletions = deletions
        self._settings = settings
        self._clock = clock
        self._tour: Iterator[None] | None = None
        self._next_at = float("-inf")
        #: How many runs one transaction is about: some have thousands of rows.
        self._at_once = self._journals_at_once = _FIRST_AT_ONCE
        #: How far the last tours have come, through what is too much for one.
        self._journal_cursor = self._definition_cursor = FIRST_ID

    def run(self, stopping: threading.Event) -> None:
        """Delete what is due until `stopping` is set, from now on; what goes wrong is logged, and tried again in a minute."""
        while True:
            try:
                self.tick()
            except ServiceUnavailable as error:
                log.warning("nothing is deleted: %s", error.message)
            except Exception:
                log.exception("retention failed")
            if stopping.wait(_PAUSE_SECONDS):
                return

    def tick(self) -> int:
        """Delete what is due and can be deleted in a moment, if it is this process's turn; gives the number of runs.

        Costs nothing between two turns, and nothing in a second thread.
        """
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            return self._go_on()
        finally:
            self._lock.release()

    def _go_on(self) -> int:
        before = self.counts["runs"]
        if not self._has_turn():
            return 0
        until = self._clock.monotonic() + _BUDGET_SECONDS
        tour, self._tour = self._tour, None  # one that raises is over
        for _ in tour or ():
            if self._clock.monotonic() >= until:
                self._tour = tour
                break
        return self.counts["runs"] - before

    def _has_turn(self) -> bool:
        if self._tour is not None:
            self._deletions.keep_turn()
            return True
        now = self._clock.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + INTERVAL_SECONDS
        if not self._deletions.take_turn(INTERVAL_SECONDS):
            return False
        self._tour = self._tour_of([Rule.of(project, self._settings) for project in self._deletions.projects()])
        return True

    def _tour_of(self, rules: Sequence[Rule]) -> Iterator[None]:
        """Delete what is due, yielding after each transaction."""
        for rule in rules:
            yield from self._runs_of(rule)
        if any(rule.journal_seconds is not None for rule in rules):
            yield from self._journals({rule.project_id: rule.journal_seconds for rule in rules})
        yield from self._bills()
        yield from self._answers()
        yield from self._forgotten()
        yield from self._webhooks()
        count, last = self._deletions.delete_unused_definitions(self._definition_cursor, most=MOST_AT_ONCE)
        self._definition_cursor = last or FIRST_ID
        self.counts["definitions"] += count
        yield
        self._deletions.delete_silent_workers()

    def _runs_of(self, rule: Rule) -> Iterator[None]:
        deletions, project_id = self._deletions, rule.project_id
        if rule.age_seconds is not None:
            age = rule.age_seconds
            for state in ENDED:
                yield from self._until_done(
                    lambda most, state=state: deletions.delete_expired(project_id, state, age_seconds=age, most=most)
                )
        last = None if rule.keep is None else deletions.oldest_kept(project_id, rule.keep)
        if last is not None:
            for state in ENDED:
                yield from self._until_done(
                    lambda most, state=state: deletions.delete_behind(project_id, state, last, most=most)
                )

    def _until_done(self, delete: Callable[[int], int]) -> Iterator[None]:
        """Delete runs until none is left that is due, yielding after each transaction."""
        while True:
            most, began = self._at_once, self._clock.monotonic()
            count = delete(most)
            self.counts["runs"] += count
            self._at_once = self._adapted(most, began, full=count == most)
            yield
            if count < most:
                return

    def _journals(self, ages: dict[str, float | None]) -> Iterator[None]:
        """Delete the journals of runs that ended long ago, from where the last tour has stopped."""
        # Runs that were made after this have not ended long ago.
        shortest = min(age for age in ages.values() if age is not None)
        until = self._clock.now() - timedelta(seconds=shortest) + _CLOCK_MARGIN
        for _ in range(_LOOKS):
            most, began = self._journals_at_once, self._clock.monotonic()
            found = self._deletions.recorded_after(self._journal_cursor, most=most)
            due = {each.run_id for each in found if _is_over(each, ages.get(each.project_id))}
            # One that was retried since we looked has ended anew, if at all.
            self.counts["journals"] += self._deletions.delete_journals(sorted(due), age_seconds=shortest) if due else 0
            over = len(found) < most or created_at(found[-1].run_id) > until
            self._journal_cursor = FIRST_ID if over else found[-1].id
            self._journals_at_once = self._adapted(most, began, full=not over)
            yield
            if over:
                return

    def _bills(self) -> Iterator[None]:
        """Delete old lines of the ledger, which are nobody's but the installation's."""
        age = self._settings.retention_ledger_days * _DAY_SECONDS
        full = age > 0
        while full:
            count = self._deletions.delete_bills(age_seconds=age, most=MOST_AT_ONCE)
            self.counts["bills"] += count
            full = count == MOST_AT_ONCE
            yield

    def _answers(self) -> Iterator[None]:
        """Delete answers of models that nobody is given any more."""
        full = True
        while full:
            count = self._deletions.delete_stale_answers(most=MOST_AT_ONCE)
            self.counts["answers"] += count
            full = count == MOST_AT_ONCE
            yield

    def _webhooks(self) -> Iterator[None]:
        """Delete what was told long ago, and what came in."""
        age = self._settings.retention_webhook_days * _DAY_SECONDS
        full = age > 0
        while full:
            count = self._deletions.delete_webhooks(age_seconds=age, most=MOST_AT_ONCE)
            self.counts["webhooks"] += count
            full = count == MOST_AT_ONCE
            yield

    def _forgotten(self) -> Iterator[None]:
        """Forget what agents need not remember any more."""
        settings = self._settings
        rules = (
            ("memories", self._memories, _forgetting(settings.retention_memory_days, settings.retention_memories)),
            ("sessions", self._sessions, _forgetting(settings.retention_session_days)),
        )
        for kind, where, rule in rules:
            full = where is not None and rule != Forgetting()
            while full:
                assert where is not None
                try:
                    count = where.forget(rule, most=MOST_AT_ONCE)
                except MemoryUnavailable as error:  # what is kept elsewhere keeps nobody from the rest
                    log.warning("nothing is forgotten: %s", error.message)
                    break
                self.counts[kind] += count
                full = count == MOST_AT_ONCE
                yield

    def _adapted(self, most: int, began: float, *, full: bool) -> int:
        """Give how much the next transaction may do, so that it takes about as long as it should."""
        took = self._clock.monotonic() - began
        if took > _BUDGET_SECONDS:
            return max(1, most // 2)
        return min(MOST_AT_ONCE, most * 2) if full and took < _BUDGET_SECONDS / 2 else most


def _forgetting(days: int, keep: int = 0) -> Forgetting:
    return Forgetting(days * _DAY_SECONDS if days else None, keep or None)


def _is_over(recorded: Recorded, age_seconds: float | None) -> bool:
    return age_seconds is not None and recorded.age_seconds is not None and recorded.age_seconds > age_seconds
