"""Branches of an agent that run at the same time: each in a scope of its own, opened in the order of the arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from worker.scopes import Scope, marks_of, set_marks

T = TypeVar("T")

#: More branches of one sync agent take turns.
_MOST_THREADS = 16


def gather_threads(scope: Scope, branches: Sequence[Callable[[], T]], *, return_exceptions: bool) -> list[Any]:
    """Call each branch in a thread; gives the results in order when all have ended, or raises the first error in order."""

    def run(branch: Callable[[], T], inside: Scope) -> T:
        try:
            with inside.entered():
                return branch()
        finally:
            scope.of.count_branches(-1)

    if not branches:
        return []
    with ThreadPoolExecutor(min(len(branches), _MOST_THREADS), thread_name_prefix="nightfleet-branch") as pool:
        # All are numbered before the first one runs: what is opened later would count as made after its failure.
        insides = [scope.branch() for _ in branches]
        futures: list[Future[T]] = [
            pool.submit(copy_context().run, run, branch, inside)
            for branch, inside in zip(branches, insides, strict=True)
        ]
    return _results([future.exception() or future.result() for future in futures], return_exceptions=return_exceptions)


async def gather_tasks(
    branches: Sequence[Awaitable[T] | Callable[[], Awaitable[T]]], *, return_exceptions: bool
) -> list[Any]:
    """Await each branch in a task; gives the results in order when all have ended, or raises the first error in order."""
    # The loop's task factory opens their scopes.
    tasks = [asyncio.ensure_future(_started(branch)) for branch in branches]
    return _results(await asyncio.gather(*tasks, return_exceptions=True), return_exceptions=return_exceptions)


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
