"""Shared answers in the order of a model call: what is looked up, what is kept, and who lets go. Nothing is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
from asking import Server

from orchestrator.clock import agent_run_id, ids
from orchestrator.contracts.budget import Call, Reserved
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.policy import Limits
from orchestrator.contracts.usage import Usage
from orchestrator.errors import AgentError, BudgetExceeded, ClaimLost, ModelRefused, ModelUnavailable
from orchestrator.journal.encoding import compress, expand
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Claim
from orchestrator.store.ledger import Ledger
from orchestrator.store.model_answers import Answer, Asking, Found, InFlight, ModelAnswers, Taken
from worker.calls.desk import Desk
from worker.calls.flow import Do, Limit, Send, Step, Turn, answered
from worker.calls.place import Place
from worker.calls.sharing import QuestionKeeper, Shelf, key_of
from worker.calls.turns import Turns
from worker.effects.base import Account, drive
from worker.effects.progress import NotYet, Progress
from worker.limits.base import Acquire, Bucket, Dimension, Granted, Wait
from worker.limits.lease import LeaseKeeper
from worker.limits.memory import MemoryLimiter
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.catalogue import Catalogue
from worker.llm.message import Message
from worker.llm.providers import Providers

MODEL, OTHER = "openai:gpt-5-mini", "anthropic:claude-haiku-4-5"
USAGE = Usage(model_calls=1, input_tokens=1_000_000, output_tokens=1_000_000)
DAY, MOMENT = 86_400.0, 1.0
BUCKET = Bucket("all", Dimension.REQUESTS, 60)


class Book:
    """A ledger without a budget in it; notes the ids of calls."""

    def __init__(self) -> None:
        self.reserved: list[str] = []

    def reserve(self, call: Call, worst: int | None) -> Reserved:
        del worst
        self.reserved.append(call.id)
        return Reserved()

    def settle(self, *_: Any) -> bool:
        return True

    release = unknown = settle


class Answers:
    """What is looked up gets the next of `found`, by default the question itself; notes what it is told."""

    def __init__(self) -> None:
        self.found: list[Answer] = []
        self.told: list[str] = []
        self.asked: list[Asking] = []
        self.leases: list[float] = []
        self.kept: list[tuple[bytes, float]] = []
        self.renewed: list[Sequence[Asking]] = []

    def renew(self, asking: Sequence[Asking], lease_seconds: float) -> int:
        assert lease_seconds == 120.0
        self.renewed.append(asking)
        return len(asking)

    def look(self, asking: Asking, *, lease_seconds: float, silence_seconds: float) -> Answer:
        assert silence_seconds == 15.0
        self.told.append("look")
        self.asked.append(asking)
        self.leases.append(lease_seconds)
        return self.found.pop(0) if self.found else Taken()

    def keep(self, asking: Asking, body: bytes, seconds: float) -> bool:
        assert asking == self.asked[-1]
        self.told.append("keep")
        self.kept.append((body, seconds))
        return True

    def leave(self, asking: Asking) -> bool:
        assert asking == self.asked[-1]
        self.told.append("leave")
        return True


class Scene:
    """One call, and everybody who takes part in it."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.book = Book()
        answers = cast("ModelAnswers", self.answers)
        self.servers = {name: Server(name) for name in ("openai", "anthropic")}
        self.questions = QuestionKeeper(answers)
        #: How many questions are kept while the provider is asked.
        self.in_flight = 0
        self.desk = Desk(
            cast("Providers", self),
            MemoryLimiter(),
            cast("Ledger", self.book),
            LeaseKeeper(MemoryLimiter()),
            Turns(1),
            most_tries=3,
            moment_seconds=MOMENT,
            shelf=Shelf(answers, self.questions, DAY, MOMENT, silence_seconds=15.0),
        )
        self.catalogue = Catalogue.load()
        self.steps: list[str] = []
        self.sent: list[str] = []
        #: What is answered, in order; by default: granted, an answer.
        self.granting: list[Wait] = []
        self.replies: list[LLMResponse | Exception] = []

    def providers_for(self, model: str) -> tuple[Server, ...]:
        return (self.servers[model.partition(":")[0]],)

    def ask(self, progress: Progress | None = None, **given: Any) -> LLMResponse:
        run = ids.new()
        claim = Claim(agent_run_id(run, 0), "t", 0, "poet", 1, 0, 0, run, run, "null", None)
        place = Place(claim, "acme", "press")
        return drive(answered(self.desk, place, asking(**given), Slot("", 3), progress or Progress()), self._do)

    def not_yet(self, **given: Any) -> NotYet:
        with pytest.raises(NotYet) as caught:
            self.ask(**given)
        return caught.value

    def _do(self, step: Step) -> Any:
        match step:
            case Turn():
                self.steps.append("turn")
                return self.desk.turns.take().done()
            case Do(work):
                self.steps.append("database")
                return work()
            case Limit(request):
                self.steps.append("limit")
                if not isinstance(request, Acquire):
                    return None
                return self.granting.pop(0) if self.granting else Granted(request.ticket, request.demands[0], 0)
            case Send(_, request):
                self.steps.append("send")
                self.in_flight = self.questions.renew()
                self.sent.append(request.model)
                answer = self.replies.pop(0) if self.replies else said(request.model)
                if isinstance(answer, Exception):
                    raise answer
                return answer


