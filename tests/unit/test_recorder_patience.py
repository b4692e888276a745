"""A database that is away while an effect is recorded: wait for it, and never go on without the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from replays import Replays

from orchestrator.contracts.effect import Entry, Slot
from orchestrator.errors import ClaimLost, DatabaseUnavailable
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context
from worker.effects.base import Account
from worker.effects.motion import Motion


class Flaky(MemoryJournal):
    """Is away for the first writes; each write that is refused calls `meanwhile`."""

    blocks = True

    def __init__(self, away: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.away = away
        self.meanwhile = meanwhile

    def record(self, claim: Claim, entry: Entry) -> None:
        if self.away:
            self.away -= 1
            self.meanwhile()
            raise DatabaseUnavailable("away")
        super().record(claim, entry)


def test_an_outcome_waits_for_the_database_and_is_recorded_before_the_agent_goes_on() -> None:
    replays = Replays(Flaky(away=1))
    recorded: list[int] = []

    def execute(ctx: Context) -> str:
        answer = ctx.llm("hello")
        recorded.append(len(replays.entries))
        return answer

    assert replays.run(execute) == "HELLO"
    assert recorded == [1]
    assert replays.run(execute) == "HELLO"
    assert replays.desk.calls == ["hello"]


def test_an_async_agent_waits_too() -> None:
    replays = Replays(Flaky(away=1))

    async def execute(ctx: AsyncContext) -> list[str]:
        return await ctx.gather(ctx.llm("a"), ctx.llm("b"))

    assert replays.run(execute) == replays.run(execute) == ["A", "B"]
    assert sorted(replays.desk.calls) == ["a", "b"]


def test_a_worker_that_stops_waits_no_longer() -> None:
    def stop() -> None:
        replays.recorder.motion.give_up()

    replays = Replays(Flaky(away=1000, meanwhile=stop))
    with pytest.raises(ClaimLost, match="away"):
        replays.run(lambda ctx: ctx.llm("hello"))


def test_a_claim_that_was_taken_over_ends_the_agent_whatever_it_catches() -> None:
    def take_over() -> None:
        replays.journal.read(Claim(replays.id, "t", 0, "a", 99, 0, 0, "w", "t", "null", None))

    replays = Replays(Flaky(away=1, meanwhile=take_over))

    def execute(ctx: Context) -> Any:
        for _ in range(2):
            try:
                ctx.llm("hello")
            except Exception:  # noqa: BLE001
                continue
        return "well"

    with pytest.raises(ClaimLost):
        replays.run(execute)
    assert replays.desk.calls == ["hello"]
    assert not replays.entries


def test_the_first_reason_to_end_stays() -> None:
    motion = Motion(Account("m"))
    first = ClaimLost("first")
    motion.end(first)
    motion.end(ClaimLost("second"))
    with pytest.raises(ClaimLost, match="first"):
        motion.check()


def test_effects_under_way_are_counted() -> None:
    motion = Motion(Account("m"))
    with motion.flight(Slot("", 0)):
        assert not motion.wait_until_idle(0.0)
    assert motion.wait_until_idle(0.0)
