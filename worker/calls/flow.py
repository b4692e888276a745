"""The order of a model call, written once and without I/O: fallback, cache, turn, key, breaker, limits, budget, request, bill.

A generator yields what is to be done, and its driver does it, in a thread or on an event loop. Whatever makes a call
wait ends it with `NotYet`: then nothing is in flight or reserved, and whoever asks again begins here.

The limits come before the budget: calls wait for limits all the time, and a reservation that waits with them would keep
others from spending what it never needs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NoReturn

from orchestrator.clock import system_clock
from orchestrator.contracts.budget import Bill, Call, Capped, Reserved
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.usage import Usage
from orchestrator.errors import (
    LimiterUnavailable,
    ModelError,
    ModelRateLimited,
    ModelUnavailable,
)
from orchestrator.observability.logging import get_logger
from worker.calls.desk import Desk
from worker.calls.place import Place
from worker.calls.sharing import OtherForm
from worker.effects.progress import NotYet, Progress
from worker.limits.base import Acquire, Dimension, Freeze, Granted, Release, Request, Settle, Wait
from worker.limits.demand import Size, demand_of, seen_in, used_by
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse, most_tokens, request_tokens
from worker.llm.prices import Price, priced
from worker.llm.realcalls import RealModelCall

log = get_logger("nightfleet.worker")
#: What no fate of an agent run tells, so that commands that show those show its lines all the same.
budgets = get_logger("nightfleet.budgets")

#: A provider that asks to wait, and does not say for how long.
_REFUSED_SECONDS = 5.0
#: How long to wait for calls in flight to give back what they do not need of a budget, and from the second time on: then the
#: sweep wakes whom there is room for, and asking again is for those whose expected cost has come down.
_SETTLING_SECONDS = 1.0
_SETTLING_LONG_SECONDS = 30.0
#: How long to wait for a limit that a provider has announced without a time: the limiter says the rest.
_LIMITER_SECONDS = 1.0
_NOTHING: Mapping[Dimension, float] = {
    Dimension.TOKENS: 0.0,
    Dimension.INPUT_TOKENS: 0.0,
    Dimension.OUTPUT_TOKENS: 0.0,
}


@dataclass(frozen=True, slots=True)
class Do:
    """Ask the database."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Limit:
    """Ask the limiter."""

    request: Request[Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """Wait for a turn among the calls of this process; gives whether there is one within a moment."""


@dataclass(frozen=True, slots=True)
class Send:
    """Ask the provider."""

    provider: BaseLLMProvider
    request: LLMRequest


Step = Do | Limit | Turn | Send
Steps = Generator[Step, Any, LLMResponse]


def answered(desk: Desk, place: Place, request: LLMRequest, slot: Slot, progress: Progress) -> Steps:
    """Ask the first model, or one of its fallbacks when that cannot answer."""
    models = (request.model, *request.fallbacks)
    while True:
        model = models[min(progress.model, len(models) - 1)]
        asked = request if model == request.model else request.model_copy(update={"model": model})
        try:
            if asked.tools or asked.shows_images:
                desk.providers.catalogue.profile_of(model).check(asked)
            return (yield from _shared(desk, place, asked, slot, progress))
        except ModelError as error:
            if progress.model + 1 >= len(models):
                raise
            log.warning("falls back to another model", model=models[progress.model + 1], error=error.message)
            progress = progress.of_next_model()


def _shared(desk: Desk, place: Place, request: LLMRequest, slot: Slot, progress: Progress) -> Steps:
    """Give the answer that an equal question has, or ask on behalf of all who ask the same meanwhile."""
    providers = desk.providers.providers_for(request.model)
    sharing = desk.shelf and desk.shelf.sharing(place, request, slot, progress, providers)
    if not sharing:
        return (yield from _asked(desk, place, request, slot, progress))
    found: LLMResponse | None = None
    try:
        found = yield Do(sharing.look)
    except OtherForm:
        progress = progress._replace(sent=progress.sent + 1)
    if found is not None:
        return found
    with sharing.holding():
        try:
            response = yield from _asked(desk, place, request, slot, progress)
        except Exception as error:
            if sharing.leaves(error):
                yield Do(sharing.leave)
            raise
        yield Do(lambda: sharing.keep(response))
        return response


def _asked(desk: Desk, place: Place, request: LLMRequest, slot: Slot, progress: Progress) -> Steps:
    """Ask one model, once for each key that is refused."""
    providers = desk.providers.providers_for(request.model)
    if not providers[0].metered:
        return (yield Send(providers[0], request))
    while True:
        one = _Try(desk, place, request, slot, progress, _reachable(desk, request, progress, providers))
        if not (yield Turn()):
            raise NotYet(desk.longer_than_a_moment, "waits for other model calls of its worker", progress, "turn")
        try:
            return (yield from one.steps())
        except ModelError as error:
            progress = _after(desk, one, error)
        finally:
            desk.turns.leave()


def _reachable(
    desk: Desk, request: LLMRequest, progress: Progress, providers: Sequence[BaseLLMProvider]
) -> Sequence[BaseLLMProvider]:
    """Give those whose key was not refused lately, and whose server has not failed again and again."""
    usable = desk.keys.usable(providers)
    waits = {name: desk.breakers.wait_seconds(name) for name in dict.fromkeys(each.name for each in usable)}
    if found := [each for each in usable if not waits[each.name]]:
        return found
    if progress.model < len(request.fallbacks):
        raise ModelUnavailable(f"{request.model}: its provider has failed again and again, and is left alone")
    name, seconds = min(waits.items(), key=itemgetter(1))
    raise NotYet(seconds, f"waits for {name}, which has failed again and again", progress, "breaker")


def _after(desk: Desk, one: _Try, error: ModelError) -> Progress:
    """Give how far the call is now, where another key may be worth a try at once; raises everything else."""
    sent = one.progress.sent + 1
    progress = Progress(sent, one.progress.model, tries=one.progress.tries)
    if error.pause == "credential" and one.provider is not None:
        desk.keys.refuse(one.provider, error)
        return progress
    if isinstance(error, ModelRateLimited):
        # The limiter knows by now how long that is, for everybody.
        raise NotYet(
            _LIMITER_SECONDS if error.retry_after is None else error.retry_after, _told(error), progress, "limit"
        )
    tries = progress.tries + 1
    if not isinstance(error, ModelUnavailable) or tries >= desk.most_tries:
        raise error
    delay = max(_backoff_seconds(tries), error.retry_after or 0.0)
    raise NotYet(delay, f"tries again: {_told(error)}", progress._replace(tries=tries))


class _Try:
    """One request, from its place in the line to its bill."""

    def __init__(
        self,
        desk: Desk,
        place: Place,
        request: LLMRequest,
        slot: Slot,
        progress: Progress,
        providers: Sequence[BaseLLMProvider],
    ) -> None:
        self._desk = desk
        self._place = place
        self._request = request
        self._slot = slot
        self.progress = progress
        self.providers = providers
        self.provider: BaseLLMProvider | None = None
        catalogue = desk.providers.catalogue
        size = Size(request_tokens(request), request.max_output_tokens)
        self._demands = tuple(
            demand_of(place.caller(request.model, provider), size, catalogue.limits) for provider in providers
        )

    def steps(self) -> Steps:
        granted = yield from self._admitted()
        provider = self.provider = self.providers[granted.choice]
        call = self._place.call(self._slot, self.progress.sent, self._request.model, provider)
        price = self._desk.providers.catalogue.price_of(self._request.model, system_clock.now())
        with self._desk.leases.holding(granted):
            yield from self._reserved(call, price, granted)
            began = system_clock.monotonic()
            try:
                response = yield Send(provider, self._request)
            except ModelError as error:
                self._count(error.reason or error.code, began)
                yield from self._failed(call, granted, error)
                raise
            except RealModelCall:
                # Nothing was sent: no later call of a test waits for it.
                yield Do(lambda: self._desk.ledger.release(call))
                yield from self._ended(granted, Release(granted.ticket, self._demands))
                raise
            except Exception:
                # A provider of another distribution may raise anything, and nobody knows what it had done before.
                self._count("failed", began)
                yield Do(lambda: self._desk.ledger.unknown(call))
                yield from self._ended(granted, Settle(granted))
                raise
            response = response.model_copy(update={"usage": priced(response.usage, price)})
            self._count("answered", began, response.usage)
            return (yield from self._settled(call, granted, response, price))

    def _count(self, outcome: str, began: float, usage: Usage | None = None) -> None:
        seconds = system_clock.monotonic() - began
        self._desk.tallies.called(self._request.model, outcome, seconds, usage)

    def _admitted(self) -> Generator[Step, Any, Granted]:
        """Get a place within the limits of one of the keys."""
        ticket, epoch = self.progress.ticket, self._place.claim.epoch
        if not ticket or epoch - self.progress.epoch > 1:
            # Another claim may have used the place that was booked, and have died over it.
            ticket = self._place.ticket(self._slot, self.progress.sent)
        booked = self.progress._replace(ticket=ticket, epoch=epoch)
        try:
            found = yield Limit(Acquire(ticket, self._demands))
        except LimiterUnavailable as error:
            seconds = max(error.retry_after or 0.0, self._desk.longer_than_a_moment)
            raise NotYet(seconds, _told(error), booked, "limiter_away") from None
        if isinstance(found, Wait):
            raise NotYet(found.seconds, f"waits for {found.bucket.key} ({found.why})", booked, "limit")
        return found

    def _reserved(self, call: Call, price: Price | None, granted: Granted) -> Generator[Step, Any]:
        """Hold what the call may cost in every budget that it counts in."""
        worst = None
        if price is not None:
            worst = price.worst_case(most_tokens(self._request), self._request.max_output_tokens)
        held: Reserved | Capped
        try:
            held = yield Do(lambda: self._desk.ledger.reserve(call, worst))
        except BaseException:
            yield from self._ended(granted, Release(granted.ticket, self._demands))
            raise
        if isinstance(held, Capped):
            yield from self._ended(granted, Release(granted.ticket, self._demands))
            self._wait_for_budget(held, granted.ticket)
        for warning in held.warnings:
            budgets.warning("a budget is used up", budget=warning)

    def _wait_for_budget(self, capped: Capped, ticket: str) -> NoReturn:
        # The place in the line was given back: the next one has another name.
        name, _, number = ticket.partition("+")
        progress = self.progress._replace(ticket=f"{name}+{int(number or 0) + 1}", epoch=self._place.claim.epoch)
        if capped.settling:
            seconds = _SETTLING_LONG_SECONDS if number else _SETTLING_SECONDS
            raise NotYet(seconds, capped.told(), progress, "budget")
        if capped.on_cap == "fail":
            raise capped.error()
        raise NotYet(capped.resets_seconds, capped.told_how_to_go_on(), progress, "budget")

    def _settled(
        self, call: Call, granted: Granted, response: LLMResponse, price: Price | None
    ) -> Generator[Step, Any, LLMResponse]:
        """Pay for an answer."""
        self._desk.breakers.succeeded(self.providers[granted.choice].name)
        usage = response.usage
        cost = None if price is None else usage.cost_nanousd
        bill = Bill(cost, usage, None if price is None else price.told(), response.request_id)
        yield Do(lambda: self._desk.ledger.settle(call, bill))
        yield from self._ended(granted, Settle(granted, used_by(usage), seen_in(response.announced)))
        return response

    def _failed(self, call: Call, granted: Granted, error: ModelError) -> Generator[Step, Any]:
        """Give back what a failure has not used, and tell everybody what the provider has said."""
        ledger, name = self._desk.ledger, self.providers[granted.choice].name
        unknown = error.billed == "unknown"
        if unknown:
            yield Do(lambda: ledger.unknown(call, error.details.get("request_id")))
        else:
            yield Do(lambda: ledger.release(call))
        seen = seen_in(error.announced)
        if error.pause == "bucket":
            seconds = error.retry_after or _REFUSED_SECONDS
            over = isinstance(error, ModelRateLimited)
            yield from self._ended(granted, Freeze(granted, seconds, over_limit=over, seen=seen))
        elif error.reason == "connection" and not unknown:
            # It never reached a server that could have counted it.
            yield from self._ended(granted, Release(granted.ticket, self._demands))
        else:
            # Of a call whose outcome nobody knows the estimate stays used.
            yield from self._ended(granted, Settle(granted, {} if unknown else _NOTHING, seen))
        if not isinstance(error, ModelUnavailable):
            self._desk.breakers.succeeded(name)
        elif self._desk.breakers.failed(name):
            log.warning("a provider has failed again and again: it is left alone", provider=name, error=error.message)

    def _ended(self, granted: Granted, request: Request[Any]) -> Generator[Step, Any]:
        """Tell the limiter how a grant has ended; if it is away, what it does not hear of ends by itself."""
        self._desk.leases.end(granted.ticket)
        try:
            yield Limit(request)
        except LimiterUnavailable as error:
            log.warning("limits do not hear of a model call", error=error.message)


def _backoff_seconds(tries: int) -> float:
    # It brings tornado along, where that is installed: a worker that tries nothing again does without both.
    from tenacity import RetryCallState, wait_random_exponential

    state = RetryCallState(None, None, (), {})  # pyright: ignore[reportArgumentType] - what a wait reads is the number alone
    state.attempt_number = tries
    return wait_random_exponential(multiplier=0.5, max=30)(state)


def _told(error: Exception) -> str:
    return getattr(error, "message", str(error))[:200]
