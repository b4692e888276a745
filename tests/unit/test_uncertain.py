"""Steps of which nobody knows whether they have happened: a person decides, once for each beginning."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel
from replays import Killed, Replays

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.question import Inquiry, QuestionState, Reply
from orchestrator.contracts.shape import faults_of
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context, EffectUncertain, InputInvalid, NondeterminismError, OutputInvalid
from worker.effects.scopes import Suspended


class Receipt(BaseModel):
    number: int


class Till:
    """A step that dies in its middle as often as it is told to."""

    def __init__(self) -> None:
        self.deaths = 1
        self.calls = 0
        self.keys: set[str] = set()

    def __call__(self, amount: int, idempotency_key: str) -> Receipt:
        self.calls += 1
        self.keys.add(idempotency_key)
        if self.deaths:
            self.deaths -= 1
            raise Killed
        return Receipt(number=amount)

    async def later(self, amount: int, idempotency_key: str) -> Receipt:
        return self(amount, idempotency_key)


class Person:
    """Is asked, and answers the question that was asked last."""

    def __init__(self) -> None:
        self.asked: list[Inquiry] = []
        self._at: dict[Slot, Reply] = {}

    def now(self) -> datetime:
        return system_clock.now()

    def has_come(self, moment: datetime) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        del claim
        self.asked.append(inquiry)
        self._at[slot] = Reply(QuestionState.OPEN)
        return ids.new()

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        del agent_run_id
        return self._at[slot]

    def answer(self, value: Any) -> None:
        schema = self.asked[-1].schema
        assert schema is not None
        assert faults_of(value, schema) == []
        self._at[next(reversed(self._at))] = Reply(QuestionState.ANSWERED, json.dumps(value))


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
def replays(person: Person) -> Replays:
    made = Replays()
    made.events = person
    return made


@pytest.fixture
def till() -> Till:
    return Till()


Agent = Callable[[Any], Any]


@pytest.fixture(params=["sync", "async"])
def agent(request: pytest.FixtureRequest, till: Till) -> Agent:
    def sync_agent(ctx: Context) -> Any:
        ctx.step(len, "before")
        receipt = ctx.step(till, 12, at_most_once=True, uncertain="ask")
        return [type(receipt).__name__, receipt.number, ctx.step(len, "after")]

    async def async_agent(ctx: AsyncContext) -> Any:
        await ctx.step(len, "before")
        receipt = await ctx.step(till.later, 12, at_most_once=True, uncertain="ask")
        return [type(receipt).__name__, receipt.number, await ctx.step(len, "after")]

    return sync_agent if request.param == "sync" else async_agent


def killed(replays: Replays, agent: Agent) -> None:
    with pytest.raises(Killed):
        replays.run(agent)


def asks(replays: Replays, agent: Agent) -> None:
    with pytest.raises(Suspended):
        replays.run(agent)


def test_what_has_an_outcome_asks_nobody(replays: Replays, agent: Agent, till: Till, person: Person) -> None:
    till.deaths = 0
    assert replays.run(agent) == replays.run(agent) == ["Receipt", 12, 5]
    assert (till.calls, person.asked) == (1, [])


def test_a_person_says_what_it_gave_and_the_agent_goes_on_with_that(
    replays: Replays, agent: Agent, till: Till, person: Person
) -> None:
    killed(replays, agent)
    asks(replays, agent)
    asks(replays, agent)
    [question] = person.asked
    assert "has begun, and its worker died" in question.text
    assert question.about["effect"] == "1"
    person.answer({"outcome": {"number": 7}})
    assert replays.run(agent) == replays.run(agent) == ["Receipt", 7, 5]
    assert till.calls == 1
    assert {str(entry.slot): (entry.kind, entry.state) for entry in replays.entries} == {
        "0": ("step", "done"),
        "1": ("step", "done"),
        "1.-1.1": ("ask", "done"),
        "2": ("step", "done"),
    }


def test_a_person_says_that_it_has_not_happened_and_it_happens_with_the_same_key(
    replays: Replays, agent: Agent, till: Till, person: Person
) -> None:
    killed(replays, agent)
    asks(replays, agent)
    person.answer("repeat")
    assert replays.run(agent) == replays.run(agent) == ["Receipt", 12, 5]
    assert (till.calls, len(till.keys)) == (2, 1)


def test_an_answer_counts_for_one_beginning_and_the_next_one_that_is_cut_off_asks_again(
    replays: Replays, agent: Agent, till: Till, person: Person
) -> None:
    till.deaths = 2
    killed(replays, agent)
    asks(replays, agent)
    person.answer("repeat")
    killed(replays, agent)
    asks(replays, agent)
    assert (till.calls, len(person.asked)) == (2, 2)
    person.answer({"outcome": {"number": 8}})
    assert replays.run(agent) == replays.run(agent) == ["Receipt", 8, 5]
    assert till.calls == 2


def test_a_person_who_cannot_say_fails_the_agent_and_a_retry_asks_again(
    replays: Replays, agent: Agent, till: Till, person: Person
) -> None:
    killed(replays, agent)
    asks(replays, agent)
    person.answer("fail")
    with pytest.raises(EffectUncertain, match="asks again") as raised:
        replays.run(agent)
    assert not raised.value.retryable
    asks(replays, agent)
    person.answer("repeat")
    assert replays.run(agent) == ["Receipt", 12, 5]
    assert (till.calls, len(person.asked)) == (2, 2)


def test_an_agent_that_goes_on_without_it_does_so_again(replays: Replays, till: Till, person: Person) -> None:
    def careful(ctx: Context) -> str:
        try:
            ctx.step(till, 12, at_most_once=True, uncertain="ask")
        except EffectUncertain:
            return f"{ctx.step(len, 'instead')}"
        return "paid"

    killed(replays, careful)
    asks(replays, careful)
    person.answer("fail")
    assert replays.run(careful) == replays.run(careful) == "7"
    assert till.calls == 1


def test_an_answer_has_to_fit_what_the_step_gives(replays: Replays, agent: Agent, person: Person) -> None:
    killed(replays, agent)
    asks(replays, agent)
    schema = person.asked[0].schema
    assert schema is not None
    wrong = ["yes", {}, {"outcome": {"number": "twelve"}}, {"outcome": {"number": 1}, "more": 1}, None]
    assert all(faults_of(value, schema) for value in wrong)
    assert not any(faults_of(value, schema) for value in ["repeat", "fail", {"outcome": {"number": 1}}])


def test_an_answer_that_the_type_refuses_fails_the_agent_and_a_retry_asks_again(
    replays: Replays, person: Person, till: Till
) -> None:
    class Even(BaseModel):
        number: int

        def model_post_init(self, context: Any) -> None:
            del context
            if self.number % 2:
                raise ValueError("it is odd")

    def pay() -> Even:
        till(1, "")
        return Even(number=2)

    pay.__annotations__["return"] = Even

    def agent(ctx: Context) -> int:
        return ctx.step(pay, at_most_once=True, uncertain="ask").number

    killed(replays, agent)
    asks(replays, agent)
    person.answer({"outcome": {"number": 3}})
    with pytest.raises(OutputInvalid, match="odd"):
        replays.run(agent)
    asks(replays, agent)
    person.answer({"outcome": {"number": 4}})
    assert replays.run(agent) == 4


def test_an_agent_that_is_changed_to_ask_asks_about_what_began_before(replays: Replays, till: Till) -> None:
    killed(replays, lambda ctx: ctx.step(till, 12, at_most_once=True))
    with pytest.raises(EffectUncertain):
        replays.run(lambda ctx: ctx.step(till, 12, at_most_once=True))
    asks(replays, lambda ctx: ctx.step(till, 12, at_most_once=True, uncertain="ask"))
    with pytest.raises(NondeterminismError):
        replays.run(lambda ctx: ctx.step(till, 13, at_most_once=True, uncertain="ask"))


def test_what_was_begun_and_is_forgotten_leaves_no_question_behind(
    replays: Replays, agent: Agent, person: Person
) -> None:
    killed(replays, agent)
    asks(replays, agent)
    person.answer("fail")
    with pytest.raises(EffectUncertain):
        replays.run(agent)
    asks(replays, agent)
    replays.epoch += 1
    claim = Claim(replays.id, "task", 0, "agent", replays.epoch, 0, 0, replays.id, replays.id, "null", None)
    replays.journal.void(claim, [Slot("", 1)])
    assert replays.run(agent) == ["Receipt", 12, 5]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [({"uncertain": "ask"}, "add at_most_once=True"), ({"uncertain": "guess", "at_most_once": True}, "neither")],
)
def test_what_makes_no_sense_is_refused(replays: Replays, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputInvalid, match=complaint):
        replays.run(lambda ctx: ctx.step(len, "", **given))


def sleeps(ctx: Context) -> None:
    ctx.sleep(0)


def asks_inside(ctx: Context) -> None:
    ctx.ask("Shall it?")


@pytest.mark.parametrize("wait", [sleeps, asks_inside])
def test_a_step_that_may_happen_once_cannot_wait_inside(replays: Replays, wait: Callable[[Context], Any]) -> None:
    def outer(ctx: Context) -> Any:
        return ctx.step(lambda: ctx.step(lambda: wait(ctx)), at_most_once=True)

    with pytest.raises(InputInvalid, match="cannot wait"):
        replays.run(outer)