def asking(**given: Any) -> LLMRequest:
    return LLMRequest.model_validate({"model": MODEL, "messages": (Message(role="user", content="Hello"),), **given})


def said(model: str = MODEL, text: str = "Hi", stop_reason: str = "end_turn") -> LLMResponse:
    return LLMResponse(text=text, model=model, usage=USAGE, stop_reason=stop_reason, request_id="req-1")


def kept(response: LLMResponse) -> bytes:
    return compress(response.model_dump_json(exclude_computed_fields=True).encode())


def answer_in(body: bytes) -> LLMResponse:
    return LLMResponse.model_validate_json(expand(body))


@pytest.fixture
def scene() -> Scene:
    return Scene()


# Asking for all -------------------------------------------------------------------------------------------------------


def test_a_call_looks_before_it_has_its_turn_and_its_answer_is_for_all_who_ask_the_same(scene: Scene) -> None:
    response = scene.ask()
    assert scene.steps == ["database", "turn", "limit", "database", "send", "database", "limit", "database"]
    assert scene.answers.told == ["look", "keep"], "two statements beside the ledger's"
    assert response.provenance == "provider"
    assert scene.answers.leases == [120.0]
    [(body, seconds)] = scene.answers.kept
    assert answer_in(body) == response
    assert response.usage.cost_nanousd > 0
    assert seconds == DAY


def test_neither_question_nor_key_is_among_what_is_stored(scene: Scene) -> None:
    scene.ask(messages=(Message(role="user", content="a secret of somebody's"),))
    [asked], [(body, _)] = scene.answers.asked, scene.answers.kept
    assert b"secret" not in expand(body)
    assert asked.call.credential is None
    assert len(asked.key) == 64
    assert "secret" not in repr(asked)


@pytest.mark.parametrize("reply", [said(stop_reason="max_tokens"), said(stop_reason="refusal")])
def test_an_answer_that_is_not_whole_is_for_those_alone_who_wait_for_it(scene: Scene, reply: LLMResponse) -> None:
    scene.replies = [reply]
    scene.ask()
    assert [seconds for _, seconds in scene.answers.kept] == [60.0]


def test_structured_output_that_is_none_is_not_kept_for_long(scene: Scene) -> None:
    for text in ('{"short": 1}', '{"short": '):
        scene.replies = [said(text=text)]
        scene.ask(output_schema={"type": "object"})
    assert [seconds for _, seconds in scene.answers.kept] == [DAY, 60.0]


# An answer that is there ----------------------------------------------------------------------------------------------


def test_an_answer_that_is_there_costs_nothing_and_asks_nobody(scene: Scene) -> None:
    scene.answers.found = [Found(kept(said()), own=False)]
    response = scene.ask()
    assert (response.text, response.provenance, response.usage) == ("Hi", "cache", Usage())
    assert scene.steps == ["database"]


