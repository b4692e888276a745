"""Model calls that are seen: through failures and fallbacks the answer is the same as without, and so is what is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar, cast

import pytest

from orchestrator.clock import agent_run_id, ids
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.piece import whole
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ClaimLost, DatabaseUnavailable, ModelRefused
from orchestrator.observability.redact import redactor
from orchestrator.store.agent_runs import Claim
from orchestrator.store.ledger import Ledger
from orchestrator.store.streams import Addition, Streams
from worker.calls.desk import Desk
from worker.calls.models import Models
from worker.calls.place import Place
from worker.calls.turns import Turns
from worker.effects.progress import Progress
from worker.limits.lease import LeaseKeeper
from worker.limits.memory import MemoryLimiter
from worker.llm.base import BaseLLMProvider, Delta, LLMRequest, LLMResponse
from worker.llm.message import Message
from worker.llm.providers import Providers
from worker.streams.flusher import Flusher
from worker.streams.show import Show, ShownAnswers

T = TypeVar("T")
SLOT = Slot("", 0)


class Speaker(BaseLLMProvider):
    """Says its parts one by one; the last one may be a failure."""

    metered = False

    def __init__(self, *parts: str | Exception) -> None:
        self.parts = parts
        self.closed = False

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Speaker:
        return cls()

    def invoke(self, request: LLMRequest) -> LLMResponse:
        *_, response = self.invoke_streaming(request)
        assert isinstance(response, LLMResponse)
        return response

    def invoke_streaming(self, request: LLMRequest) -> Generator[Delta | LLMResponse]:
        try:
            for part in self.parts:
                if isinstance(part, Exception):
                    raise part
                yield Delta(text=part)
            text = "".join(map(str, self.parts))
            yield LLMResponse(text=text, model=request.model, usage=Usage(model_calls=1), stop_reason="end_turn")
        finally:
            self.closed = True

    async def invoke_streaming_async(self, request: LLMRequest) -> AsyncGenerator[Delta | LLMResponse]:
        for piece in self.invoke_streaming(request):
            yield piece

    def close(self) -> None: ...


class Shelf:
    """What is stored; it fails as it is told to, once for each."""

    def __init__(self) -> None:
        self.kept: dict[str, Addition] = {}
        self.failures: list[Exception] = []
        self.earlier = ""
        self.lost = False

    def shown(self, agent_run_id: str, slot: str) -> str:
        return self.earlier

    def add(self, addition: Addition) -> bool:
        return self.add_all([addition])[0]

    def add_all(self, additions: Sequence[Addition]) -> list[bool]:
        if self.failures:
            raise self.failures.pop(0)
        if not self.lost:
            self.kept |= {added.id: added for added in additions if added.id not in self.kept}
        return [not self.lost] * len(additions)

    @property
    def pieces(self) -> list[tuple[int, str, bool]]:
        return [(added.piece.start, added.piece.text, added.piece.restarted) for added in self.kept.values()]


class Scene:
    """One execution that asks `first:m`, then `second:m`; nothing is stored before the end unless the test flushes."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.speakers: dict[str, Speaker] = {}
        self.epoch = 1
        self.flusher = Flusher(self.shelf.add_all)
        self.flusher.close()  # the test flushes
        self.desk = Desk(
            cast("Providers", self),
            MemoryLimiter(),
            cast("Ledger", None),
            LeaseKeeper(MemoryLimiter()),
            Turns(1),
            most_tries=3,
            moment_seconds=1.0,
        )

    def providers_for(self, model: str) -> tuple[Speaker]:
        return (self.speakers[model.partition(":")[0]],)

    def patiently(self, work: Callable[[], T]) -> T:
        while True:
            try:
                return work()
            except DatabaseUnavailable:
                continue

    def models(self) -> Models:
        identity = agent_run_id(ids.new(), 0)
        claim = Claim(identity, "t", 0, "poet", self.epoch, 0, 0, identity, identity, "null", None)
        show = Show(cast("Streams", self.shelf), redactor({}), self.flusher)
        return Models(self.desk, Place(claim, "acme", "press"), self, ShownAnswers(show, claim, self))

    def ask(self, how: str, *, stream: bool = True) -> LLMResponse:
        request = LLMRequest(
            model="first:m",
            messages=(Message(role="user", content="Ships?"),),
            fallbacks=("second:m",) if "second" in self.speakers else (),
            stream=stream,
        )
        if how == "thread":
            return self.models().call(request, SLOT, Progress())

        async def in_thread(work: Callable[[], Any]) -> Any:
            return await asyncio.to_thread(work)

        return asyncio.run(self.models().call_async(request, SLOT, Progress(), in_thread))


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture(params=["thread", "loop"])
def how(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_answer_is_the_same_and_is_shown_before_anybody_has_it(scene: Scene, how: str) -> None:
    speaker = scene.speakers["first"] = Speaker("Ships ", "carry ", "salt.")
    assert scene.ask(how) == scene.ask(how, stream=False)
    assert whole(added.piece for added in scene.shelf.kept.values()) == "Ships carry salt."
    assert speaker.closed


def test_a_fallback_that_answers_otherwise_takes_back_what_was_shown_of_the_first_model(scene: Scene, how: str) -> None:
    class Stopping(Speaker):
        def invoke_streaming(self, request: LLMRequest) -> Generator[Delta | LLMResponse]:
            for piece in super().invoke_streaming(request):
                yield piece
                scene.flusher.flush()

    scene.speakers = {
        "first": Stopping("Ships ", "carry ", ModelRefused("no more")),
        "second": Speaker("Ships ", "car", "go."),
    }
    assert scene.ask(how).text == "Ships cargo."
    assert scene.shelf.pieces == [(0, "Ships ", False), (6, "carry ", False), (9, "go.", True)]


def test_of_a_later_claim_only_what_was_not_shown_is_told(scene: Scene, how: str) -> None:
    scene.speakers["first"] = Speaker("Ships ", "carry ", "salt.")
    scene.epoch, scene.shelf.earlier = 2, "Ships car"
    scene.ask(how)
    assert scene.shelf.pieces == [(9, "ry salt.", False)]


def test_a_database_that_is_away_at_the_end_is_waited_for(scene: Scene, how: str) -> None:
    scene.speakers["first"] = Speaker("Ships.")
    scene.shelf.failures = [DatabaseUnavailable("gone"), DatabaseUnavailable("gone")]
    assert scene.ask(how).text == "Ships."
    assert scene.shelf.pieces == [(0, "Ships.", False)]


def test_whatever_goes_wrong_with_showing_it_the_answer_is_there(scene: Scene, how: str) -> None:
    scene.speakers["first"] = Speaker("Ships.")
    scene.shelf.failures = [ValueError("broken")]
    assert scene.ask(how).text == "Ships."
    assert scene.shelf.pieces == []


def test_an_execution_that_may_not_go_on_is_told_so(scene: Scene, how: str) -> None:
    scene.speakers["first"] = Speaker("Ships.")
    scene.shelf.failures = [ClaimLost("the database was away for too long")]
    with pytest.raises(ClaimLost):
        scene.ask(how)


def test_who_has_lost_the_claim_shows_nothing_and_gets_the_answer_all_the_same(scene: Scene, how: str) -> None:
    scene.speakers["first"] = Speaker("Ships.")
    scene.shelf.lost = True
    assert scene.ask(how).text == "Ships."
    assert scene.shelf.pieces == []


def test_a_provider_that_ends_without_a_response_is_named(scene: Scene, how: str) -> None:
    class Mute(Speaker):
        def invoke_streaming(self, request: LLMRequest) -> Generator[Delta | LLMResponse]:
            yield Delta(text="Ships")

    scene.speakers["first"] = Mute()
    with pytest.raises(TypeError, match=r"Mute\.invoke_streaming has given no response last"):
        scene.ask(how)
