"""Branches that wait for each other: their order, their scopes, their first error, and what is known of who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from worker.effects.gather import gather_tasks, walk_tasks
from worker.effects.recorded import in_scope_async
from worker.effects.scopes import Scopes, host_agents

DIAMOND: tuple[tuple[int, ...], ...] = ((), (0,), (0,), (1, 2))


def run(work: Callable[[], Awaitable[Any]], scopes: Scopes | None = None) -> Any:
    scopes = scopes or Scopes("seed")
    with asyncio.Runner() as runner:
        host_agents(runner.get_loop())
        return runner.run(in_scope_async(scopes.root, work))


def walk(
    branch: Callable[[int], Awaitable[None]], after: Sequence[Sequence[int]], scopes: Scopes | None = None
) -> None:
    run(lambda: walk_tasks([partial(branch, index) for index in range(len(after))], after), scopes)


def test_each_branch_begins_when_those_before_it_have_ended() -> None:
    events: list[str] = []

    async def branch(index: int) -> None:
        events.append(f"begin {index}")
        await asyncio.sleep(0)
        events.append(f"end {index}")

    walk(branch, DIAMOND)
    assert events[:2] == ["begin 0", "end 0"]
    assert events[2:4] == ["begin 1", "begin 2"], "side by side"
    assert events[-2:] == ["begin 3", "end 3"]
    walk(branch, ())


def test_branches_have_the_same_scopes_whoever_of_them_is_faster() -> None:
    def scopes_of(slow: int) -> dict[int, str]:
        scopes, found = Scopes("seed"), dict[int, str]()

        async def branch(index: int) -> None:
            for _ in range(10 if index == slow else 1):
                await asyncio.sleep(0)
            found[index] = scopes.here().path

        walk(branch, DIAMOND, scopes)
        return found

    assert scopes_of(1) == scopes_of(2) == {0: "0", 1: "1", 2: "2", 3: "3"}


def test_the_first_error_ends_a_walk_and_nothing_begins_behind_it() -> None:
    begun: list[int] = []

    async def branch(index: int) -> None:
        begun.append(index)
        if index == 2:
            raise ValueError("no")
        if index == 1:
            await asyncio.Event().wait()

    with pytest.raises(ValueError, match="no"):
        walk(branch, DIAMOND)
    assert begun == [0, 1, 2]


def test_of_errors_of_one_moment_the_first_in_order_is_raised() -> None:
    async def branch(index: int) -> None:
        raise ValueError(str(index))

    with pytest.raises(ValueError, match="0"):
        walk(branch, ((), (), ()))


def test_it_is_known_of_every_task_whether_it_goes_on() -> None:
    scopes, seen = Scopes("seed"), list[tuple[int, int]]()

    async def branch(index: int) -> None:
        await asyncio.sleep(0)
        seen.append((index, scopes.tasks + 1 - scopes.resting))

    walk(branch, DIAMOND, scopes)
    assert seen == [(0, 1), (1, 2), (2, 2), (3, 1)], "with each branch those that go on, itself among them"
    assert scopes.resting == 0

    async def together() -> Any:
        async def one() -> int:
            await asyncio.sleep(0)
            return scopes.tasks + 1 - scopes.resting

        return await gather_tasks([one(), one()], return_exceptions=False)

    assert run(together, scopes)[0] == 2
    assert scopes.resting == 0


def test_who_is_cancelled_rests_no_longer() -> None:
    scopes = Scopes("seed")

    async def cancelled() -> None:
        async def inner() -> Any:
            return await gather_tasks([asyncio.Event().wait], return_exceptions=False)

        task = asyncio.ensure_future(inner())
        await asyncio.sleep(0)
        assert scopes.resting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scopes.resting == 0

    run(cancelled, scopes)