def test_a_question_is_kept_while_its_call_is_in_flight_however_long_and_not_afterwards(scene: Scene) -> None:
    scene.replies = [said(), ModelRefused("no such model")]
    for _ in range(2):
        with suppress(ModelRefused):
            scene.ask()
        assert scene.in_flight == 1
        assert scene.answers.renewed.pop() == (scene.answers.asked[-1],)
        assert scene.questions.renew() == 0


def test_an_answer_that_was_waited_for_says_so(scene: Scene) -> None:
    scene.answers.found = [InFlight(0.5), Found(kept(said()), own=False)]
    later = scene.not_yet()
    response = scene.ask(Progress.of(json.loads(json.dumps(later.progress))))
    assert response.provenance == "flight"
    assert [asked.provenance for asked in scene.answers.asked] == ["cache", "flight"]


def test_an_answer_that_this_very_call_has_paid_for_is_its_own_with_what_it_has_cost(scene: Scene) -> None:
    scene.answers.found = [Found(kept(said()), own=True)]
    assert scene.ask() == said()
    assert scene.sent == []


def test_text_of_any_kind_comes_back_as_it_was(scene: Scene) -> None:
    scene.replies = [said(text="\ud800\x00é" + "long " * 50_000)]
    first = scene.ask()
    [(body, _)] = scene.answers.kept
    assert len(body) < 10_000, "large answers are compressed"
    scene.answers.found = [Found(body, own=False)]
    assert scene.ask().text == first.text


def test_an_answer_of_another_version_is_asked_for_anew(scene: Scene) -> None:
    scene.answers.found = [Found(compress(b'{"words": "Hi"}'), own=False)]
    assert scene.ask().provenance == "provider"
    assert scene.sent == [MODEL]
    [looked] = scene.answers.asked
    assert scene.book.reserved != [looked.call.id], "the ledger has that one as a call that was answered by another"


# Waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "seconds"), [(0.0, 1.0), (59.0, 1.0), (100.0, 10.0), (4_000.0, 30.0)])
def test_who_waits_looks_each_second_and_after_a_minute_more_rarely_without_a_slot(
    scene: Scene, age: float, seconds: float
) -> None:
    scene.answers.found = [InFlight(age)]
    later = scene.not_yet()
    assert later.seconds == seconds
    assert "same question" in later.waiting_for
    assert later.reason == "flight"
    assert (scene.steps, scene.answers.told) == (["database"], ["look"])


@pytest.mark.parametrize(("age", "seconds"), [(0.0, MOMENT + 1), (59.0, 5.9), (4_000.0, 30.0)])
def test_who_waits_for_one_that_has_no_slot_itself_holds_none(scene: Scene, age: float, seconds: float) -> None:
    scene.answers.found = [InFlight(age, waits=True)]
    later = scene.not_yet()
    assert later.seconds == max(seconds, MOMENT + 1)
    assert later.reason == "flight"


def test_a_call_that_waits_for_a_moment_keeps_the_question(scene: Scene) -> None:
    scene.granting = [Wait(30, BUCKET, "rate")]
    later = scene.not_yet()
    assert scene.answers.told == ["look"]
    scene.ask(later.progress)
    assert scene.answers.told == ["look", "look", "keep"]


def test_a_call_that_waits_for_longer_than_others_would_wait_for_it_lets_them_ask(scene: Scene) -> None:
    scene.granting = [Wait(121, BUCKET, "rate")]
    scene.not_yet()
    assert scene.answers.told == ["look", "leave"]


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_call_that_fails_lets_the_next_one_ask(scene: Scene) -> None:
    scene.replies = [ModelRefused("no such model")]
    with pytest.raises(ModelRefused):
        scene.ask()
    assert scene.answers.told == ["look", "leave"]


