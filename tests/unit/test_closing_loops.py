"""The loops that serve threads of others: whoever gives them work gets an end of it, also while they close."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from orchestrator.errors import ToolError
from worker.pool import EventLoop
from worker.tools.servers.background import Background


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


async def nothing() -> None:
    """What a loop does last."""


class InBackground:
    ends_with = ToolError

    def __init__(self) -> None:
        self.loop = Background("nightfleet-test")

    def run(self) -> str:
        return self.loop.run(forever)

    def close(self) -> None:
        self.loop.close(nothing)


class OfAgents:
    ends_with = CancelledError

    def __init__(self) -> None:
        self.loop = EventLoop()

    def run(self) -> str:
        return self.loop.submit(forever()).result()

    def close(self) -> None:
        self.loop.close()


@pytest.mark.parametrize("make", [InBackground, OfAgents])
def test_work_that_is_given_while_a_loop_closes_is_cancelled_with_it(
    make: Callable[[], InBackground | OfAgents], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = make()
    closing = threading.Thread(target=served.close)
    give = asyncio.run_coroutine_threadsafe

    def given_late(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
        if closing.ident is None:
            closing.start()
            closing.join(0.2)  # a loop that does not wait for what is being given to it has ended by now
        return give(work, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", given_late)
    with pytest.raises(served.ends_with):
        served.run()
    closing.join(60)
    assert not closing.is_alive()


def test_a_background_that_was_closed_begins_nothing_and_the_call_may_be_made_again() -> None:
    closed = Background("nightfleet-test")
    closed.close(nothing)
    with pytest.raises(ToolError, match="was not begun") as refused:
        closed.run(forever)
    assert refused.value.retryable
    closed.close(nothing)
