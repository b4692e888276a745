"""Branches of an agent that run at the same time: each in a scope of its own, opened in the order of the arguments."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from worker.effects.scopes import Scope, Scopes, marks_of, scopes_here, set_marks

T = TypeVar("T")

#: More branches of one sync agent take turns.
_MOST_RUNNING = 16
#: Branches that wait have a thread too, and no turn. More than these have theirs when others have ended.
_MOST_THREADS = 256


def gather_threads(scope: Scope, branches: Sequence[Callable[[], T]], *, return_exceptions: bool) -> list[Any]:
    """Call each branch in a thread; gives the results in order when all have ended, or raises the first error in order."""

    def work(branch: Callable[[], T], inside: Scope, future: Future[T]) -> None:
        try:
            with inside.entered():
                future.set_result(branch())
        except BaseException as error:  # noqa: BLE001 - it is what the branch comes to
            future.set_exception(error)

    threads = Threads(scope.of)
    futures: list[Future[T]] = []
    # All are numbered before the first one runs: what is opened later would count as made after its failure.
    insides = [scope.branch() for _ in branches]
    for branch, inside in zip(branches, insides, strict=True):
        inside.turns = threads
        futures.append(Future())
        threads.add(partial(copy_context().run, partial(work, branch, inside, futures[-1])))
    threads.run(scope)
    return _results([future.exception() or future.result() for future in futures], return_exceptions=return_exceptions)


async def gather_tasks(
    branches: Sequence[Awaitable[T] | Callable[[], Awaitable[T]]], *, return_exceptions: bool
) -> list[Any]:
    """Await each branch in a task; gives the results in order when all have ended, or raises the first error in order."""
    # The loop's task factory opens their scopes.
    with Resting(len(branches)) as resting:
        tasks = [asyncio.ensure_future(_started(branch)) for branch in branches]
        for task in tasks:
            task.add_done_callback(lambda _: resting.one_less())
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    return _results(ended, return_exceptions=return_exceptions)


async def walk_tasks(branches: Sequence[Callable[[], Awaitable[None]]], after: Sequence[Sequence[int]]) -> None:
    """Await each branch in a task once those have ended that it stands `after`, by index; none stands before one of these.

    The first error ends the walk: those who wait do not begin, and what is under way is left to the end of the execution.
    """
    if branches:
        await _Walk(branches, after).walk()


class _Walk:
    """Branches that wait for each other. All tasks are made at the beginning, in order: their scopes are numbered then."""

    def __init__(self, branches: Sequence[Callable[[], Awaitable[None]]], after: Sequence[Sequence[int]]) -> None:
        self._branches = branches
        self._followers: list[list[Resting]] = [[] for _ in branches]
        self._gates = [Resting(len(before)) for before in after]
        for gate, before in zip(self._gates, after, strict=True):
            for index in before:
                self._followers[index].append(gate)
        self._open = len(branches)
        self._over = Resting(1)
        self._errors: dict[int, BaseException] = {}
        self._tasks: list[asyncio.Future[None]] = []

    async def walk(self) -> None:
        with self._over:
            self._tasks += [asyncio.ensure_future(self._one(index)) for index in range(len(self._branches))]
            await self._over.wait()
        if self._errors:
            _results([self._errors[index] for index in sorted(self._errors)], return_exceptions=False)

    async def _one(self, index: int) -> None:
        try:
            with self._gates[index] as gate:
                await gate.wait()
            await self._branches[index]()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised by who has asked for the walk
            self._errors[index] = error
            self._over.one_less()
            return
        for follower in self._followers[index]:
            follower.one_less()
        self._open -= 1
        if not self._open:
            self._over.one_less()


class Resting:
    """A task that waits for so many others of its agent: until the last of them ends, nothing goes on in it.

    So it is known when all branches of an agent wait, and the agent suspends without looking whether any of them moves.
    Belongs to the thread of its loop.
    """

    def __init__(self, others: int) -> None:
        self._others = others
        self._scopes = scopes_here()
        self._counted = False
        self._woken = asyncio.Event()

    def __enter__(self) -> Resting:
        self._count(resting=self._others > 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._count(resting=False)

    async def wait(self) -> None:
        """Wait until none of the others is left."""
        if self._others > 0:
            await self._woken.wait()

    def one_less(self) -> None:
        """One of the others ends: at once, so that there is no moment in which neither of the two goes on."""
        self._others -= 1
        if self._others <= 0:
            self._count(resting=False)
            self._woken.set()

    def _count(self, *, resting: bool) -> None:
        if self._scopes is not None and resting is not self._counted:
            self._counted = resting
            self._scopes.count(resting=1 if resting else -1)


class Threads:
    """The threads of one `gather`: so many have a turn at a time, and one that waits gives its turn to another branch."""

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self._changed = threading.Condition()
        #: What has not begun.
        self._works: deque[Callable[[], None]] = deque()
        self._turns = _MOST_RUNNING
        self._alive = 0

    def add(self, work: Callable[[], None]) -> None:
        """Add what is to be called, in order; it raises nothing."""
        self._works.append(work)

    def run(self, scope: Scope) -> None:
        """Call everything, and return when all has ended; the branch that calls waits meanwhile."""
        if not self._works:
            return
        with self._changed:
            self._begin()
        with scope.waiting(), self._changed:
            self._changed.wait_for(lambda: not self._alive)
        # Until here the last of the threads counted as running: so it never looks as if all branches of the agent waited.
        self._scopes.count(running=-1)

    @contextmanager
    def given_up(self) -> Generator[None]:
        with self._changed:
            self._turns += 1
            self._begin()
            self._changed.notify_all()
            # Only now, as in `run`: what has begun in its place counts already.
            self._scopes.count(running=-1)
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: self._turns)
                self._take_turn()

    def _begin(self) -> None:
        """Begin as many as there are turns for."""
        while self._works and self._turns and self._alive < _MOST_THREADS:
            thread = threading.Thread(target=self._work, args=(self._works[0],), name="nightfleet-branch", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._alive:
                    raise
                return  # the system has no more threads: those that there are do it all
            self._works.popleft()
            self._alive += 1
            self._take_turn()

    def _work(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            with self._changed:
                work = self._works.popleft() if self._works else None
                if work is None:
                    self._alive -= 1
                    self._turns += 1
                    if self._alive:
                        self._scopes.count(running=-1)
                    self._changed.notify_all()

    def _take_turn(self) -> None:
        self._turns -= 1
        self._scopes.count(running=1)


async def _started(branch: Any) -> Any:
    awaitable: Any = branch() if callable(branch) else branch
    return await awaitable


def _results(ended: list[Any], *, return_exceptions: bool) -> list[Any]:
    errors = [each for each in ended if isinstance(each, BaseException)]
    # What unwinds the whole agent comes before an error of one branch, and is no result.
    unwinding = [error for error in errors if not isinstance(error, Exception | asyncio.CancelledError)]
    if unwinding:
        raise unwinding[0]
    if errors and not return_exceptions:
        marks = [marks_of(error) for error in errors]
        if any(each is not None for each in marks):
            # A retry repeats what failed in all branches, not in the first one alone.
            set_marks(errors[0], [mark for each in marks for mark in each or ()])
        raise errors[0]
    return ended
