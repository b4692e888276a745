"""The order of a model call, step by step: what is asked of whom, and what becomes of the answer. Nothing is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from asking import Server

from orchestrator.clock import agent_run_id, ids, system_clock
from orchestrator.contracts.budget import Call, Capped, Reserved
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.usage import Usage
from orchestrator.errors import (
    BudgetExceeded,
    DatabaseUnavailable,
    LimiterUnavailable,
    ModelCapabilityError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
)
from orchestrator.store.agent_runs import Claim
from orchestrator.store.ledger import Ledger
from orchestrator.store.tables import model_call
from worker.calls.breaker import Breakers
from worker.calls.desk import Desk
from worker.calls.flow import Do, Limit, Send, Step, Turn, answered
from worker.calls.place import Place
from worker.calls.turns import Turns
from worker.effects.base import drive
from worker.effects.progress import NotYet, Progress
from worker.limits.base import Acquire, Bucket, Dimension, Freeze, Granted, Release, Settle, Wait
from worker.limits.lease import LeaseKeeper
from worker.limits.memory import MemoryLimiter
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.catalogue import Catalogue
from worker.llm.message import Image, Message, ToolSpec
from worker.llm.providers import Providers

SLOT = Slot("", 3)
MODEL, OTHER = "openai:gpt-5-mini", "anthropic:claude-haiku-4-5"
USAGE = Usage(model_calls=1, input_tokens=1_000_000, output_tokens=1_000_000)
BUCKET = Bucket("all", Dimension.REQUESTS, 60)


class Book:
    """A ledger that notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Any]] = []
        self.answers: list[Reserved | Capped | Exception] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def told(call: Call, *given: Any) -> Any:
            self.lines.append((name, given[0] if given else call.attempt))
            answer = self.answers.pop(0) if name == "reserve" and self.answers else Reserved()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return told

    @property
    def told(self) -> list[str]:
        return [name for name, _ in self.lines]


class Scene:
    """One call, and everybody who takes part in it; `steps` are the names of what was asked for."""

    def __init__(self, *, keys: int = 1) -> None:
        self.book = Book()
        self.servers = {
            name: tuple(Server(name, f"{name}-{key}") for key in range(keys)) for name in ("openai", "anthropic")
        }
        self.epoch = 1
        self.run = ids.new()
        self.desk = Desk(
            cast("Providers", self),
            MemoryLimiter(),
            cast("Ledger", self.book),
            LeaseKeeper(MemoryLimiter()),
            Turns(1),
            most_tries=3,
            moment_seconds=1.0,
            breakers=Breakers(failures=4),
        )
        self.catalogue = Catalogue.load()
        self.steps: list[str] = []
        self.limits: list[Any] = []
        self.sent: list[tuple[str, str]] = []
        #: What is answered, in order; by default: granted, a turn, an answer.
        self.granting: list[Wait | Exception | int] = []
        self.settling: list[Exception] = []
        self.replies: list[LLMResponse | Exception] = []
        self.turn = True

    def providers_for(self, model: str) -> tuple[Server, ...]:
        return self.servers[model.partition(":")[0]]

    def ask(self, *, progress: Progress | None = None, fallbacks: tuple[str, ...] = (), **more: Any) -> LLMResponse:
        said = (Message(role="user", content="Hello"),)
        given: dict[str, Any] = {"messages": said, "max_output_tokens": 100, **more}
        request = LLMRequest(model=MODEL, fallbacks=fallbacks, **given)
        identity = agent_run_id(self.run, 0)
        claim = Claim(identity, "t", 0, "poet", self.epoch, 0, 0, self.run, self.run, "null", None)
        place = Place(claim, "acme", "press")
        return drive(answered(self.desk, place, request, SLOT, progress or Progress()), self._do)

    def not_yet(self, **given: Any) -> NotYet:
        with pytest.raises(NotYet) as caught:
            self.ask(**given)
        return caught.value

    def _do(self, step: Step) -> Any:
        match step:
            case Turn():
                self.steps.append("turn")
                return self.turn and self.desk.turns.take().done()
            case Do(work):
                self.steps.append("database")
                return work()
            case Limit(request):
                self.steps.append(type(request).__name__.lower())
                self.limits.append(request)
                return self._limit(request)
            case Send(provider, request):
                self.steps.append("send")
                self.sent.append((provider.credential, request.model))
                return self._reply(request)

    def _limit(self, request: Any) -> Any:
        if isinstance(request, Acquire):
            answer = self.granting.pop(0) if self.granting else 0
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, Wait) else Granted(request.ticket, request.demands[answer], answer)
        if self.settling:
            raise self.settling.pop(0)
        return None

    def _reply(self, request: LLMRequest) -> LLMResponse:
        answer = self.replies.pop(0) if self.replies else _said(request.model)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def tickets(self) -> list[str]:
        return [each.ticket for each in self.limits if isinstance(each, Acquire)]


