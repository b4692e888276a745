"""Tools whose service is asked only so often: what waits, where it goes on, and what happens at most once all the same."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError
from replays import Killed, Replays

from orchestrator.clock import agent_run_id, ids, system_clock
from orchestrator.contracts.effect import EntryState, Slot
from orchestrator.contracts.question import Inquiry, Reply
from orchestrator.errors import EffectUncertain, LimiterUnavailable
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context, ServiceLimit, ToolError, tool
from worker.calls.place import Place
from worker.calls.services import Services
from worker.effects.progress import NotYet, Progress
from worker.isolation.serving import Serving
from worker.limits.base import Look, Request, State
from worker.limits.lease import LeaseKeeper
from worker.limits.memory import MemoryLimiter
from worker.llm.message import ToolCall
from worker.loop.calling import Toolbox, called
from worker.loop.steps import run, run_async

LIMIT = ServiceLimit(service="maps", requests_per_minute=60)
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
    """Lets a service be asked only after so many have been told to come back; `told` holds how far each call had come."""

    def __init__(self, replays: Replays, *waits: NotYet) -> None:
        self.waits = list(waits)
        self.told: list[Progress] = []
        self.inside = 0
        replays.desk.admitted = self.admitted

    @contextmanager
    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> Generator[None]:
        assert limit == LIMIT
        self.told.append(progress)
        if self.waits:
            raise self.waits.pop(0)
        self.inside += 1
        yield
        self.inside -= 1


@pytest.fixture
def replays() -> Replays:
    made = Replays()
    made.events = Clock()
    return made


class Service:
    """A tool, as a sync and as an async agent calls it; `keys` holds the key of each call."""

    def __init__(self, *, at_most_once: bool = False, fails: BaseException | None = None) -> None:
        self.keys: list[str] = []
        self.fails = fails

        @tool(limit=LIMIT, at_most_once=at_most_once)
        def locate(place: str, idempotency_key: str) -> str:
            self.keys.append(idempotency_key)
            if self.fails is not None:
                raise self.fails
            return f"{place} is here"

        self.box = Toolbox({"locate": locate})

    def sync(self, ctx: Context) -> str:
        return run(called(WISH, self.box), ctx._driver, ctx).text  # pyright: ignore[reportPrivateUsage]

    async def awaited(self, ctx: AsyncContext) -> str:
        return (await run_async(called(WISH, self.box), ctx._driver, ctx)).text  # pyright: ignore[reportPrivateUsage]


WISH = ToolCall(id="1", name="locate", arguments='{"place": "Oslo"}')
both = pytest.mark.parametrize("way", ["sync", "awaited"])


@both
def test_a_call_that_may_be_made_is_made_inside_of_its_place(replays: Replays, way: str) -> None:
    service, line = Service(), Line(replays)
    assert replays.run(getattr(service, way)) == "Oslo is here"
    assert (line.told, line.inside) == ([Progress()], 0)
    assert replays.run(getattr(service, way)) == "Oslo is here"
    assert len(service.keys) == len(line.told) == 1, "what is recorded asks nobody"


@both
def test_a_long_wait_lets_go_of_the_slot_and_goes_on_from_where_it_was(replays: Replays, way: str) -> None:
    service, line = Service(at_most_once=True), Line(replays, NotYet(60.0, "waits for service:maps", PLACE))
    suspended = replays.suspended(getattr(service, way))
    assert "service:maps" in suspended.waiting_for
    [entry] = replays.entries
    assert (entry.state, entry.outcome) == (EntryState.BEGUN, list(PLACE))
    assert service.keys == []
    assert replays.run(getattr(service, way)) == "Oslo is here"
    assert line.told == [Progress(), PLACE]


@both
def test_a_short_wait_stays_in_the_process(replays: Replays, way: str) -> None:
    service, line = Service(), Line(replays, NotYet(0.01, "waits", PLACE), NotYet(0.01, "and again", PLACE))
    assert replays.run(getattr(service, way)) == "Oslo is here"
    assert line.told == [Progress(), PLACE, PLACE]


def test_a_call_that_may_happen_once_and_has_begun_is_not_repeated(replays: Replays) -> None:
    service = Service(at_most_once=True, fails=Killed())
    line = Line(replays)
    with pytest.raises(Killed):
        replays.run(service.sync)
    service.fails = None
    with pytest.raises(EffectUncertain, match="locate"):
        replays.run(service.sync)
    assert len(service.keys) == len(line.told) == 1


def test_a_call_that_is_repeated_has_the_key_that_it_had(replays: Replays) -> None:
    service = Service(fails=Killed())
    Line(replays)
    with pytest.raises(Killed):
        replays.run(service.sync)
    service.fails = None
    replays.run(service.sync)
    assert len(service.keys) == 2
    assert len(set(service.keys)) == 1


def test_a_tool_that_fails_gives_its_place_back(replays: Replays) -> None:
    service, line = Service(fails=ToolError("closed")), Line(replays)
    line_left: list[int] = []

    @contextmanager
    def admitted(limit: ServiceLimit, slot: Slot, progress: Progress) -> Generator[None]:
        try:
            yield
        finally:
            line_left.append(1)

    replays.desk.admitted = admitted
    assert replays.run(service.sync) == "closed"
    assert (line.told, line_left) == ([], [1])


@pytest.mark.parametrize("way", ["sync", "awaited"])
def test_a_tool_with_the_context_has_its_turn_before_it_and_a_key_that_stays(replays: Replays, way: str) -> None:
    keys: list[str] = []
    line = Line(replays)

    @tool(limit=LIMIT, name="locate")
    def sync(ctx: Context, place: str, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return ctx.step(str.upper, place)

    @tool(limit=LIMIT, name="locate")
    async def awaited(ctx: AsyncContext, place: str, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return await ctx.step(str.upper, place)

    service = Service()
    service.box = Toolbox({"locate": sync if way == "sync" else awaited})
    for _ in range(2):
        assert replays.run(getattr(service, way)) == "OSLO"
    assert len(line.told) == 1
    assert len(keys) == 2
    assert len(set(keys)) == 1


# Within the limiter ---------------------------------------------------------------------------------------------------


class Away(MemoryLimiter):
    def ask(self, request: Request[Any]) -> Any:
        if isinstance(request, Look):
            return super().ask(request)
        raise LimiterUnavailable("the limits cannot be asked", retry_after=1.5)


def services(
    limiter: MemoryLimiter, epoch: int = 1, run_id: str | None = None, longer_than_a_moment: float = 2.0
) -> Services:
    identity = agent_run_id(run_id or ids.new(), 0)
    claim = Claim(identity, "maps", 0, "maps", epoch, 0, 0, identity, identity, "null", None)

    class Desk:
        leases = LeaseKeeper(limiter)

    Desk.longer_than_a_moment = longer_than_a_moment  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    Desk.limiter = limiter  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    return Services(Desk(), Place(claim, "acme", "press"))  # pyright: ignore[reportArgumentType]


def states(limiter: MemoryLimiter) -> dict[str, State]:
    return {state.key: state for state in limiter.ask(Look("service:"))}


def test_a_limit_of_calls_under_way_holds_until_one_has_ended() -> None:
    limiter = MemoryLimiter()
    limit = ServiceLimit(service="maps", concurrency=1)
    with services(limiter).admitted(limit, Slot("", 0), Progress()):
        with pytest.raises(NotYet, match="service:maps/concurrency") as later:
            services(limiter).admitted(limit, Slot("", 0), Progress()).__enter__()
        assert later.value.progress.ticket
    with services(limiter).admitted(limit, Slot("", 0), later.value.progress):
        assert states(limiter)["service:maps/concurrency"].left == 0


def test_requests_beyond_a_limit_are_told_when_to_come_back_and_keep_their_place() -> None:
    now = [0]
    limiter = MemoryLimiter(lambda: now[0])
    limit = ServiceLimit(service="maps", requests_per_minute=60, burst_seconds=1)
    with services(limiter).admitted(limit, Slot("", 0), Progress()):
        pass
    asked = services(limiter)
    with pytest.raises(NotYet, match="service:maps/requests_per_minute") as first:
        asked.admitted(limit, Slot("", 0), Progress()).__enter__()
    now[0] += round(first.value.seconds * 1_000_000) + 1  # type: ignore[operator]
    with asked.admitted(limit, Slot("", 0), first.value.progress):
        pass


def test_a_place_that_an_earlier_claim_may_have_used_is_not_used_again() -> None:
    run_id = ids.new()
    limiter = MemoryLimiter()
    limit = ServiceLimit(service="maps", concurrency=1)
    told: dict[int, Progress] = {}
    with services(limiter).admitted(limit, Slot("", 0), Progress()):
        for epoch in (2, 4):
            with pytest.raises(NotYet) as later:
                services(limiter, epoch=epoch, run_id=run_id).admitted(limit, Slot("", 0), PLACE).__enter__()
            told[epoch] = later.value.progress
    assert told[2].ticket == PLACE.ticket
    assert told[4].ticket != PLACE.ticket
    assert told[4].epoch == 4


def test_where_nobody_can_say_what_the_limits_are_the_call_waits() -> None:
    for longer_than_a_moment, seconds in ((31.0, 31.0), (1.1, 1.5)):
        asked = services(Away(), longer_than_a_moment=longer_than_a_moment)
        with pytest.raises(NotYet, match="cannot be asked") as later:
            asked.admitted(LIMIT, Slot("", 0), Progress()).__enter__()
        assert (later.value.seconds, later.value.reason) == (seconds, "limiter_away")


def test_a_limit_that_limits_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="it limits nothing"):
        ServiceLimit(service="maps")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ServiceLimit(service="maps", requests_per_minute=0.5)


def test_threads_that_ask_together_never_exceed_the_limit() -> None:
    limiter, together = MemoryLimiter(lambda: 0), threading.Barrier(8)
    limit = ServiceLimit(service="maps", requests_per_minute=3)
    passed: list[int] = []

    def ask(number: int) -> None:
        together.wait(60)
        try:
            with services(limiter).admitted(limit, Slot("", number), Progress()):
                passed.append(number)
        except NotYet:
            pass

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(passed) <= 3


def test_what_a_child_holds_at_its_end_is_given_back_and_what_it_is_granted_later_too() -> None:
    limiter = MemoryLimiter()
    limit = ServiceLimit(service="maps", concurrency=1)

    class Host:
        admitted = staticmethod(services(limiter).admitted)

    host: Any = Host()
    claim = Claim(ids.new(), "maps", 0, "maps", 1, 0, 0, ids.new(), ids.new(), "null", None)
    mail: Any = None
    serving = Serving(claim, host, MemoryJournal(), Clock(), mail)
    ask = {"ask": "admit", "limit": limit.model_dump(mode="json"), "slot": ["", 0], "progress": list(Progress())}
    assert "later" not in serving.answer(ask)
    assert states(limiter)["service:maps/concurrency"].left == 0
    [seconds, waiting_for, _] = serving.answer({**ask, "slot": ["", 1]})["later"]
    assert seconds > 0
    assert "service:maps" in waiting_for
    serving.close()
    assert states(limiter)["service:maps/concurrency"].left == 1
    assert "later" not in serving.answer(ask)
    assert states(limiter)["service:maps/concurrency"].left == 1
    assert serving.answer({"ask": "leave", "slot": ["", 0]}) is None
