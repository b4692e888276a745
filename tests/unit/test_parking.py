"""Branches of which some wait: who goes on meanwhile, and when the agent lets go of its slot."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from replays import Replays

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.question import Inquiry, QuestionState, Reply
from orchestrator.journal.base import Recording
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context
from worker.effects import gather
from worker.effects.scopes import Scopes

HOUR = 3600.0


class People:
    """Whom agents ask: `asked` holds the texts by slot, and `look` is called whenever somebody looks for an answer."""

    def __init__(self) -> None:
        self.asked: dict[Slot, str] = {}
        self.answers: dict[str, str] = {}
        self.expires: dict[Slot, float | None] = {}
        self.look: Callable[[str], None] = lambda _: None

    def now(self) -> datetime:
        return system_clock.now()

    def has_come(self, moment: datetime) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        del claim
        self.asked[slot], self.expires[slot] = inquiry.text, inquiry.expires_seconds
        return ids.new()

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        del agent_run_id
        text = self.asked[slot]
        self.look(text)
        if text in self.answers:
            return Reply(QuestionState.ANSWERED, json.dumps(self.answers[text]))
        return Reply(QuestionState.OPEN, left_seconds=self.expires[slot])


class SlowJournal(MemoryJournal):
    """Gives back what is recorded, from a database that takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def read(self, claim: Claim) -> Recording:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Slow(super().read(claim), self._seconds)


class _Slow:
    def __init__(self, recording: Recording, seconds: float) -> None:
        self._recording = recording
        self._seconds = seconds

    def take(self, slot: Slot) -> Entry | None:
        threading.Event().wait(self._seconds)
        return self._recording.take(slot)

    def at_hand(self, slot: Slot) -> bool:
        del slot
        return False

    def left(self) -> Entry | None:
        return self._recording.left()


@pytest.fixture
def people() -> People:
    return People()


@pytest.fixture
def replays(people: People) -> Replays:
    made = Replays()
    made.events = people
    return made


def asks(count: int) -> Callable[[Context], list[str]]:
    def agent(ctx: Context) -> list[str]:
        return ctx.gather(*(lambda number=number: ctx.ask(f"{number}?") for number in range(count)))

    return agent


# Many branches of a sync agent ----------------------------------------------------------------------------------------


def test_all_branches_ask_at_once_however_many_they_are(replays: Replays, people: People) -> None:
    agent, texts = asks(40), [f"{number}?" for number in range(40)]
    replays.moment_seconds = 60  # nothing waits for this to pass: that every branch waits is known
    replays.suspended(agent)
    assert sorted(people.asked.values()) == sorted(texts)
    people.answers = {text: f"yes to {text}" for text in texts[:39]}
    replays.suspended(agent)
    people.answers[texts[39]] = "yes, the last one"
    assert replays.run(agent) == [*(f"yes to {text}" for text in texts[:39]), "yes, the last one"]


def test_branches_that_wait_keep_no_other_branch_from_beginning(replays: Replays, people: People) -> None:
    done = threading.Event()

    def answer(_: str) -> None:
        if done.is_set():
            people.answers.update({f"{number}?": "yes" for number in range(20)})

    people.look = answer

    def agent(ctx: Context) -> list[Any]:
        waiting = (lambda number=number: ctx.ask(f"{number}?") for number in range(20))
        return ctx.gather(*waiting, lambda: ctx.step(done.set))

    replays.suspended(agent)
    assert done.is_set()
    assert replays.run(agent) == ["yes"] * 20 + [None]