def _said(model: str) -> LLMResponse:
    return LLMResponse(text="Hi", model=model, usage=USAGE, stop_reason="end_turn", request_id="req-1")


def failed(kind: type[ModelError] = ModelUnavailable, **details: Any) -> ModelError:
    return kind("it is down", details=details)


def capped(**changes: Any) -> Capped:
    given: dict[str, Any] = {
        "scope": "project/press", "period": "day", "on_cap": "pause", "settling": False, "limit_nanousd": 100,
        "left_nanousd": 5, "needed_nanousd": 10, "resets_seconds": 3600.0,
    }  # fmt: skip
    return Capped(**{**given, **changes})


@pytest.fixture
def scene() -> Scene:
    return Scene()


# An answer ------------------------------------------------------------------------------------------------------------


def test_a_call_has_its_turn_its_limits_and_its_money_before_it_is_sent_and_is_paid_for_after(scene: Scene) -> None:
    response = scene.ask()
    assert scene.steps == ["turn", "acquire", "database", "send", "database", "settle"]
    assert scene.book.told == ["reserve", "settle"], "two statements, not more"
    assert scene.desk.turns.take().done(), "its turn is free again"
    price = scene.catalogue.price_of(MODEL, system_clock.now())
    assert price is not None
    assert response.usage.cost_nanousd == price.cost(USAGE) > 0
    [(_, worst), (_, bill)] = scene.book.lines
    assert worst > 0
    assert (bill.cost_nanousd, bill.request_id, bill.price) == (price.cost(USAGE), "req-1", price.told())
    settled = scene.limits[-1]
    assert isinstance(settled, Settle)
    assert settled.used[Dimension.OUTPUT_TOKENS] == 1_000_000


def test_what_needs_no_server_costs_nobody_a_question(scene: Scene) -> None:
    scene.servers["openai"][0].metered = False
    assert scene.ask().text == "Hi"
    assert scene.steps == ["send"]


def test_a_model_without_a_price_is_told_to_the_ledger_as_that(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.catalogue, "price_of", lambda _model, _at: None)  # pyright: ignore[reportUnknownLambdaType]
    assert scene.ask().usage.unpriced_calls == 1
    [(_, worst), (_, bill)] = scene.book.lines
    assert (worst, bill.cost_nanousd) == (None, None)


# Waiting --------------------------------------------------------------------------------------------------------------


def test_a_call_that_has_to_wait_keeps_its_place_over_the_next_claim_and_holds_nothing_else(scene: Scene) -> None:
    scene.granting = [Wait(30, BUCKET, "rate")]
    later = scene.not_yet()
    assert later.seconds == 30
    assert "requests_per_minute" in later.waiting_for
    assert scene.book.told == []
    assert scene.desk.turns.take().done()
    scene.desk.turns.leave()
    scene.epoch = 2
    scene.ask(progress=Progress.of(list(later.progress)))
    assert scene.tickets[0] == scene.tickets[1]


def test_a_place_that_another_claim_may_have_used_is_not_used_again(scene: Scene) -> None:
    scene.granting = [Wait(30, BUCKET, "rate")]
    progress = scene.not_yet().progress
    scene.epoch = 3
    scene.ask(progress=progress)
    assert scene.tickets[0] != scene.tickets[1]


def test_without_a_turn_in_its_process_nothing_is_asked(scene: Scene) -> None:
    scene.turn = False
    scene.not_yet()
    assert scene.steps == ["turn"]


def test_while_the_limits_cannot_be_asked_no_call_is_made(scene: Scene) -> None:
    scene.granting = [LimiterUnavailable("away", retry_after=5.0)]
    later = scene.not_yet()
    assert (later.seconds, scene.sent) == (5.0, [])


