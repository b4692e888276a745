"""Effects that wait: when an agent keeps its slot and when it suspends, whatever its code makes of being unwound."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel
from replays import Replays

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.question import Inquiry, QuestionState, Reply
from orchestrator.errors import ClaimLost, InputInvalid
from orchestrator.store.agent_runs import Claim
from orchestrator.store.waits import Waits
from worker.agent import AsyncContext, Context, QuestionExpired
from worker.effects.base import Account
from worker.effects.motion import Motion
from worker.effects.scopes import Suspended
from worker.execution import Execution
from worker.suspension import suspend

HOUR = 3600.0
FIRST = Slot("", 0)


class People:
    """Time by hand, and a person: what was asked, by slot, and what has become of it."""

    def __init__(self) -> None:
        self.later = timedelta()
        self.asked: dict[Slot, Inquiry] = {}
        self.replies: dict[Slot, Reply] = {}
        self.heard = threading.Event()

    def now(self) -> datetime:
        return system_clock.now() + self.later

    def has_come(self, moment: datetime) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        del claim
        self.asked[slot] = inquiry
        self.replies[slot] = Reply(QuestionState.OPEN, left_seconds=inquiry.expires_seconds)
        self.heard.set()
        return ids.new()

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        del agent_run_id
        return self.replies[slot]

    def answer(self, value: Any, slot: Slot = FIRST) -> None:
        self.replies[slot] = Reply(QuestionState.ANSWERED, json.dumps(value))

    def let_expire(self, slot: Slot = FIRST) -> None:
        self.replies[slot] = Reply(QuestionState.EXPIRED)


class Review(BaseModel):
    stars: int
    why: str = ""


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture
def replays(people: People) -> Replays:
    made = Replays()
    made.events = people
    return made


def left(wait: Suspended) -> float:
    assert wait.until is not None
    return wait.until - system_clock.monotonic()


# Sleeping -------------------------------------------------------------------------------------------------------------


def test_a_moment_is_slept_in_the_process(replays: Replays) -> None:
    def agent(ctx: Context) -> str:
        ctx.sleep(0.02)
        return "awake"

    assert replays.run(agent) == "awake"
    assert [(entry.kind, entry.state) for entry in replays.entries] == [("sleep", "done")]
    assert replays.run(agent) == "awake"


def test_a_long_sleep_suspends_and_goes_on_at_its_time_without_repeating_what_was_before(
    replays: Replays, people: People
) -> None:
    calls: list[str] = []

    def agent(ctx: Context) -> str:
        ctx.step(calls.append, "before")
        ctx.sleep(timedelta(hours=1))
        ctx.step(calls.append, "after")
        return "awake"

    assert left(replays.suspended(agent)) == pytest.approx(HOUR, abs=60)
    people.later = timedelta(minutes=40)
    assert left(replays.suspended(agent)) == pytest.approx(HOUR / 3, abs=60)
    people.later = timedelta(minutes=61)
    assert replays.run(agent) == "awake"
    assert calls == ["before", "after"]
    people.later = timedelta()
    assert replays.run(agent) == "awake"


async def async_sleeper(ctx: AsyncContext) -> str:
    await ctx.sleep(HOUR)
    return "awake"


def test_an_async_agent_sleeps_the_same_way(replays: Replays, people: People) -> None:
    assert "sleeps until" in replays.suspended(async_sleeper).waiting_for
    people.later = timedelta(hours=2)
    assert replays.run(async_sleeper) == "awake"


def test_sleeping_until_a_time_goes_by_the_time_of_the_database(replays: Replays, people: People) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)

    def agent(ctx: Context) -> None:
        ctx.sleep_until(at)

    people.later = timedelta(minutes=-30)
    assert left(replays.suspended(agent)) == pytest.approx(1.5 * HOUR, abs=60)
    people.later = timedelta(hours=1)
    replays.run(agent)


def test_a_time_that_is_over_is_not_waited_for(replays: Replays) -> None:
    replays.run(lambda ctx: ctx.sleep_until(datetime(2020, 1, 1, tzinfo=UTC)))
    replays.run(lambda ctx: ctx.sleep_until(datetime(2020, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan"), 1e10, timedelta.max])
def test_what_is_no_duration_is_refused(replays: Replays, wrong: float | timedelta) -> None:
    with pytest.raises(InputInvalid, match="duration"):
        replays.run(lambda ctx: ctx.sleep(wrong))


def test_a_time_beyond_what_databases_count_is_slept_toward(replays: Replays) -> None:
    wait = replays.suspended(lambda ctx: ctx.sleep_until(datetime.max.replace(tzinfo=UTC)))
    assert left(wait) == pytest.approx(100 * 365.25 * 24 * HOUR, abs=60)


def test_a_time_without_a_zone_is_refused(replays: Replays) -> None:
    with pytest.raises(InputInvalid, match="time zone"):
        replays.run(lambda ctx: ctx.sleep_until(datetime(2026, 1, 1)))  # noqa: DTZ001


# Asking ---------------------------------------------------------------------------------------------------------------


def test_a_question_suspends_until_it_is_answered(replays: Replays, people: People) -> None:
    def agent(ctx: Context) -> str:
        return ctx.ask("Send it?", choices=["yes", "no"], about={"usd": 5})

    wait = replays.suspended(agent)
    assert (wait.waiting_for, wait.until) == ("waits for an answer: Send it?", None)
    assert people.asked[FIRST] == Inquiry("Send it?", ("yes", "no"), None, {"usd": 5})
    replays.suspended(agent)
    people.answer("yes")
    assert replays.run(agent) == "yes"
    people.answer("no")
    assert replays.run(agent) == "yes", "it is consumed"


def test_who_watches_is_told_of_the_question_once(replays: Replays, people: People) -> None:
    def agent(ctx: Context) -> str:
        return ctx.ask("Send it?", choices=["yes", "no"])

    replays.suspended(agent)
    replays.suspended(agent)
    people.answer("yes")
    replays.run(agent)
    [line] = replays.journal.events  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
    assert line.message == "asks: Send it? (yes, no)"
    assert set(line.data) == {"question"}


async def reviewer(ctx: AsyncContext) -> dict[str, Any]:
    review = await ctx.ask("How was it?", answer=Review)
    return {"kind": type(review).__name__, "stars": review.stars}


def test_an_answer_becomes_what_the_agent_asked_for(replays: Replays, people: People) -> None:
    replays.suspended(reviewer)
    schema = people.asked[FIRST].schema
    assert schema is not None
    assert schema["properties"]["stars"]["type"] == "integer"
    people.answer({"stars": 4})
    assert replays.run(reviewer) == {"kind": "Review", "stars": 4}
    assert replays.run(reviewer) == {"kind": "Review", "stars": 4}


def test_nobodys_answer_gives_the_default(replays: Replays, people: People) -> None:
    def agent(ctx: Context) -> Any:
        return ctx.ask("Send it?", expires=HOUR, default=None)

    assert left(replays.suspended(agent)) == pytest.approx(HOUR, abs=60)
    people.let_expire()
    assert replays.run(agent) is None


def test_nobodys_answer_without_a_default_is_an_error_that_a_retry_asks_anew(replays: Replays, people: People) -> None:
    def agent(ctx: Context) -> str:
        return ctx.ask("Send it?", expires=HOUR)

    def careful(ctx: Context) -> str:
        with contextlib.suppress(QuestionExpired):
            return ctx.ask("Send it?", expires=HOUR)
        return "nobody"

    replays.suspended(agent)
    people.let_expire()
    assert replays.run(careful) == "nobody"
    with pytest.raises(QuestionExpired, match="nobody has answered in time: Send it"):
        replays.run(agent)
    replays.suspended(agent)
    people.answer("yes")
    assert replays.run(agent) == "yes"


def test_an_answer_that_comes_while_another_branch_goes_on_is_taken_in_the_process(
    replays: Replays, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.effects.waits._LOOK_SECONDS", 0.01)
    answered = threading.Event()

    def work() -> None:
        assert people.heard.wait(60)
        people.answer("yes", Slot("0", 0))
        assert answered.wait(60)

    def ask(ctx: Context) -> str:
        said = ctx.ask("Send it?")
        answered.set()
        return said

    assert replays.run(lambda ctx: ctx.gather(lambda: ask(ctx), lambda: ctx.step(work))) == ["yes", None]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"choices": ["yes"], "answer": Review}, "leave one out"),
        ({"default": "yes"}, "say when"),
        ({"choices": ["yes"], "default": "no", "expires": 5}, "none of the choices"),
        ({"expires": 0}, "no time"),
        ({"expires": timedelta.max}, "no time"),
        ({"about": object()}, "no JSON"),
        ({"choices": ["yes", "n\x00"]}, "U\\+0000"),
    ],
)
def test_what_cannot_be_asked_is_refused(replays: Replays, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputInvalid, match=complaint):
        replays.run(lambda ctx: ctx.ask("Send it?", **given))


def test_a_question_is_text_that_a_database_takes(replays: Replays, people: People) -> None:
    replays.suspended(lambda ctx: ctx.ask("Send \x00 to \ud800?"))
    assert people.asked[FIRST].text == "Send \N{REPLACEMENT CHARACTER} to ??"


def test_secrets_do_not_reach_the_question(replays: Replays, people: People) -> None:
    replays.suspended(lambda ctx: ctx.ask("the secret?", about={"key": "secret"}))
    assert people.asked[FIRST] == Inquiry("the ***?", about={"key": "***"})


# Unwinding ------------------------------------------------------------------------------------------------------------

AFTER: list[str] = []


def swallows_exceptions(ctx: Context) -> str:
    try:
        ctx.sleep(HOUR)
    except Exception:  # noqa: BLE001
        return "not a suspension"
    return "awake"


def swallows_everything(ctx: Context) -> str:
    with contextlib.suppress(BaseException):
        ctx.sleep(HOUR)
    with contextlib.suppress(BaseException):
        ctx.step(AFTER.append, "after")
    return "awake"


def raises_in_place_of_it(ctx: Context) -> str:
    try:
        ctx.sleep(HOUR)
    except BaseException:  # noqa: BLE001
        raise ValueError("my own") from None
    return "awake"


def cleans_up_with_effects(ctx: Context) -> str:
    try:
        ctx.sleep(HOUR)
    finally:
        ctx.step(AFTER.append, "after")
    return "awake"


def sleeps_in_a_step(ctx: Context) -> str:
    def work() -> str:
        ctx.sleep(HOUR)
        return "awake"

    return ctx.step(work)


def swallows_it_in_a_step(ctx: Context) -> str:
    def work() -> str:
        with contextlib.suppress(BaseException):
            ctx.sleep(HOUR)
        return "awake"

    return ctx.step(work)


def sleeps_in_all_branches(ctx: Context) -> str:
    ctx.gather(lambda: ctx.sleep(HOUR), lambda: ctx.sleep(2 * HOUR), return_exceptions=True)
    return "awake"


async def gathers_exceptions(ctx: AsyncContext) -> str:
    await asyncio.gather(ctx.sleep(HOUR), ctx.sleep(2 * HOUR), return_exceptions=True)
    with contextlib.suppress(BaseException):
        await ctx.step(AFTER.append, "after")
    return "awake"


async def groups_tasks(ctx: AsyncContext) -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.sleep(HOUR))
        group.create_task(ctx.sleep(2 * HOUR))
    return "awake"


async def swallows_a_group(ctx: AsyncContext) -> str:
    with contextlib.suppress(BaseException):
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep(HOUR))
    return "awake"


async def suspends_in_a_task(ctx: AsyncContext) -> str:
    task = asyncio.create_task(ctx.sleep(HOUR))
    await asyncio.wait([task])
    return "awake"


async def cleans_up_async(ctx: AsyncContext) -> str:
    try:
        await ctx.sleep(HOUR)
    finally:
        await ctx.step(AFTER.append, "after")
    return "awake"


async def sleeps_in_an_async_step(ctx: AsyncContext) -> str:
    async def work() -> str:
        with contextlib.suppress(BaseException):
            await ctx.sleep(HOUR)
        return "awake"

    return await ctx.step(work)


@pytest.mark.parametrize(
    "agent",
    [
        swallows_exceptions, swallows_everything, raises_in_place_of_it, cleans_up_with_effects, sleeps_in_a_step,
        swallows_it_in_a_step, sleeps_in_all_branches, gathers_exceptions, groups_tasks, swallows_a_group,
        suspends_in_a_task, cleans_up_async, sleeps_in_an_async_step,
    ],
)  # fmt: skip
def test_whatever_an_agent_makes_of_its_unwinding_it_is_suspended(
    replays: Replays, people: People, agent: Callable[[Any], Any]
) -> None:
    AFTER.clear()
    assert left(replays.suspended(agent)) == pytest.approx(HOUR, abs=60)
    assert AFTER == [], "no effect follows"
    assert {entry.state for entry in replays.entries} == {"begun"}
    people.later = timedelta(hours=3)
    assert replays.run(agent) == "awake"


# Branches -------------------------------------------------------------------------------------------------------------


def test_a_branch_that_waits_lets_the_others_go_on(replays: Replays, people: People) -> None:
    done: list[int] = []

    def work(ctx: Context) -> None:
        for number in range(20):
            ctx.step(done.append, number)
            ctx.sleep(0.01)

    def agent(ctx: Context) -> int:
        ctx.gather(lambda: ctx.sleep(HOUR), lambda: work(ctx))
        return len(done)

    replays.suspended(agent)
    assert done == list(range(20))
    people.later = timedelta(hours=2)
    assert replays.run(agent) == 20


def test_nothing_suspends_while_an_effect_is_under_way(replays: Replays, people: People) -> None:
    went = threading.Event()

    def work() -> str:
        # Much longer than a moment: that nothing else moves is no reason.
        went.wait(0.3)
        return "done"

    async def busy(ctx: AsyncContext) -> str:
        await ctx.step(work)
        return await ctx.step(str.upper, "done")

    async def agent(ctx: AsyncContext) -> list[Any]:
        return list(await asyncio.gather(ctx.sleep(HOUR), busy(ctx)))

    replays.suspended(agent)
    assert {str(entry.slot): entry.state for entry in replays.entries} == {"0.0": "begun", "1.0": "done", "1.1": "done"}
    people.later = timedelta(hours=2)
    assert replays.run(agent) == [None, "DONE"]


def test_of_several_waits_the_first_one_wakes_and_all_are_named(replays: Replays, people: People) -> None:
    async def agent(ctx: AsyncContext) -> list[Any]:
        return await ctx.gather(ctx.ask("Send it?"), ctx.sleep(HOUR), ctx.sleep(2 * HOUR))

    wait = replays.suspended(agent)
    assert left(wait) == pytest.approx(HOUR, abs=60)
    assert "Send it?" in wait.waiting_for
    assert wait.waiting_for.count("sleeps until") == 2
    people.answer("yes", Slot("0", 0))
    assert left(replays.suspended(agent)) == pytest.approx(HOUR, abs=60)
    people.later = timedelta(hours=1.5)
    assert left(replays.suspended(agent)) == pytest.approx(HOUR / 2, abs=60)
    people.later = timedelta(hours=2.5)
    assert replays.run(agent) == ["yes", None, None]


def test_an_agent_whose_branches_have_ended_suspends_at_once(replays: Replays) -> None:
    # It would wait for so long if it took one of them for a branch that goes on.
    replays.moment_seconds = HOUR / 2

    async def agent(ctx: AsyncContext) -> None:
        await asyncio.gather(ctx.sleep(0), ctx.sleep(0))
        await asyncio.create_task(ctx.sleep(0))
        await ctx.sleep(HOUR)

    replays.suspended(agent)


# The end --------------------------------------------------------------------------------------------------------------


def test_no_effect_begins_once_an_execution_is_unwound() -> None:
    motion = Motion(Account("model"))
    motion.end(Suspended("sleeps", None))
    with pytest.raises(Suspended), motion.flight(FIRST):
        raise AssertionError("it has begun")


def execution_of(account: Account) -> Execution:
    """Make an execution of which nobody asks what it executes."""
    nothing = cast("Any", None)
    claim = cast("Any", SimpleNamespace(has_subwork=False))
    return Execution(claim, nothing, account, nothing, 0.0)


def test_an_agent_run_is_let_go_only_when_what_was_under_way_is_recorded() -> None:
    happened: list[str] = []

    class Store:
        def suspend(self, claim: Any, **how: Any) -> None:
            del claim
            assert HOUR - 600 < how["left_seconds"] <= HOUR
            happened.append("suspended")

    execution = execution_of(Account("model"))
    motion = execution.motion
    begun = threading.Event()

    def work() -> None:
        with motion.flight(FIRST):
            begun.set()
            # Until somebody waits for it.
            until = system_clock.monotonic() + 0.1
            while system_clock.monotonic() < until:
                threading.Event().wait(0.01)
            happened.append("recorded")

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    verdict = suspend(cast("Waits", Store()), execution, Suspended("sleeps", system_clock.monotonic() + HOUR))
    thread.join(60)
    assert happened == ["recorded", "suspended"]
    assert (verdict.reason, verdict.again) == ("sleeps", None)


def test_an_agent_run_that_was_taken_away_meanwhile_is_not_suspended() -> None:
    account = Account("model")
    execution = execution_of(account)
    account.stopped = ClaimLost("cancelled")
    with execution.motion.flight(FIRST), pytest.raises(ClaimLost):
        suspend(cast("Waits", None), execution, Suspended("sleeps", None))
