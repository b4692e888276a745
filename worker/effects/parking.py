"""Where effects of an execution wait: in this process for a moment, or while others of its branches go on; then it suspends.

One that waits holds a slot of the worker for nothing. So when nothing else of the agent moves, and the first of its waits
is over only after a moment, the agent unwinds, and goes on from its journal when it is woken.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.interest import Interest, InterestKind
from orchestrator.contracts.question import Inquiry, Reply
from orchestrator.store.agent_runs import Claim
from worker.effects.attempt import Host
from worker.effects.motion import Motion
from worker.effects.ports import Mail
from worker.effects.scopes import Scopes, Suspended

#: Tasks on an event loop look this often whether others of the agent have moved.
_LOOK_SECONDS = 0.25
#: Of what several branches wait for.
_MOST_CHARACTERS = 500


class Events(Protocol):
    """What waits ask: the time by which timers go, and people."""

    def now(self) -> datetime: ...

    def has_come(self, moment: datetime) -> bool:
        """Tell whether a time has come by now, perhaps without asking anybody."""
        ...

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        """Put a question; gives its id."""
        ...

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        """Give what has become of a question."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Wait:
    """One effect that waits, in a scope; `until` is by the monotonic clock, None waits for an event alone."""

    scope: str
    waiting_for: str
    until: float | None
    #: When to look for the event, should it be waited for in this process.
    look_at: float | None = None
    #: What wakes it when it is suspended, all of one kind; without any it is woken by its time, or by an answer of a person.
    interests: tuple[Interest, ...] = ()
    #: How many hints of its kind there were before it has looked: `Parking.hints`.
    hints: int = 0
    #: Whether it stays in this process where `until` is near. Not where others need the slot to bring about what it is for.
    stays: bool = True

    @property
    def next_look(self) -> float | None:
        times = [time for time in (self.until, self.look_at) if time is not None]
        return min(times, default=None)