def test_a_call_that_is_tried_again_keeps_the_question(scene: Scene) -> None:
    scene.replies = [ModelUnavailable("it is down", details={"billed": "no"})]
    scene.not_yet()
    assert scene.answers.told == ["look"]


@pytest.mark.parametrize(("error", "leaves"), [(BudgetExceeded("used up"), True), (ClaimLost("taken over"), False)])
def test_a_budget_that_is_used_up_is_no_other_run_s_and_a_lost_claim_tells_nobody(
    scene: Scene, error: Exception, leaves: bool
) -> None:
    scene.replies = [error]
    with pytest.raises(type(error)):
        scene.ask()
    assert scene.answers.told == ["look", *["leave"] * leaves]


def test_the_answer_of_a_fallback_is_kept_under_its_own_name(scene: Scene) -> None:
    scene.replies = [ModelRefused("no such model")]
    assert scene.ask(fallbacks=(OTHER,)).model == OTHER
    assert scene.answers.told == ["look", "leave", "look", "keep"]
    assert [asked.call.model for asked in scene.answers.asked] == [MODEL, OTHER]
    scene.ask(model=OTHER)
    assert scene.answers.asked[-1].key == scene.answers.asked[1].key


# What is not shared ---------------------------------------------------------------------------------------------------


def test_who_wants_an_answer_of_its_own_neither_looks_nor_leaves_one(scene: Scene) -> None:
    scene.ask(cache=False)
    assert scene.answers.told == []


def test_what_needs_no_server_costs_no_statement(scene: Scene) -> None:
    scene.servers["openai"].metered = False  # pyright: ignore[reportAttributeAccessIssue]
    scene.ask()
    assert scene.steps == ["send"]


def test_an_installation_can_do_without(scene: Scene) -> None:
    assert Desk.of(Settings(), cast("Any", None), cast("Any", None), cast("Any", None)).shelf is not None
    without = Settings(model_cache_ttl=0)  # pyright: ignore[reportArgumentType]
    assert Desk.of(without, cast("Any", None), cast("Any", None), cast("Any", None)).shelf is None


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [
    {"model": OTHER}, {"messages": (Message(role="system", content="Hello"),)}, {"max_output_tokens": 5},
    {"temperature": 0.5}, {"output_schema": {"type": "object"}}, {"sample": 1},
])  # fmt: skip
def test_what_can_change_the_answer_makes_another_question(given: dict[str, Any]) -> None:
    here = [Server("openai")]
    assert key_of(asking(**given), here) != key_of(asking(), here) == key_of(asking(), here)


def test_how_long_to_wait_and_whom_to_ask_otherwise_is_no_part_of_a_question() -> None:
    here = [Server("openai")]
    assert key_of(asking(timeout_seconds=5, fallbacks=(OTHER,)), here) == key_of(asking(), here)


def test_another_server_may_answer_otherwise_and_another_key_does_not() -> None:
    here, there = Server("openai", host="one.example.org"), Server("openai", host="two.example.org")
    assert key_of(asking(), [here]) != key_of(asking(), [there])
    assert key_of(asking(), [here, there]) == key_of(asking(), [there, here, here])


def test_text_of_any_kind_makes_a_key() -> None:
    odd = asking(messages=(Message(role="user", content="\ud800\x00é"),))
    assert len(key_of(odd, [Server("openai")])) == 64


# Samples --------------------------------------------------------------------------------------------------------------


def test_an_agent_that_asks_the_same_again_wants_another_answer_and_the_same_ones_when_it_is_repeated() -> None:
    account = Account(MODEL)
    for _ in range(2):
        account.begin_again()
        samples = [account.begin_call(each).sample for each in (asking(), asking(), asking(temperature=1), asking())]
        assert samples == [0, 1, 0, 2]


def test_a_call_of_its_own_is_no_sample_and_counts_among_the_calls() -> None:
    account = Account(MODEL, Limits(model_calls=2))
    assert account.begin_call(asking(cache=False)).sample == 0
    assert account.begin_call(asking()).sample == 0
    with pytest.raises(AgentError, match="has used its 2 model calls"):
        account.begin_call(asking())