@pytest.mark.parametrize("moment", [0.1, 1.0, 30.0])
def test_who_waits_for_limits_that_are_away_or_for_a_turn_waits_for_longer_than_a_moment(
    scene: Scene, moment: float
) -> None:
    scene.desk = replace(scene.desk, moment_seconds=moment)
    scene.granting = [LimiterUnavailable("away", retry_after=1.0)]
    away = scene.not_yet()
    scene.turn = False
    turn = scene.not_yet()
    assert [each.seconds for each in (away, turn)] == [moment + 1, moment + 1], "and so holds no slot"
    assert (away.reason, turn.reason) == ("limiter_away", "turn")


def test_limits_that_are_away_after_a_call_do_not_take_its_answer(scene: Scene) -> None:
    scene.settling = [LimiterUnavailable("away")]
    assert scene.ask().text == "Hi"


@pytest.mark.parametrize(
    ("answer", "seconds"), [(capped(), 3600.0), (capped(resets_seconds=None), None), (capped(settling=True), 1.0)]
)
def test_a_budget_in_the_way_gives_the_place_back_and_waits(
    scene: Scene, answer: Capped, seconds: float | None
) -> None:
    scene.book.answers = [answer]
    later = scene.not_yet()
    assert later.seconds == seconds
    assert "project/press" in later.waiting_for
    assert ("nightfleet budgets raise project/press +USD --period day" in later.waiting_for) is not answer.settling
    assert [type(each) for each in scene.limits] == [Acquire, Release]
    assert scene.sent == []
    scene.epoch = 2
    scene.ask(progress=later.progress)
    assert len(set(scene.tickets)) == 2, "the place that was given back is not asked for again"


def test_who_finds_the_money_in_flight_a_second_time_lets_itself_be_woken(scene: Scene) -> None:
    scene.book.answers = [capped(settling=True)] * 2
    first = scene.not_yet()
    assert first.seconds == 1.0, "most calls are over in a moment"
    again = scene.not_yet(progress=first.progress).seconds
    assert again is not None
    assert again >= 30, "longer than any wait that keeps a slot"


def test_a_budget_that_fails_what_it_stops_does_so_before_the_call(scene: Scene) -> None:
    scene.book.answers = [capped(on_cap="fail")]
    with pytest.raises(BudgetExceeded, match="nightfleet budgets raise project/press"):
        scene.ask()
    assert [type(each) for each in scene.limits] == [Acquire, Release]


def test_a_reservation_that_fails_gives_the_place_back(scene: Scene) -> None:
    scene.book.answers = [DatabaseUnavailable("away for too long")]
    with pytest.raises(DatabaseUnavailable):
        scene.ask()
    assert [type(each) for each in scene.limits] == [Acquire, Release]