class Sleeper:
    """A task that waits on its event loop, and that any thread can wake."""

    __slots__ = ("_loop", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def sleep(self, seconds: float) -> None:
        # No `wait_for`: before Python 3.12 that makes a task, which the agent's scope would number as a branch of its code.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()


@dataclass(slots=True)
class Parking:
    """The waits of one execution; thread-safe."""

    motion: Motion
    events: Events
    #: A wait of up to this length stays in the process.
    moment_seconds: float
    #: Where messages come from, and go to; None where nobody has any.
    mail: Mail | None = None
    #: Whether an event was taken up while it was waited for in this process.
    heard: bool = False
    #: How often what is waited for is looked for, while other branches of the agent keep it in the process.
    look_seconds: float = 2.0
    #: How often somebody has said that something has come, by what it is; under None, that anything may have.
    _hints: Counter[InterestKind | None] = field(default_factory=Counter["InterestKind | None"])
    _waits: list[Wait] = field(default_factory=list[Wait])
    #: How many waits lie inside of each effect.
    _inside: Counter[str] = field(default_factory=Counter[str])
    #: How many waits are each all that goes on in a task, or in the first one of an agent on a loop.
    _alone: int = 0
    #: The tasks that wait on an event loop, which a condition of threads does not wake.
    _sleepers: set[Sleeper] = field(default_factory=set["Sleeper"])

    def hints(self, kind: InterestKind) -> int:
        """Give how many hints there were: to be asked before a look, so that none goes unnoticed that comes behind it."""
        with self.motion.moved:
            return self._hints[kind] + self._hints[None]

    def poke(self, kind: InterestKind | None = None) -> None:
        """Let all look that wait for what others bring, or for that kind of it; from any thread."""
        with self.motion.moved:
            self._hints[kind] += 1
            self.motion.moved.notify_all()
            sleepers = list(self._sleepers)
        for sleeper in sleepers:
            sleeper.wake()

    async def sleep(self, seconds: float) -> None:
        """Wait on an event loop, for no longer than until the next poke."""
        sleeper = Sleeper()
        with self.motion.moved:
            self._sleepers.add(sleeper)
        try:
            await sleeper.sleep(seconds)
        finally:
            with self.motion.moved:
                self._sleepers.discard(sleeper)

    @contextmanager
    def parked(self, wait: Wait, *, alone: bool = False) -> Generator[None]:
        """Count a wait for the length of a `with` block; `alone`: nothing else goes on in its task."""
        scopes = list(_outwards(wait.scope))
        with self.motion.moved:
            self._waits.append(wait)
            self._inside.update(scopes)
            self._alone += alone
        try:
            yield
        finally:
            with self.motion.moved:
                self._waits.remove(wait)
                self._inside.subtract(scopes)
                self._alone -= alone

    def alone(self, scopes: Scopes) -> bool:
        """Tell whether certainly nothing else of the agent goes on, or waits, while an effect is between two operations."""
        with self.motion.moved:
            return not (self._waits or self.motion.flights or scopes.running or scopes.tasks)

    def is_over(self, until: float | None) -> bool:
        """Tell whether a wait until a time, by the monotonic clock, is over; one without is not."""
        return until is not None and until <= system_clock.monotonic()

    def left(self, wait: Wait, scopes: Scopes) -> float:
        """Give how long to wait on in this process, 0 when it is time to look; raises what ends the execution.

        That is `Suspended`, made here, when nothing but waiting goes on in it.
        """
        motion = self.motion
        with motion.moved:
            motion.check()
            now = system_clock.monotonic()
            mine = None if wait.next_look is None else wait.next_look - now
            if self._is_hinted(wait) or (mine is not None and mine <= 0):
                return 0.0
            idle = self._idle_left(now, scopes)
            if idle <= 0:
                motion.end(self._suspended())
                motion.unwind()
                motion.check()
            return idle if mine is None else min(idle, mine)

    def _is_hinted(self, wait: Wait) -> bool:
        if not wait.interests:
            return False
        return wait.hints != self._hints[wait.interests[0].kind] + self._hints[None]

    def _idle_left(self, now: float, scopes: Scopes) -> float:
        """Give the time until nothing has moved for a moment, 0 if it has not: then there is no point in waiting here."""
        first = min((wait.until for wait in self._waits if wait.until is not None and wait.stays), default=None)
        if first is not None and first - now <= self.moment_seconds:
            return max(0.001, first - now)
        # An effect that is waited in, a step that sleeps, is not what goes on.
        if scopes.running or any(self._inside[slot.child] <= 0 for slot in self.motion.flights):
            return self.moment_seconds
        # One more than there are tasks: the agent's own code.
        if not scopes.tasks or self._alone + scopes.resting > scopes.tasks:
            return 0.0
        return self.motion.moved_at + self.moment_seconds - now

    def _suspended(self) -> BaseException:
        """Give what ends an execution in which nothing moves."""
        waits = sorted(self._waits, key=lambda wait: (wait.until is None, wait.until or 0.0))
        text = ", ".join(dict.fromkeys(wait.waiting_for for wait in waits))
        interests = [interest for wait in waits for interest in wait.interests]
        if any(wait.until is not None and not _is_for_room(wait) for wait in waits):
            # Another time makes it go on, whoever makes room: with these it would count for nothing.
            interests = [interest for interest in interests if interest.kind != "room"]
        if interests and any(not wait.interests and wait.until is None for wait in waits):
            interests.append(Interest("people", {}))
        return Suspended(text[:_MOST_CHARACTERS], waits[0].until, heard=self.heard, interests=interests)


@dataclass(frozen=True, slots=True)
class Park:
    """The operation that waits: until it is time to look, or the execution ends."""

    parking: Parking
    wait: Wait
    scopes: Scopes

    def run(self, host: Host) -> None:  # noqa: ARG002 - an operation's
        moved = self.parking.motion.moved
        with self.parking.parked(self.wait), self.scopes.here().waiting(), moved:
            while (left := self.parking.left(self.wait, self.scopes)) > 0:
                moved.wait(left)

    async def run_async(self, host: Host) -> None:  # noqa: ARG002
        with self.parking.parked(self.wait, alone=True):
            while (left := self.parking.left(self.wait, self.scopes)) > 0:
                if not self.wait.interests:
                    await asyncio.sleep(min(left, _LOOK_SECONDS))
                else:
                    await self.parking.sleep(min(left, _LOOK_SECONDS))


def _is_for_room(wait: Wait) -> bool:
    return any(interest.kind == "room" for interest in wait.interests)


def _outwards(scope: str) -> Iterator[str]:
    """Give the path of a scope, and of all that it lies in but the root."""
    while scope:
        yield scope
        scope = scope.rpartition(".")[0]
