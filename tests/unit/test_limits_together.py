"""What tasks of one event loop ask together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from worker.limits.together import Together


class Server:
    """Doubles numbers, a group at a time, when it is let; 13 it refuses."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = asyncio.Event()
        self.away = False

    async def answer(self, group: Sequence[int]) -> list[object]:
        self.groups.append(list(group))
        await self.open.wait()
        if self.away:
            raise ConnectionError("away")
        return [ValueError("unlucky") if number == 13 else 2 * number for number in group]


async def started(together: Together[int], *numbers: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(together.ask(number)) for number in numbers]
    await asyncio.sleep(0)
    return tasks


def test_who_is_alone_is_asked_at_once() -> None:
    async def scenario() -> None:
        server = Server()
        server.open.set()
        together = Together(server.answer)

        assert [await together.ask(1), await together.ask(2)] == [2, 4]
        assert server.groups == [[1], [2]]

    asyncio.run(scenario())


def test_who_comes_while_a_group_is_asked_is_in_the_next_one_and_all_get_their_own_answers() -> None:
    async def scenario() -> None:
        server = Server()
        together = Together(server.answer)
        first = await started(together, 1)
        await asyncio.sleep(0)
        others = await started(together, 2, 3, 4)
        server.open.set()

        assert await asyncio.gather(*first, *others) == [2, 4, 6, 8]
        assert server.groups == [[1], [2, 3, 4]]

    asyncio.run(scenario())


def test_a_group_is_no_larger_than_others_can_wait_for() -> None:
    async def scenario() -> None:
        server = Server()
        server.open.set()
        together = Together(server.answer)

        assert await asyncio.gather(*await started(together, *range(20, 120))) == [
            2 * number for number in range(20, 120)
        ]
        assert max(map(len, server.groups)) == 32

    asyncio.run(scenario())


def test_an_answer_that_is_an_error_is_raised_to_the_one_whose_it_is() -> None:
    async def scenario() -> None:
        server = Server()
        server.open.set()
        together = Together(server.answer)

        fine, refused = await started(together, 1, 13)

        assert await fine == 2
        with pytest.raises(ValueError, match="unlucky"):
            await refused

    asyncio.run(scenario())


def test_a_server_that_is_away_is_everybodys_error_and_is_asked_again_by_who_comes_later() -> None:
    async def scenario() -> None:
        server = Server()
        server.open.set()
        server.away = True
        together = Together(server.answer)
        errors = await asyncio.gather(*await started(together, 1, 2), return_exceptions=True)
        server.away = False

        assert [str(error) for error in errors] == ["away", "away"]
        assert await together.ask(3) == 6

    asyncio.run(scenario())


def test_who_is_cancelled_takes_nobodys_answer_along() -> None:
    async def scenario() -> None:
        server = Server()
        together = Together(server.answer)
        cancelled, other = await started(together, 1, 2)
        await asyncio.sleep(0)
        cancelled.cancel()
        server.open.set()

        assert await other == 4
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await together.ask(3) == 6

    asyncio.run(scenario())