def test_a_budget_that_warns_is_told_in_the_log_also_where_lines_about_agent_runs_are_not_shown(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.book.answers = [Reserved(5, ("user/ada",))]
    scene.ask()
    [line] = caplog.records
    assert line.name == "nightfleet.budgets"
    assert "user/ada" in line.getMessage()


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_call_that_nobody_knows_the_end_of_stays_paid_for_and_used(scene: Scene) -> None:
    scene.replies = [failed(billed="unknown", request_id="req-9")]
    scene.not_yet()
    assert scene.book.lines[-1] == ("unknown", "req-9")
    settled = scene.limits[-1]
    assert isinstance(settled, Settle)
    assert settled.used == {}


def test_a_call_that_was_not_billed_gives_everything_back(scene: Scene) -> None:
    scene.replies = [failed(billed="no")]
    scene.not_yet()
    assert scene.book.told[-1] == "release"
    assert set(scene.limits[-1].used.values()) == {0.0}


def test_a_call_that_never_reached_its_server_takes_nothing_of_any_limit(scene: Scene) -> None:
    scene.replies = [failed(billed="no", reason="connection")]
    scene.not_yet()
    assert scene.book.told[-1] == "release"
    assert isinstance(scene.limits[-1], Release)


def test_a_model_that_fails_is_tried_again_so_often_and_each_try_is_another_call(scene: Scene) -> None:
    scene.replies = [failed(billed="no") for _ in range(3)]
    first = scene.not_yet()
    second = scene.not_yet(progress=first.progress)
    assert first.seconds is not None
    assert 0 < first.seconds <= 30
    with pytest.raises(ModelUnavailable):
        scene.ask(progress=second.progress)
    assert [attempt for name, attempt in scene.book.lines if name == "release"] == [0, 1, 2]
    assert len(set(scene.tickets)) == 3


def test_a_provider_that_asks_to_wait_is_obeyed_by_all_and_that_is_no_failure(scene: Scene) -> None:
    scene.replies = [failed(ModelRateLimited, billed="no", pause="bucket")]
    scene.replies[0].retry_after = 7.0  # pyright: ignore[reportAttributeAccessIssue]
    later = scene.not_yet()
    freeze = scene.limits[-1]
    assert isinstance(freeze, Freeze)
    assert (freeze.seconds, freeze.over_limit, later.seconds) == (7.0, True, 7.0)
    assert later.progress.tries == 0


def test_an_overloaded_provider_is_left_alone_by_all_without_a_doubt_about_the_limit(scene: Scene) -> None:
    scene.replies = [failed(billed="no", pause="bucket")]
    later = scene.not_yet()
    assert (scene.limits[-1].over_limit, later.progress.tries) == (False, 1)


def test_what_no_try_can_help_is_raised_at_once(scene: Scene) -> None:
    scene.replies = [failed(ModelRefused, pause="job", reason="money")]
    with pytest.raises(ModelRefused):
        scene.ask()
    assert scene.book.told[-1] == "release"


def test_a_key_that_is_refused_makes_room_for_the_next_and_is_left_alone() -> None:
    scene = Scene(keys=2)
    scene.replies = [failed(ModelRefused, pause="credential")]
    assert scene.ask().text == "Hi"
    scene.ask()
    assert [credential for credential, _ in scene.sent] == ["openai-0", "openai-1", "openai-1"]
    scene.replies = [failed(ModelRefused, pause="credential")]
    for _ in range(2):
        with pytest.raises(ModelRefused, match="it is down"):
            scene.ask()
    assert len(scene.sent) == 4, "without a key that may work nothing is sent"


def test_a_fallback_answers_where_the_model_cannot(scene: Scene) -> None:
    scene.replies = [failed(ModelRefused)]
    assert scene.ask(fallbacks=(OTHER,)).model == OTHER
    assert [model for _, model in scene.sent] == [MODEL, OTHER]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tools": (ToolSpec(name="dive", parameters={"type": "object"}),)}, "calls no tools.*`tools = true`"),
        ({"messages": (Message(role="user", content=(Image.of(b"..."),)),)}, "sees no images.*`images = true`"),
    ],
)
def test_a_model_is_not_asked_what_it_cannot_do(more: Any, said: str, scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'[[profiles]]\nmodel = "{MODEL}"\ntools = false\nimages = false\n')
    scene.catalogue = Catalogue.load(file)
    assert scene.ask(fallbacks=(OTHER,), **more).model == OTHER
    assert [model for _, model in scene.sent] == [OTHER]
    with pytest.raises(ModelCapabilityError, match=said):
        scene.ask(**more)
    assert scene.ask().model == MODEL


def test_the_last_fallback_says_what_is_wrong(scene: Scene) -> None:
    scene.replies = [failed(ModelRefused), failed(ModelRefused)]
    with pytest.raises(ModelRefused):
        scene.ask(fallbacks=(OTHER,))


def test_a_fallback_that_waits_is_asked_again_and_not_the_first_model(scene: Scene) -> None:
    scene.replies = [failed(ModelRefused)]
    scene.granting = [0, Wait(9, BUCKET, "rate")]
    later = scene.not_yet(fallbacks=(OTHER,))
    scene.ask(fallbacks=(OTHER,), progress=later.progress)
    assert [model for _, model in scene.sent] == [MODEL, OTHER]


def test_a_server_that_has_failed_again_and_again_is_left_alone_and_a_fallback_answers_at_once(scene: Scene) -> None:
    for _ in range(2):
        scene.replies = [failed(billed="no") for _ in range(2)]
        progress = scene.not_yet().progress
        scene.not_yet(progress=progress)
    later = scene.not_yet()
    assert "again and again" in later.waiting_for
    assert len(scene.sent) == 4
    assert scene.ask(fallbacks=(OTHER,)).model == OTHER


