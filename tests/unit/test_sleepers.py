"""What waits in the process leaves no trace in the numbers of an agent's effects, however long it lasts."""

from __future__ import annotations

import asyncio
from typing import Any

from worker.effects.parking import Sleeper


def test_a_wait_makes_no_task_that_would_be_numbered_as_a_branch() -> None:
    made: list[Any] = []

    def noting(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def wait() -> None:
        asyncio.get_running_loop().set_task_factory(noting)
        sleeper = Sleeper()
        await sleeper.sleep(0.001)
        sleeper.wake()
        await sleeper.sleep(60)
        # The end of the loop makes some of its own.
        assert made == []

    asyncio.run(wait())