def test_branches_inside_of_branches_all_ask(replays: Replays, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_MOST_RUNNING", 2)

    def agent(ctx: Context) -> list[list[str]]:
        def inner(first: int) -> list[str]:
            return ctx.gather(*(lambda number=number: ctx.ask(f"{number}?") for number in range(first, first + 3)))

        return ctx.gather(*(lambda first=first: inner(first) for first in range(0, 12, 3)))

    replays.suspended(agent)
    assert len(people.asked) == 12
    people.answers = {f"{number}?": str(number) for number in range(12)}
    assert replays.run(agent) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9", "10", "11"]]


@pytest.mark.parametrize("most", [1, 16])
def test_while_one_branch_takes_over_from_another_it_never_looks_as_if_all_waited(
    replays: Replays, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    count, running = Scopes.count, list[int]()

    def noted(scopes: Scopes, **changes: int) -> None:
        count(scopes, **changes)
        running.append(scopes.running)

    def agent(ctx: Context) -> None:
        def outer() -> None:
            ctx.gather(*[lambda: ctx.step(int)] * 3)
            ctx.step(int)

        ctx.gather(*[outer] * 3)

    monkeypatch.setattr(gather, "_MOST_RUNNING", most)
    monkeypatch.setattr(Scopes, "count", noted)
    replays.run(agent)
    assert min(running[:-1]) > 0
    assert running[-1] == 0


def test_more_branches_than_there_may_be_threads_ask_when_others_are_answered(
    replays: Replays, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_MOST_RUNNING", 2)
    monkeypatch.setattr(gather, "_MOST_THREADS", 3)
    agent = asks(8)
    for asked in (3, 6, 8):
        replays.suspended(agent)
        assert len(people.asked) == asked
        people.answers = dict.fromkeys(people.asked.values(), "yes")
    assert replays.run(agent) == ["yes"] * 8


def test_no_more_than_so_many_branches_run_at_a_time(replays: Replays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_MOST_RUNNING", 3)
    lock, running, most = threading.Lock(), [0], [0]

    def work(ctx: Context) -> None:
        ctx.sleep(0.01)
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.005)
        with lock:
            running[0] -= 1

    replays.run(lambda ctx: ctx.gather(*(lambda: work(ctx) for _ in range(12))))
    assert most[0] <= 3


def test_a_branch_that_computes_for_long_is_not_taken_for_one_that_waits(replays: Replays, people: People) -> None:
    computed: list[int] = []

    def compute(ctx: Context) -> int:
        threading.Event().wait(0.3)  # many moments
        computed.append(1)
        return ctx.step(len, "done")

    def agent(ctx: Context) -> list[Any]:
        return ctx.gather(lambda: ctx.ask("Shall it?"), lambda: compute(ctx))

    replays.suspended(agent)
    people.answers["Shall it?"] = "yes"
    assert replays.run(agent) == ["yes", 4]
    assert len(computed) == 2


def test_an_answer_that_was_taken_while_others_went_on_is_told_with_the_suspension(
    replays: Replays, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.effects.waits._LOOK_SECONDS", 0.01)
    heard = threading.Event()

    def listen(ctx: Context) -> None:
        ctx.ask("Shall it?")
        heard.set()
        ctx.sleep(HOUR)

    def work() -> None:
        people.answers["Shall it?"] = "yes"
        assert heard.wait(60)

    def agent(ctx: Context) -> None:
        ctx.gather(lambda: listen(ctx), lambda: ctx.step(work))

    assert replays.suspended(agent).heard
    assert not replays.suspended(agent).heard, "this time it was there before"


# What is no waiting ---------------------------------------------------------------------------------------------------


def work(ctx: Context) -> str:
    for number in range(20):
        ctx.step(len, str(number))
    return ctx.ask("Shall it?")


async def async_work(ctx: AsyncContext) -> str:
    for number in range(20):
        await ctx.step(len, str(number))
    return await ctx.ask("Shall it?")


def worker(ctx: Context) -> list[Any]:
    return ctx.gather(lambda: ctx.ask("Who?", expires=HOUR), lambda: work(ctx))


async def async_worker(ctx: AsyncContext) -> list[Any]:
    return list(await asyncio.gather(ctx.ask("Who?", expires=HOUR), async_work(ctx)))


@pytest.mark.parametrize("execute", [worker, async_worker])
def test_a_branch_that_is_repeated_from_a_slow_database_goes_on(people: People, execute: Callable[[Any], Any]) -> None:
    replays = Replays(SlowJournal(0.01))
    replays.events = people
    replays.suspended(execute)
    people.answers["Shall it?"] = "yes"
    wait = replays.suspended(execute)
    assert "Shall it?" not in wait.waiting_for, "its answer was taken"
    people.answers["Who?"] = "Ada"
    assert replays.run(execute) == ["Ada", "yes"]


def looker(ctx: Context) -> list[Any]:
    return ctx.gather(lambda: ctx.ask("Who?", expires=60), lambda: ctx.sleep(HOUR))


async def async_looker(ctx: AsyncContext) -> list[Any]:
    return await ctx.gather(ctx.ask("Who?", expires=60), ctx.sleep(HOUR))


@pytest.mark.parametrize("execute", [looker, async_looker])
def test_while_one_looks_for_its_answer_the_others_do_not_suspend_without_its_end(
    replays: Replays, people: People, execute: Callable[[Any], Any]
) -> None:
    replays.suspended(execute)

    def look(_: str) -> None:
        threading.Event().wait(0.3)  # many moments

    people.look = look
    wait = replays.suspended(execute)
    assert wait.until is not None
    assert wait.until - system_clock.monotonic() <= 60


def test_a_step_that_waits_inside_is_not_what_goes_on_however_deep(replays: Replays, people: People) -> None:
    def outer(ctx: Context) -> str:
        return ctx.step(lambda: ctx.step(lambda: ctx.ask("Shall it?")))

    wait = replays.suspended(lambda ctx: ctx.gather(lambda: outer(ctx), lambda: ctx.sleep(HOUR)))
    assert wait.waiting_for.startswith("sleeps until")
    assert people.asked == {Slot("0.0.0", 0): "Shall it?"}