def test_requests_and_waits_are_counted_for_whoever_looks(scene: Scene) -> None:
    scene.replies = [failed(billed="no", reason="server"), _said(MODEL)]
    scene.not_yet()
    scene.ask()
    counts = scene.desk.tallies.counts()
    assert counts.calls == {(MODEL, "server"): 1, (MODEL, "answered"): 1}
    assert counts.tokens == {(MODEL, "input"): 1_000_000, (MODEL, "output"): 1_000_000}
    assert counts.nanousd[MODEL] > 0


def test_a_failure_of_a_provider_that_is_none_of_ours_keeps_what_was_reserved(scene: Scene) -> None:
    scene.replies = [ValueError("a provider of another distribution")]
    with pytest.raises(ValueError, match="another distribution"):
        scene.ask()
    assert scene.book.lines[-1] == ("unknown", 0), (
        "held by nobody, it would keep others waiting for as long as the agent lives"
    )
    settled = scene.limits[-1]
    assert isinstance(settled, Settle)
    assert settled.used == {}
    assert scene.desk.tallies.counts().calls == {(MODEL, "failed"): 1}


def test_a_server_that_is_left_alone_leaves_the_call_to_the_others_of_its_name(scene: Scene) -> None:
    first, second = Server("here", "key-1"), Server("there", "key-2")
    scene.servers["openai"] = (first, second)
    for _ in range(4):
        scene.desk.breakers.failed("here")
    assert scene.ask().text == "Hi"
    assert scene.sent == [("key-2", MODEL)]
    for _ in range(4):
        scene.desk.breakers.failed("there")
    assert "again and again" in scene.not_yet().waiting_for


def test_the_name_of_a_place_does_not_grow_with_the_times_that_a_budget_was_in_the_way(scene: Scene) -> None:
    progress = Progress()
    for _ in range(12):
        scene.book.answers = [capped(settling=True)]
        progress = scene.not_yet(progress=progress).progress
    assert len(set(scene.tickets)) == 12
    assert len(progress.ticket) <= len(scene.tickets[0]) + 3


@pytest.mark.parametrize("reply", [None, failed(billed="no"), failed(pause="bucket"), ValueError("whatever")])
def test_a_place_is_renewed_while_its_call_is_in_flight_and_no_more_when_it_is_given_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, reply: Exception | None
) -> None:
    held: list[tuple[str, int]] = []

    class Noting(list[Any]):
        """Notes how many places are kept while something is asked for."""

        def append(self, what: Any) -> None:
            held.append((str(what), scene.desk.leases.renew()))

    monkeypatch.setattr(scene, "steps", Noting())
    scene.replies = [] if reply is None else [reply]
    with nullcontext() if reply is None else pytest.raises((NotYet, ValueError)):
        scene.ask()
    told = [kept for name, kept in held if name not in {"turn", "database"}]
    assert told == [0, 1, 0], "it is asked for, sent, and given back"


def test_a_desk_lets_go_of_the_connections_of_a_loop_to_providers_and_limits_alike() -> None:
    gone: list[str] = []

    class Far(MemoryLimiter):
        async def aclose(self) -> None:
            gone.append("limits")

    class Connected(Providers):
        async def aclose(self) -> None:
            gone.append("providers")

    limiter = Far()
    book = cast("Ledger", Book())
    asyncio.run(Desk(Connected({}), limiter, book, LeaseKeeper(limiter), Turns(1), 3, 1.0).aclose())
    assert sorted(gone) == ["limits", "providers"]


def test_the_ledger_can_keep_the_alias_of_a_key_however_long_a_provider_makes_it() -> None:
    run = ids.new()
    claim = Claim(agent_run_id(run, 0), "t", 0, "poet", 1, 0, 0, run, run, "null", None)
    call = Place(claim, "acme", "press").call(SLOT, 0, MODEL, Server("mine", "the-key-of-the-house-in-the-north"))
    assert call.credential == "the-key-of-the-h"
    assert f"VARCHAR({len(call.credential)})" == str(model_call.c.credential.type)
