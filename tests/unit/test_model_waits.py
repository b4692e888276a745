"""Model calls that cannot be made yet: what waits in the process, what lets go of its slot, and where it goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from replays import Replays

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import EntryState, Slot
from orchestrator.contracts.question import Inquiry, Reply
from orchestrator.errors import ModelUnavailable
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context
from worker.effects.progress import NotYet, Progress
from worker.llm.base import LLMRequest, LLMResponse

PLACE = Progress(ticket="a place in the line", epoch=1)


class Clock:
    """What waits ask of the outside here: the time, and nobody."""

    def now(self) -> datetime:
        return system_clock.now()

    def has_come(self, moment: datetime) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        raise AssertionError("nobody is there")

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        raise AssertionError("nobody is there")


class Line:
    """Lets a model be asked only after so many have been told to come back; `told` holds how far each call had come."""

    def __init__(self, replays: Replays, *waits: NotYet | Exception) -> None:
        self.waits = list(waits)
        self.told: list[tuple[Slot, Progress]] = []
        self._answer = replays.desk.call
        replays.desk.call = self.call

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        self.told.append((slot, progress))
        if self.waits:
            raise self.waits.pop(0)
        return self._answer(request, slot, progress)


@pytest.fixture
def replays() -> Replays:
    made = Replays()
    made.events = Clock()
    return made


def asker(ctx: Context) -> str:
    return ctx.llm("hello")


async def async_asker(ctx: AsyncContext) -> str:
    return await ctx.llm("hello")


both = pytest.mark.parametrize("execute", [asker, async_asker])


@both
def test_a_short_wait_stays_in_the_process_and_leaves_no_trace(replays: Replays, execute: Callable[[Any], Any]) -> None:
    line = Line(replays, NotYet(0.01, "waits for its turn", PLACE), NotYet(0.01, "and again", PLACE))
    assert replays.run(execute) == "HELLO"
    assert [progress for _, progress in line.told] == [Progress(), PLACE, PLACE]
    [entry] = replays.entries
    assert (entry.state, entry.outcome["text"]) == (EntryState.DONE, "HELLO")


@both
def test_a_long_wait_lets_go_of_the_slot_and_goes_on_from_where_it_was(
    replays: Replays, execute: Callable[[Any], Any]
) -> None:
    line = Line(replays, NotYet(60.0, "waits for requests_per_minute", PLACE))
    suspended = replays.suspended(execute)
    assert "requests_per_minute" in suspended.waiting_for
    assert suspended.until is not None
    [entry] = replays.entries
    assert entry.state is EntryState.BEGUN
    assert replays.desk.calls == [], "nobody was asked"
    assert replays.run(execute) == "HELLO"
    assert line.told == [(Slot("", 0), Progress()), (Slot("", 0), PLACE)]
    assert replays.run(execute) == "HELLO"
    assert replays.desk.calls == ["hello"], "what is recorded is not asked again"


def test_a_wait_for_somebody_has_no_end_of_its_own(replays: Replays) -> None:
    Line(replays, NotYet(None, "waits for the budget of project/press", PLACE))
    suspended = replays.suspended(asker)
    assert (suspended.until, suspended.waiting_for) == (None, "waits for the budget of project/press")


def test_other_branches_go_on_while_one_waits_for_its_model(replays: Replays) -> None:
    done: list[str] = []

    def agent(ctx: Context) -> list[Any]:
        return ctx.gather(lambda: ctx.llm("hello"), lambda: ctx.step(done.append, "step"))

    Line(replays, NotYet(60.0, "waits", PLACE))
    replays.suspended(agent)
    assert done == ["step"]
    assert replays.run(agent) == ["HELLO", None]
    assert done == ["step"]


@both
def test_a_wait_charges_no_model_call(replays: Replays, execute: Callable[[Any], Any]) -> None:
    Line(replays, NotYet(0.01, "waits", PLACE))
    replays.run(execute)
    assert (replays.account.calls, replays.account.usage.model_calls) == (1, 1)


@both
def test_a_call_that_fails_after_it_has_waited_is_recorded_as_that(
    replays: Replays, execute: Callable[[Any], Any]
) -> None:
    Line(replays, NotYet(0.01, "waits", PLACE), ModelUnavailable("it is down"))
    with pytest.raises(ModelUnavailable):
        replays.run(execute)
    assert [entry.state for entry in replays.journal.entries(replays.id)] == [EntryState.VOID]
    assert replays.run(execute) == "HELLO", "a retry asks again"


def test_an_agent_that_begins_anew_in_one_claim_asks_under_other_numbers(replays: Replays) -> None:
    line = Line(replays)
    replays.run(lambda ctx: ctx.gather(lambda: ctx.step(str.upper, "a"), lambda: ctx.step(str.upper, "b")))

    def changed(ctx: Context) -> str:
        ctx.gather(lambda: ctx.step(str.upper, "a"))
        return ctx.llm("hello")

    assert replays.run(changed, digest="version 2", on_change="restart") == "HELLO"
    [first, second] = line.told
    assert first[0] == second[0], "both are of the same place and claim"
    assert first[1].sent < second[1].sent, "the ledger and the limits tell them apart by this"
