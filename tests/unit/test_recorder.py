"""What an agent gets back when it is repeated, and what happens again: on the journal in memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import date, datetime, timezone
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel
from replays import Killed, Replays

from orchestrator.contracts.effect import EntryState
from orchestrator.contracts.policy import Limits
from orchestrator.errors import (
    AgentError,
    AgentTimeout,
    ClaimLost,
    EffectUncertain,
    ModelUnavailable,
    NondeterminismError,
    OutputInvalid,
    RetryableError,
    ValueTooLarge,
    from_exception,
)
from worker.agent import AsyncContext, Context
from worker.effects.scopes import Suspended


@pytest.fixture
def replays() -> Replays:
    return Replays()


class Counted:
    """A function to be given to a step: counts its calls by argument."""

    def __init__(self) -> None:
        self.calls: Counter[Any] = Counter()
        self.fails: dict[Any, BaseException] = {}

    def __call__(self, what: Any) -> str:
        self.calls[what] += 1
        if what in self.fails:
            raise self.fails[what]
        return f"did {what}"

    async def later(self, what: Any) -> str:
        await asyncio.sleep(0)
        return self(what)


@pytest.fixture
def work() -> Counted:
    return Counted()


class Answer(BaseModel):
    text: str


@dataclass
class Point:
    x: int
    day: date


# What comes back ------------------------------------------------------------------------------------------------------


def test_a_later_claim_gets_what_is_recorded_and_does_none_of_it_again(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        return [ctx.step(work, "a"), ctx.llm("hello"), ctx.step(work, "b"), ctx.now().isoformat()]

    first = replays.run(execute)
    assert replays.run(execute) == first
    assert first[:3] == ["did a", "HELLO", "did b"]
    assert work.calls == {"a": 1, "b": 1}
    assert replays.desk.calls == ["hello"]


def test_a_kill_repeats_no_more_than_the_effect_in_flight(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        return [ctx.step(work, number) for number in range(5)]

    work.fails[3] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == [f"did {number}" for number in range(5)]
    assert work.calls == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}


def test_a_kill_of_an_async_agent_repeats_no_more_than_the_effects_in_flight(replays: Replays, work: Counted) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        return [await ctx.step(work.later, "a"), await ctx.step(work, "b"), await ctx.llm("c")]

    work.fails["b"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == ["did a", "did b", "C"]
    assert work.calls == {"a": 1, "b": 2}


def annotated_model() -> Answer:
    return Answer(text="yes")


def annotated_point() -> Point:
    return Point(1, date(2026, 1, 2))


def annotated_tuple() -> tuple[int, str]:
    return 1, "a"


def annotated_bytes() -> bytes:
    return b"\xff\x00"


async def annotated_coroutine() -> list[Answer]:
    return [Answer(text="yes")]


@pytest.mark.parametrize(
    ("function", "gives"),
    [
        (annotated_model, Answer(text="yes")),
        (annotated_point, Point(1, date(2026, 1, 2))),
        (annotated_tuple, (1, "a")),
        (annotated_bytes, b"\xff\x00"),
        (lambda: (1, {"b": 2.5, "a": None}), [1, {"b": 2.5, "a": None}]),
        (lambda: 2**70, 2**70),
        (lambda: None, None),
    ],
)
def test_the_outcome_of_a_step_has_the_same_value_and_type_the_first_time_and_later(
    replays: Replays, function: Callable[[], Any], gives: Any
) -> None:
    seen: list[Any] = []

    def execute(ctx: Context) -> Any:
        seen.append(ctx.step(function))

    replays.run(execute)
    replays.run(execute)
    assert seen == [gives, gives]
    assert type(seen[0]) is type(seen[1]) is type(gives)


def test_coroutine_steps_give_their_annotated_type(replays: Replays) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        return await ctx.step(annotated_coroutine)

    assert replays.run(execute) == replays.run(execute) == [Answer(text="yes")]


def test_an_outcome_that_is_no_json_is_an_error_that_names_the_step_and_the_cure(replays: Replays) -> None:
    with pytest.raises(OutputInvalid, match=r"<lambda> is a Answer.*`-> Answer`"):
        replays.run(lambda ctx: ctx.step(lambda: Answer(text="yes")))
    with pytest.raises(OutputInvalid, match="is no JSON: the value is of type set"):
        replays.run(lambda ctx: ctx.step(lambda: {1}))


def test_an_outcome_that_is_too_large_is_an_error(replays: Replays) -> None:
    with pytest.raises(ValueTooLarge, match="NIGHTFLEET_MAX_VALUE_BYTES"):
        replays.run(lambda ctx: ctx.step(lambda: "x" * 1_000_001))


def test_time_chance_and_ids_are_the_same_again(replays: Replays) -> None:
    def execute(ctx: Context) -> Any:
        return ctx.now(), ctx.uuid(), ctx.random.random(), ctx.gather(lambda: ctx.random.random(), lambda: ctx.uuid())  # noqa: PLW0108 - asked for in the branch

    first = replays.run(execute)
    assert replays.run(execute) == first
    assert first[0].tzinfo is not None
    assert len({first[1], *map(str, first[3])}) == 3
    assert Replays().run(execute)[1:] != first[1:]


def test_a_line_of_progress_is_told_once(replays: Replays) -> None:
    def execute(ctx: Context) -> None:
        ctx.progress("half of the secret", 0.5)
        ctx.progress("all")

    replays.run(execute)
    replays.run(execute)
    events: list[Any] = replays.journal.events  # type: ignore[attr-defined]
    assert [(event.message, event.data) for event in events] == [("half of the ***", {"fraction": 0.5}), ("all", None)]


def test_another_wording_of_progress_is_no_other_effect(replays: Replays) -> None:
    replays.run(lambda ctx: ctx.progress("half"))
    replays.run(lambda ctx: ctx.progress("one half"))


def test_usage_counts_what_was_recorded_too(replays: Replays) -> None:
    def execute(ctx: Context) -> int:
        ctx.llm("one")
        ctx.llm("two")
        return ctx.usage.model_calls

    assert replays.run(execute) == replays.run(execute) == 2
    assert replays.account.answered_by == "desk:1"


def test_recorded_calls_count_toward_the_limit(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> None:
        ctx.llm("one")
        ctx.step(work, "between")
        ctx.llm("two")

    work.fails["between"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute, limits=Limits(model_calls=1))
    work.fails.clear()
    with pytest.raises(AgentError, match="has used its 1 model calls"):
        replays.run(execute, limits=Limits(model_calls=1))


# Errors ---------------------------------------------------------------------------------------------------------------


class OwnError(Exception):
    def __init__(self, item: str, *, tries: int) -> None:
        super().__init__(f"no {item}")
        self.tries = tries


def test_an_error_that_the_agent_catches_is_raised_again_as_what_it_was(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        found: list[Any] = []
        for what in ("value", "own", "file", "model"):
            try:
                ctx.step(work, what)
            except (ValueError, OwnError, OSError, ModelUnavailable) as error:
                found.append(
                    (type(error), str(error), getattr(error, "tries", None), getattr(error, "retry_after", None))
                )
        return found

    work.fails = {
        "value": ValueError("the secret"),
        "own": OwnError("bread", tries=3),
        "file": FileNotFoundError(2, "no such file", "x.txt"),
        "model": ModelUnavailable("overloaded", retry_after=7.0),
    }
    first = replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == first
    assert set(work.calls.values()) == {1}
    assert first[0] == (ValueError, "the ***", None, None)
    assert first[1] == (OwnError, "no bread", 3, None)
    assert first[2][:2] == (FileNotFoundError, "[Errno 2] no such file: 'x.txt'")
    assert first[3] == (ModelUnavailable, "overloaded", None, 7.0)


def test_an_error_has_the_cause_that_it_had_and_the_place_where_it_was_raised(replays: Replays) -> None:
    def fails() -> None:
        try:
            _ = {}["bread"]
        except KeyError as error:
            raise ValueError("no bread") from error

    found: list[Exception] = []

    def execute(ctx: Context) -> None:
        try:
            ctx.step(fails)
        except ValueError as error:
            found.append(error)

    replays.run(execute)
    replays.run(execute)
    causes = [from_exception(error).to_data()["cause"] for error in found]
    assert causes[0] == causes[1]
    assert causes[0]["message"] == "KeyError: 'bread'"
    assert "cause" not in causes[0]
    assert traceback.extract_tb(found[0].__traceback__)[-1].name == "fails"


def test_a_retry_repeats_what_failed_and_nothing_before_it(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        return [ctx.step(work, what) for what in "abc"]

    work.fails["b"] = ConnectionError("away")
    with pytest.raises(ConnectionError):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == ["did a", "did b", "did c"]
    assert work.calls == {"a": 1, "b": 2, "c": 1}


def test_a_retry_repeats_what_an_error_came_from_also_behind_an_error_of_the_agents_own(
    replays: Replays, work: Counted
) -> None:
    def execute(ctx: Context) -> Any:
        ctx.step(work, "a")
        try:
            return ctx.step(work, "b")
        except ValueError:
            ctx.step(work, "clean up")
            raise RetryableError("again") from None

    work.fails["b"] = ValueError("bad")
    with pytest.raises(RetryableError):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == "did b"
    assert work.calls == {"a": 1, "b": 2, "clean up": 1}
    assert replays.run(execute) == "did b"


def test_a_retry_repeats_what_came_after_the_failure_too(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        try:
            ctx.step(work, "b")
        except ValueError as error:
            ctx.gather(lambda: ctx.step(work, "other way"))
            raise RetryableError("again") from error
        return ctx.gather(lambda: ctx.step(work, "this way"))

    work.fails["b"] = ValueError("bad")
    with pytest.raises(RetryableError):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == ["did this way"]


def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    answers = iter(["no json", '{"text": "yes"}'])
    replays = Replays(answer=lambda prompt: "first" if prompt == "first" else next(answers))

    def execute(ctx: Context) -> Any:
        ctx.llm("first")
        return ctx.llm("second", output=Answer, repairs=0)

    with pytest.raises(OutputInvalid):
        replays.run(execute)
    assert replays.run(execute) == Answer(text="yes")
    assert replays.desk.calls == ["first", "second", "second"]


def test_of_an_answer_that_no_repair_has_helped_the_last_repair_is_asked_for_again() -> None:
    answers = iter(["no json", "nor this", '{"text": "yes"}'])
    replays = Replays(answer=lambda _: next(answers))

    def execute(ctx: Context) -> Any:
        return ctx.llm("second", output=Answer, repairs=1)

    with pytest.raises(OutputInvalid):
        replays.run(execute)
    assert replays.run(execute) == Answer(text="yes")
    first, repair, again = replays.desk.calls
    assert (first, repair) == ("second", again)


def test_an_answer_that_does_not_fit_and_is_caught_stays(replays: Replays) -> None:
    def execute(ctx: Context) -> Any:
        try:
            return ctx.llm("structured", output=Answer, repairs=0)
        except OutputInvalid:
            return ctx.llm("plain")

    assert replays.run(execute) == replays.run(execute) == "PLAIN"
    assert replays.desk.calls == ["structured", "plain"]


def test_an_error_of_the_agents_own_that_asks_for_a_retry_repeats_the_last_effect(
    replays: Replays, work: Counted
) -> None:
    def execute(ctx: Context) -> Any:
        ctx.step(work, "a")
        answer = ctx.step(work, "b")
        ctx.progress("looks at it")
        if work.calls["b"] == 1:
            raise RetryableError("not good enough")
        return answer

    with pytest.raises(RetryableError):
        replays.run(execute)
    assert replays.run(execute) == "did b"
    assert work.calls == {"a": 1, "b": 2}


def test_a_failed_effect_is_the_last_effect_too(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        ctx.step(work, "a")
        found = None
        with contextlib.suppress(ValueError):
            found = ctx.step(work, "b")
        if found is None:
            raise RetryableError("nothing found")
        return found

    work.fails["b"] = ValueError("no")
    with pytest.raises(RetryableError):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == "did b"
    assert work.calls == {"a": 1, "b": 2}


def test_an_answer_that_does_not_fit_is_what_an_error_that_follows_from_it_came_from(replays: Replays) -> None:
    def execute(ctx: Context) -> Any:
        try:
            ctx.llm("structured", output=Answer, repairs=0)
        except OutputInvalid as error:
            raise ValueError("gives up") from error

    with pytest.raises(ValueError, match="gives up"):
        replays.run(execute)
    assert not replays.entries


def test_what_fails_when_the_agent_is_over_is_not_recorded(replays: Replays) -> None:
    def late() -> None:
        replays.recorder.motion.end(ClaimLost("the agent has failed"))
        raise ConnectionError("too late")

    with pytest.raises(ClaimLost):
        replays.run(lambda ctx: ctx.step(late))
    assert not replays.entries


def test_no_effect_follows_a_failure_of_the_agent(replays: Replays, work: Counted) -> None:
    kept: list[Context] = []

    def execute(ctx: Context) -> None:
        kept.append(ctx)
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        replays.run(execute)
    with replays.recorder.scopes.root.entered(), pytest.raises(ClaimLost, match="has failed"):
        kept[0].step(work, "a")


def test_an_error_of_the_agents_own_that_asks_for_nothing_repeats_nothing(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        ctx.step(work, "a")
        raise ValueError("a mistake")

    for _ in range(2):
        with pytest.raises(ValueError, match="a mistake"):
            replays.run(execute)
    assert work.calls == {"a": 1}


def test_a_timeout_of_the_agents_own_repeats_nothing_that_has_an_outcome(replays: Replays, work: Counted) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        await ctx.step(work, "a")
        async with asyncio.timeout(0.01):
            await ctx.step(asyncio.Event().wait)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            replays.run(execute)
    assert work.calls == {"a": 1}


def test_a_step_that_says_that_its_time_is_up_is_repeated(replays: Replays, work: Counted) -> None:
    work.fails["a"] = AgentTimeout("no answer within a second")
    with pytest.raises(AgentTimeout):
        replays.run(lambda ctx: ctx.step(work, "a"))
    work.fails.clear()
    assert replays.run(lambda ctx: ctx.step(work, "a")) == "did a"


def test_a_time_limit_repeats_nothing_whatever_the_agent_was_about(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        try:
            ctx.step(work, "a")
        except ValueError:
            ctx.step(work, "b")
            replays.account.stopped = AgentTimeout("the soft time limit has passed")
            ctx.step(work, "c")

    work.fails["a"] = ValueError("no")
    for _ in range(2):
        with pytest.raises(AgentTimeout):
            replays.run(execute)
    assert work.calls == {"a": 1, "b": 1}


# Branches -------------------------------------------------------------------------------------------------------------


async def in_order(ctx: AsyncContext, work: Callable[[str], Awaitable[str]], name: str) -> list[str]:
    return [await ctx.step(work, f"{name}{number}") for number in range(3)]


async def by_context(ctx: AsyncContext, work: Callable[[str], Awaitable[str]]) -> Any:
    return await ctx.gather(*(in_order(ctx, work, name) for name in "abcde"))


async def by_gather(ctx: AsyncContext, work: Callable[[str], Awaitable[str]]) -> Any:
    return await asyncio.gather(*(in_order(ctx, work, name) for name in "abcde"))


async def by_task_group(ctx: AsyncContext, work: Callable[[str], Awaitable[str]]) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_order(ctx, work, name)) for name in "abcde"]
    return [task.result() for task in tasks]


Together = Callable[[AsyncContext, Callable[[str], Awaitable[str]]], Awaitable[Any]]


@pytest.mark.parametrize(("together", "orders"), [(by_context, 200), (by_gather, 50), (by_task_group, 50)])
def test_parallel_branches_replay_in_the_same_slots_whatever_order_they_end_in(together: Together, orders: int) -> None:
    for seed in range(orders):
        check_one_order(together, random.Random(seed))


def check_one_order(together: Together, chance: random.Random) -> None:
    """Kill five branches of three steps at a random step, in a random order, and go on."""
    replays, work = Replays(), Counted()
    left = chance.randrange(1, 16)

    async def slowly(what: str) -> str:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return work(what)

    async def execute(ctx: AsyncContext) -> Any:
        return await together(ctx, slowly)

    with pytest.raises((Killed, BaseExceptionGroup)):
        replays.run(execute)
    recorded = {entry.slot: entry.outcome for entry in replays.entries}
    assert replays.run(execute) == [[f"did {name}{number}" for number in range(3)] for name in "abcde"]
    repeated = {f"did {what}" for what, count in work.calls.items() if count > 1}
    assert repeated.isdisjoint(recorded.values())
    assert recorded.items() <= {entry.slot: entry.outcome for entry in replays.entries}.items()
    assert replays.run(execute)
    assert set(replays.shape) == {f"{branch}.{number}" for branch in range(5) for number in range(3)}


def test_branches_of_a_sync_agent_replay_in_the_same_slots(replays: Replays, work: Counted) -> None:
    def branch(ctx: Context, name: str) -> Any:
        return [ctx.step(work, f"{name}{number}") for number in range(3)]

    def execute(ctx: Context) -> Any:
        return ctx.gather(*(lambda name=name: branch(ctx, name) for name in "abcde"))

    work.fails["c1"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == [[f"did {name}{number}" for number in range(3)] for name in "abcde"]
    assert {what: count for what, count in work.calls.items() if count > 1} == {"c1": 2}


def test_branches_of_a_sync_agent_run_at_the_same_time(replays: Replays) -> None:
    both = threading.Barrier(2, timeout=60)

    def execute(ctx: Context) -> Any:
        return ctx.gather(lambda: ctx.step(lambda: both.wait() >= 0), lambda: ctx.step(lambda: both.wait() >= 0))

    assert replays.run(execute) == [True, True]


def failing(ctx: Context, work: Counted, *names: str) -> Any:
    return ctx.gather(*(lambda name=name: ctx.step(work, name) for name in names))


def test_gather_raises_the_first_error_in_order_when_all_have_ended(replays: Replays, work: Counted) -> None:
    work.fails = {"b": ConnectionError("b"), "c": ConnectionError("c")}
    with pytest.raises(ConnectionError, match=r"^b$"):
        replays.run(lambda ctx: failing(ctx, work, *"abcd"))
    assert work.calls == {"a": 1, "b": 1, "c": 1, "d": 1}
    work.fails.clear()
    assert replays.run(lambda ctx: failing(ctx, work, *"abcd")) == ["did a", "did b", "did c", "did d"]
    assert work.calls == {"a": 1, "b": 2, "c": 2, "d": 1}


def test_a_retry_repeats_every_branch_that_has_failed_whichever_was_first(replays: Replays, work: Counted) -> None:
    failed = {"a": threading.Event(), "b": threading.Event()}
    waits_for: dict[str, str] = {}

    def fail_after_the_other(what: str) -> str:
        if what in waits_for:
            assert failed[waits_for[what]].wait(10)
        try:
            return work(what)
        finally:
            failed[what].set()

    def both(ctx: Context, *, return_exceptions: bool) -> Any:
        def branch(what: str) -> Any:
            try:
                return ctx.step(fail_after_the_other, what)
            finally:
                # By now the failure is recorded.
                failed[what].set()

        ended = ctx.gather(lambda: branch("a"), lambda: branch("b"), return_exceptions=return_exceptions)
        for each in ended:
            if isinstance(each, Exception):
                raise each
        return ended

    for first, last, as_results in (("a", "b", False), ("b", "a", False), ("a", "b", True)):
        replays = Replays()
        waits_for.clear()
        waits_for[last] = first
        for event in failed.values():
            event.clear()
        work.calls.clear()
        work.fails = {"a": ConnectionError("a"), "b": ConnectionError("b")}
        with pytest.raises(ConnectionError):
            replays.run(partial(both, return_exceptions=as_results))
        work.fails.clear()
        waits_for.clear()
        assert replays.run(partial(both, return_exceptions=as_results)) == ["did a", "did b"]
        assert work.calls == {"a": 2, "b": 2}


def test_a_branch_that_has_caught_its_failure_and_gone_on_is_not_repeated(replays: Replays, work: Counted) -> None:
    failed = threading.Event()

    def first(ctx: Context) -> Any:
        try:
            return ctx.step(work, "a")
        finally:
            failed.set()

    def second(ctx: Context) -> Any:
        assert failed.wait(60)
        with contextlib.suppress(ConnectionError):
            ctx.step(work, "b")
        return ctx.step(work, "other way")

    def execute(ctx: Context) -> Any:
        ended = ctx.gather(lambda: first(ctx), lambda: second(ctx), return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]
        return ended

    work.fails = {"a": ConnectionError("a"), "b": ConnectionError("b")}
    with pytest.raises(ConnectionError):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == ["did a", "did other way"]
    assert work.calls == {"a": 2, "b": 1, "other way": 1}


def test_what_unwinds_an_agent_is_no_result_of_a_branch(replays: Replays) -> None:
    def suspend() -> None:
        raise Suspended("a while", None)

    with pytest.raises(Suspended):
        replays.run(lambda ctx: ctx.gather(suspend, lambda: 1, return_exceptions=True))


def test_gather_gives_errors_as_results_where_it_is_told_to(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        ended = ctx.gather(lambda: ctx.step(work, "a"), lambda: ctx.step(work, "b"), return_exceptions=True)
        return [repr(each) for each in ended]

    async def execute_async(ctx: AsyncContext) -> Any:
        ended = await ctx.gather(ctx.step(work, "a"), lambda: ctx.step(work, "b"), return_exceptions=True)
        return [repr(each) for each in ended]

    work.fails["a"] = ValueError("no")
    assert replays.run(execute) == replays.run(execute) == ["ValueError('no')", "'did b'"]
    other = Replays()
    assert other.run(execute_async) == other.run(execute_async) == ["ValueError('no')", "'did b'"]


def test_a_task_group_that_fails_repeats_the_branch_that_failed(replays: Replays, work: Counted) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_order(ctx, work.later, name)) for name in "ab"]
        return [task.result() for task in tasks]

    work.fails["a1"] = ConnectionError("away")
    with pytest.raises(ExceptionGroup):
        replays.run(execute)
    before = Counter(work.calls)
    work.fails.clear()
    assert len(replays.run(execute)) == 2
    assert work.calls["a0"] == 1
    assert work.calls["a1"] == 2
    assert before["b0"] == work.calls["b0"] == 1


def test_a_step_that_uses_the_context_is_resumed_in_its_middle(replays: Replays, work: Counted) -> None:
    def chapter(ctx: Context, name: str) -> list[str]:
        return [ctx.step(work, f"{name}{number}") for number in range(3)]

    def execute(ctx: Context) -> Any:
        return [ctx.step(chapter, ctx, name) for name in "ab"]

    work.fails["b1"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    work.fails.clear()
    expected = [[f"did {name}{number}" for number in range(3)] for name in "ab"]
    assert replays.run(execute) == replays.run(execute) == expected
    assert {what: count for what, count in work.calls.items() if count > 1} == {"b1": 2}
    assert set(replays.shape) == {"0", "0.0", "0.1", "0.2", "1", "1.0", "1.1", "1.2"}


def test_a_failure_inside_a_step_repeats_both(replays: Replays, work: Counted) -> None:
    def chapter(ctx: Context) -> list[str]:
        return [ctx.step(work, what) for what in "abc"]

    def execute(ctx: Context) -> Any:
        return ctx.step(chapter, ctx)

    work.fails["b"] = ConnectionError("away")
    with pytest.raises(ConnectionError):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == ["did a", "did b", "did c"]
    assert work.calls == {"a": 1, "b": 2, "c": 1}


def test_tasks_that_a_step_makes_move_no_numbers_outside_of_it(replays: Replays, work: Counted) -> None:
    tries = iter([3, 1])

    async def fetch() -> str:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(next(tries))]
        await asyncio.gather(*tasks)
        return work("fetch")

    async def execute(ctx: AsyncContext) -> Any:
        return [await ctx.step(fetch), await ctx.step(work, "a"), await ctx.step(work, "b")]

    work.fails["b"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    work.fails.clear()
    assert replays.run(execute) == ["did fetch", "did a", "did b"]
    assert set(replays.shape) == {"0", "1", "2"}


def test_two_tasks_of_one_given_context_have_scopes_of_their_own(replays: Replays, work: Counted) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        context = copy_context()
        tasks = [asyncio.create_task(in_order(ctx, work.later, name), context=context) for name in "ab"]
        return [await task for task in tasks]

    replays.run(execute)
    assert set(replays.shape) == {f"{branch}.{number}" for branch in range(2) for number in range(3)}


@pytest.mark.parametrize("copied", [False, True])
def test_an_effect_in_a_thread_of_the_agents_own_is_refused_with_the_way_to_do_it(
    replays: Replays, copied: bool
) -> None:
    def execute(ctx: Context) -> None:
        raised: list[Exception] = []

        def use() -> None:
            try:
                ctx.step(len, "a")
            except AgentError as error:
                raised.append(error)

        thread = threading.Thread(target=copy_context().run if copied else use, args=(use,) if copied else ())
        thread.start()
        thread.join()
        raise raised[0]

    with pytest.raises(AgentError, match=r"ctx\.gather"):
        replays.run(execute)


# What must not be repeated --------------------------------------------------------------------------------------------


def test_an_effect_that_may_happen_once_and_has_begun_is_not_repeated(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        ctx.step(work, "before")
        return ctx.step(work, "charge", at_most_once=True)

    work.fails["charge"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    work.fails.clear()
    for _ in range(2):
        with pytest.raises(EffectUncertain, match="--repeat-uncertain") as raised:
            replays.run(execute)
        assert not raised.value.retryable
    assert work.calls == {"before": 1, "charge": 1}


def test_an_async_effect_that_may_happen_once_and_has_begun_is_not_repeated(replays: Replays, work: Counted) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        return await ctx.step(work.later, "charge", at_most_once=True)

    work.fails["charge"] = Killed()
    with pytest.raises(Killed):
        replays.run(execute)
    with pytest.raises(EffectUncertain):
        replays.run(execute)
    assert work.calls == {"charge": 1}


def test_an_effect_that_may_happen_once_is_given_back_when_it_has_an_outcome(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        return ctx.step(work, "charge", at_most_once=True)

    assert replays.run(execute) == replays.run(execute) == "did charge"
    assert work.calls == {"charge": 1}


def test_an_effect_that_may_happen_once_and_has_failed_is_not_retried(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        ctx.step(work, "before")
        return ctx.step(work, "charge", at_most_once=True)

    work.fails["charge"] = ConnectionError("the line went dead")
    for _ in range(2):
        with pytest.raises(ConnectionError) as raised:
            replays.run(execute)
        assert not raised.value.retryable  # type: ignore[attr-defined]
    assert work.calls == {"before": 1, "charge": 1}


def test_no_retry_of_what_came_before_repeats_an_effect_that_may_happen_once(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        try:
            ctx.step(work, "a")
        except ConnectionError as error:
            ctx.step(work, "charge", at_most_once=True)
            raise RetryableError("again") from error

    work.fails["a"] = ConnectionError("away")
    for _ in range(3):
        with pytest.raises(RetryableError):
            replays.run(execute)
    assert work.calls == {"a": 3, "charge": 1}


def test_a_step_that_wants_an_idempotency_key_gets_the_same_one_again(replays: Replays) -> None:
    keys: list[str] = []

    def pay(amount: int, idempotency_key: str) -> int:
        keys.append(idempotency_key)
        if len(keys) == 1:
            raise Killed
        return amount

    def execute(ctx: Context) -> Any:
        return ctx.gather(lambda: ctx.step(pay, 3))  # pyright: ignore[reportCallIssue]

    with pytest.raises(Killed):
        replays.run(execute)
    assert replays.run(execute) == [3]
    assert keys[0] == keys[1]
    assert keys[0].startswith(f"{replays.id}:0:0:")


def test_another_call_in_the_place_of_one_that_has_failed_has_another_key(replays: Replays) -> None:
    keys: list[str] = []

    def pay(amount: int, idempotency_key: str) -> int:
        keys.append(idempotency_key)
        raise RetryableError("no money")

    for amount in (3, 4, 4):
        with pytest.raises(RetryableError):
            replays.run(lambda ctx, amount=amount: ctx.step(pay, amount))
    assert keys[0] != keys[1] == keys[2]


# Another agent than has recorded --------------------------------------------------------------------------------------


def test_another_effect_in_a_place_is_an_error_that_shows_both_and_the_cure(replays: Replays, work: Counted) -> None:
    replays.run(lambda ctx: ctx.llm("Summarize the secret."), digest="1111111111111111")
    with pytest.raises(NondeterminismError) as raised:
        replays.run(lambda ctx: ctx.llm("Condense it."), digest="2222222222222222")
    message = raised.value.message
    for part in (
        "Summarize the ***.",
        "Condense it.",
        "version 111111111111",
        "version 222222222222",
        "ctx.step",
        "--restart",
    ):
        assert part in message
    assert not raised.value.retryable
    assert raised.value.changed
    with pytest.raises(NondeterminismError, match="recorded:  model"):
        replays.run(lambda ctx: ctx.step(work, "a"))
    assert replays.desk.calls == ["Summarize the secret."]


def test_an_agent_that_swallows_the_error_does_not_go_on(replays: Replays, work: Counted) -> None:
    replays.run(lambda ctx: ctx.step(work, "a"))

    def execute(ctx: Context) -> Any:
        for what in ("b", "c"):
            try:
                ctx.step(work, what)
            except Exception:  # noqa: BLE001
                continue
        return "well"

    with pytest.raises(NondeterminismError, match="recorded"):
        replays.run(execute)
    assert work.calls == {"a": 1}


def test_what_an_agent_raises_in_place_of_the_error_counts_for_nothing(replays: Replays, work: Counted) -> None:
    replays.run(lambda ctx: ctx.step(work, "a"))

    def execute(ctx: Context) -> Any:
        try:
            return ctx.step(work, "b")
        except NondeterminismError:
            raise RetryableError("try me again") from None

    with pytest.raises(NondeterminismError):
        replays.run(execute)


def test_an_agent_that_returns_without_what_is_recorded_is_refused(replays: Replays, work: Counted) -> None:
    replays.run(lambda ctx: [ctx.step(work, "a"), ctx.step(work, "b")])
    with pytest.raises(NondeterminismError, match=r"returned without effect 1.*\n.*\n.*asked now: nothing"):
        replays.run(lambda ctx: ctx.step(work, "a"))


def test_a_changed_agent_goes_on_where_it_asks_for_the_same(replays: Replays, work: Counted) -> None:
    work.fails["b"] = Killed()
    with pytest.raises(Killed):
        replays.run(lambda ctx: [ctx.step(work, "a"), ctx.step(work, "b")], digest="1")
    assert replays.run(lambda ctx: [ctx.step(work, "a"), ctx.step(work, "c")], digest="2") == ["did a", "did c"]
    assert work.calls["a"] == 1


def test_a_changed_agent_that_asks_for_something_else_begins_anew_if_it_says_so(
    replays: Replays, work: Counted
) -> None:
    work.fails["b"] = Killed()
    with pytest.raises(Killed):
        replays.run(lambda ctx: [ctx.step(work, "a"), ctx.step(work, "b")], digest="1")

    def changed(ctx: Context) -> Any:
        return [ctx.step(work, "z"), ctx.step(work, "a")]

    assert replays.run(changed, digest="2", on_change="restart") == ["did z", "did a"]
    assert replays.run(changed, digest="2", on_change="restart") == ["did z", "did a"]
    assert work.calls == {"a": 2, "b": 1, "z": 1}


def test_an_agent_that_was_not_changed_does_not_begin_anew(replays: Replays, work: Counted) -> None:
    replays.run(lambda ctx: ctx.step(work, "a"))
    with pytest.raises(NondeterminismError):
        replays.run(lambda ctx: ctx.step(work, "b"), on_change="restart")
    assert work.calls == {"a": 1}


def test_the_model_of_an_installation_may_change_under_a_run(replays: Replays) -> None:
    replays.run(lambda ctx: ctx.llm("hello"))
    before = Replays.run

    def execute(ctx: Context) -> str:
        replays.account.model = "desk:2"
        return ctx.llm("hello")

    assert before(replays, execute) == "HELLO"


# Stopping -------------------------------------------------------------------------------------------------------------


def test_a_suspension_ends_the_agent_whatever_it_catches(replays: Replays, work: Counted) -> None:
    def execute(ctx: Context) -> Any:
        replays.recorder.motion.end(Suspended("a while", None))
        for _ in range(2):
            try:
                ctx.step(work, "a")
            except BaseException:  # noqa: BLE001
                continue
        return "well"

    with pytest.raises(Suspended):
        replays.run(execute)
    assert not work.calls


def test_what_a_step_makes_of_a_refusal_inside_is_not_recorded(replays: Replays, work: Counted) -> None:
    def careless(ctx: Context) -> str:
        replays.account.stopped = ClaimLost("taken over")
        try:
            return ctx.step(work, "a")
        except Exception:  # noqa: BLE001
            return "some other way"

    with pytest.raises(ClaimLost):
        replays.run(lambda ctx: ctx.step(careless, ctx))
    assert not replays.entries


def test_no_effect_follows_the_return_of_an_agent(replays: Replays, work: Counted) -> None:
    kept: list[Context] = []
    replays.run(kept.append)
    with pytest.raises(AgentError, match=r"ctx\.gather"):
        kept[0].step(work, "a")
    with replays.recorder.scopes.root.entered(), pytest.raises(ClaimLost, match="has returned"):
        kept[0].step(work, "a")


def test_an_outcome_that_the_agent_no_longer_waits_for_is_not_recorded(replays: Replays) -> None:
    began, end = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        end.wait(60)
        return "late"

    async def execute(ctx: AsyncContext) -> Any:
        task = asyncio.create_task(ctx.step(slow))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        end.set()
        await asyncio.to_thread(replays.recorder.motion.wait_until_idle, 10)
        return await ctx.step(len, "abc")

    assert replays.run(execute) == 3
    assert [entry.outcome for entry in replays.entries] == [3]


def test_what_is_recorded_of_a_request_has_no_secret(replays: Replays, work: Counted) -> None:
    replays.run(lambda ctx: ctx.step(work, "the secret"))
    [entry] = replays.entries
    assert entry.request is not None
    assert entry.request.endswith('Counted("the ***")')
    assert entry.state is EntryState.DONE
    assert entry.digest == "version 1"
    assert entry.epoch == 1
    assert entry.milliseconds is not None


def test_a_model_call_is_recorded_with_usage_and_model(replays: Replays) -> None:
    replays.run(lambda ctx: ctx.llm("hello"))
    [entry] = replays.entries
    assert entry.usage is not None
    assert entry.usage.input_tokens == 5
    assert entry.model == "desk:1"
    assert replays.journal.conversation("x", entry.head or "") is not None


def test_the_time_is_in_utc(replays: Replays) -> None:
    async def execute(ctx: AsyncContext) -> datetime:
        return await ctx.now()

    assert replays.run(execute).tzinfo == timezone.utc  # noqa: UP017
