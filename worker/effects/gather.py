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

from worker.effects.scopes import Scope, Scopes, marks_of, set_marks

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
    tasks = [asyncio.ensure_future(_started(branch)) for branch in branches]
    return _results(await asyncio.gather(*tasks, return_exceptions=True), return_exceptions=return_exceptions)


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
