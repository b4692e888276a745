"""Whether an execution may go on, and what of it is under way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.errors import ClaimLost, DatabaseUnavailable, JournalConflict
from worker.effects.base import Account
from worker.effects.patience import patiently
from worker.effects.scopes import Mark

T = TypeVar("T")


@dataclass(slots=True)
class Motion:
    """The state that all threads and tasks of one execution share; thread-safe."""

    account: Account
    #: Why every further effect is refused and whatever the agent gives is ignored; see `end`.
    ended: BaseException | None = None
    #: The slots of effects that are being performed or recorded; more than once, where one is waited for from an event loop.
    flights: Counter[Slot] = field(default_factory=Counter[Slot])
    #: What to do when an agent is to unwind that may not notice by itself.
    unwind: Callable[[], None] = lambda: None
    #: When an effect last began or ended, or was given back.
    moved_at: float = field(default_factory=system_clock.monotonic)
    moved: threading.Condition = field(default_factory=threading.Condition)
    #: How long the database may be away. Nobody takes over while it is, and what has been taken over is fenced off.
    patience_seconds: float = 600.0
    #: Out of which slots errors came, in the order of time.
    failures: list[Mark] = field(default_factory=list[Mark])
    #: How many failures of effects are being recorded.
    failing: int = 0
    _hopeless: bool = False
    _last_action: Callable[[], None] | None = None

    def end(self, error: BaseException) -> None:
        """Let every further effect raise `error`, and let the agent's return count for nothing; the first one stays."""
        with self.moved:
            self.ended = self.ended or error
            self.moved.notify_all()

    def check(self) -> None:
        """Raise what has ended or stopped this execution."""
        if self.ended is not None:
            raise self.ended
        self.account.check()

    @contextmanager
    def flight(self, slot: Slot) -> Generator[None]:
        """Count an effect as under way for the length of a `with` block; none begins once the execution has ended."""
        with self.moved:
            if self.ended is not None:
                raise self.ended
            self.flights[slot] += 1
            self._move()
        try:
            yield
        finally:
            with self.moved:
                self.flights[slot] -= 1
                if not self.flights[slot]:
                    del self.flights[slot]
                self._move()
                if self._last_action is not None and not self.flights:
                    self._last_action()

    @contextmanager
    def recording_failure(self) -> Generator[bool]:
        """Tell whether a failure is still to be recorded, and count it as being so for the length of a `with` block."""
        with self.moved:
            wanted = not isinstance(self.ended, ClaimLost)
            self.failing += wanted
        try:
            yield wanted
        finally:
            with self.moved:
                self.failing -= wanted
                self.moved.notify_all()

    def wait_until_recorded(self) -> None:
        """Wait until no failure is being recorded, as long as the database may be away; none begins to be after `end`."""
        with self.moved:
            self.moved.wait_for(lambda: self._hopeless or not self.failing, self.patience_seconds)

    def go_on(self) -> None:
        """Note that the agent goes on, without an effect of its own."""
        self.moved_at = system_clock.monotonic()

    def wait_until_idle(self, timeout_seconds: float | None) -> bool:
        """Wait until no effect is under way, as long as it takes with None; false when some still are."""
        with self.moved:
            return self.moved.wait_for(lambda: not self.flights, timeout_seconds)

    def when_idle(self, action: Callable[[], None]) -> None:
        """Do something, which holds up nobody, when no effect is under way any more; none may begin by now."""
        with self.moved:
            self._last_action = action
            if not self.flights:
                action()

    def patiently(self, work: Callable[[], T]) -> T:
        """Ask the database, again and again while it is away; raises `ClaimLost` where another claim has taken over."""
        try:
            return patiently(work, self.patience_seconds, self._wait_until_hopeless)
        except DatabaseUnavailable as error:
            lost = ClaimLost(f"the database was away for too long: {error.message}")
            self.end(lost)
            raise lost from None
        except (ClaimLost, JournalConflict) as error:
            self.end(error)
            raise

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for the database any more."""
        return self._hopeless

    def give_up(self) -> None:
        """Wait for the database no longer: this process ends, or the claim was given back."""
        with self.moved:
            self._hopeless = True
            self.moved.notify_all()

    def _wait_until_hopeless(self, seconds: float) -> bool:
        with self.moved:
            return self.moved.wait_for(lambda: self._hopeless, seconds)

    def _move(self) -> None:
        self.go_on()
        self.moved.notify_all()
