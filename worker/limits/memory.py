"""Limits of one process: for embedded mode and tests. What Redis keeps for a fleet, to the last digit."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from orchestrator.clock import system_clock
from orchestrator.errors import DemandTooLarge
from worker.limits.base import (
    Acquire,
    Adjust,
    Bucket,
    Demand,
    Dimension,
    Freeze,
    Granted,
    Limiter,
    Look,
    Release,
    Renew,
    Request,
    Seen,
    Settle,
    Share,
    State,
    Wait,
    unlimited,
)
from worker.limits.numbers import SECOND
from worker.limits.rate import RateBucket, Standing
from worker.limits.rules import RULES
from worker.limits.slots import SlotBucket

T = TypeVar("T")

_NOTHING_SEEN = Seen()
#: The shortest wait that is told.
_LEAST_MICROSECONDS = 1000.0


class MemoryLimiter(Limiter):
    """A limiter of one process; nobody else knows of it. `now` gives microseconds.

    What was used before `memory` (the time at which it begins to remember) is unknown: a bucket that is new then holds what
    has come in since. By default it begins with full buckets.
    """

    def __init__(self, now: Callable[[], int] | None = None, *, memory: float = -math.inf) -> None:
        self._now = now or _microseconds
        self._memory = memory
        self._lock = threading.Lock()
        self._rates: dict[str, RateBucket] = {}
        self._slots: dict[str, SlotBucket] = {}

    def ask(self, request: Request[T]) -> T:
        answer: Any = unlimited(request)
        if answer is None:
            with self._lock:
                answer = self._answer(request, float(self._now()))
        return answer

    async def ask_async(self, request: Request[T]) -> T:
        return self.ask(request)

    def close(self) -> None: ...

    async def aclose(self) -> None: ...

    def _answer(self, request: Request[Any], now: float) -> Any:
        match request:
            case Acquire():
                return self._acquire(request, now)
            case Settle() | Adjust() | Freeze():
                self._tell(request, now)
            case Release():
                self._release(request, now)
            case Renew():
                self._renew(request, now)
            case Look():
                return self._look(request.prefix, now)
            case _:
                raise TypeError(f"{type(request).__name__} is nothing to ask a limiter")
        return None

    # Asking --------------------------------------------------------------------------------------------------------

    def _acquire(self, request: Acquire, now: float) -> Granted | Wait:
        offers: list[Offer] = []
        refusal: DemandTooLarge | None = None
        for number, demand in enumerate(request.demands):
            too_large = self._visit(demand, now)
            if too_large is None:
                offers.append(
                    Offer.of(number, demand, [self._standing(request.ticket, each, now) for each in demand.shares])
                )
            elif refusal is None:
                refusal = too_large
        if not offers:
            assert refusal is not None
            raise refusal
        offer = best(offers)
        self._leave_others(request, offer)
        if len(request.demands) > 1:
            self._visit(offer.demand, now)  # another demand may have another share in the same bucket
        if offer.fits:
            until = now + round(offer.demand.lease_seconds * SECOND)
            for share in offer.demand.shares:
                if share.bucket.dimension is Dimension.CONCURRENCY:
                    self._slots[share.bucket.key].grant(request.ticket, now, until)
                else:
                    self._rates[share.bucket.key].grant(request.ticket, share, now, until)
            return Granted(request.ticket, offer.demand, offer.number)
        return self._wait(request.ticket, offer, now)

    def _visit(self, demand: Demand, now: float) -> DemandTooLarge | None:
        for share in demand.shares:
            bucket = self._visited(share, now)
            if isinstance(bucket, RateBucket) and (weight := bucket.too_large(share)) is not None:
                return too_large(share.bucket, weight, bucket.limit)
        return None

    def _visited(self, share: Share, now: float) -> RateBucket | SlotBucket:
        bucket = self._bucket(share.bucket)
        if isinstance(bucket, SlotBucket):
            bucket.visit(share, now)
        else:
            bucket.visit(share, now, self._memory)
        return bucket

    def _standing(self, ticket: str, share: Share, now: float) -> Standing:
        bucket = self._bucket(share.bucket)
        return bucket.standing(ticket, now) if isinstance(bucket, SlotBucket) else bucket.standing(ticket, share, now)

    def _wait(self, ticket: str, offer: Offer, now: float) -> Wait:
        told, place = offer.told()
        until = now + told + RULES.grace
        for share, each in offer.pairs():
            if not _is_slot(share):
                if offer.books or each.kind == "booked":
                    self._rates[share.bucket.key].book(ticket, share, now, until)
            elif not each.fits:
                self._slots[share.bucket.key].next = now + each.due
        share, why = offer.demand.shares[place], offer.standings[place]
        if _is_slot(share):
            return Wait(told / SECOND, share.bucket, "concurrency")
        return Wait(told / SECOND, share.bucket, "frozen" if why.frozen >= told else "rate")

    def _leave_others(self, request: Acquire, offer: Offer) -> None:
        """Give up what was booked for a demand that is not the one chosen."""
        kept = {share.bucket.key for share in offer.demand.shares}
        for demand in request.demands:
            for share in demand.shares:
                bucket = self._bucket(share.bucket)
                if isinstance(bucket, RateBucket) and share.bucket.key not in kept:
                    bucket.leave(request.ticket)

    # Telling -------------------------------------------------------------------------------------------------------

    def _tell(self, request: Settle | Adjust | Freeze, now: float) -> None:
        suspects: list[tuple[float, RateBucket]] = []
        announced = False
        ticket = request.granted.ticket
        for share in request.granted.demand.shares:
            bucket = self._visited(share, now)
            if share.bucket.provider and isinstance(bucket, RateBucket):
                before = bucket.limit * bucket.trust
                bucket.adjust(ticket, share, request.seen.get(share.bucket.dimension, _NOTHING_SEEN), now)
                announced = announced or bucket.limit < before
                if isinstance(request, Freeze) and request.names(share.bucket.dimension):
                    suspects.append((bucket.level / bucket.limit, bucket))
                    bucket.freeze(now, request.seconds)
        if suspects and isinstance(request, Freeze) and request.over_limit and not announced:
            min(suspects, key=lambda suspect: suspect[0])[1].distrust(ticket, now)
        if not isinstance(request, Adjust):
            used = request.used if isinstance(request, Settle) else {}
            for share in request.granted.demand.shares:
                self._settle(ticket, share, used, now)

    def _settle(self, ticket: str, share: Share, used: Mapping[Dimension, float], now: float) -> None:
        bucket = self._bucket(share.bucket)
        if isinstance(bucket, SlotBucket):
            bucket.settle(ticket, now)
        else:
            bucket.settle(ticket, share, used.get(share.bucket.dimension))

    def _release(self, request: Release, now: float) -> None:
        for demand in request.demands:
            for share in demand.shares:
                self._visited(share, now).release(request.ticket)

    def _renew(self, request: Renew, now: float) -> None:
        for granted in request.grants:
            until = now + round(granted.demand.lease_seconds * SECOND)
            for share in granted.demand.shares:
                bucket = self._bucket(share.bucket)
                if isinstance(bucket, SlotBucket):
                    bucket.renew(granted.ticket, now, until)
                else:
                    bucket.renew(granted.ticket, until)

    # Looking -------------------------------------------------------------------------------------------------------

    def _look(self, prefix: str, now: float) -> tuple[State, ...]:
        found: list[State] = []
        for key in sorted({*self._rates, *self._slots}):
            if key.startswith(prefix):
                rate = self._rates.get(key)
                if rate is None:
                    found.append(self._slots[key].state(key, self._slots[key].in_flight(now)))
                elif rate.rate > 0:
                    found.append(rate.state(key, now, len(rate.line)))
        return tuple(found)

    def _bucket(self, bucket: Bucket) -> RateBucket | SlotBucket:
        if bucket.dimension is Dimension.CONCURRENCY:
            return self._slots.setdefault(bucket.key, SlotBucket())
        return self._rates.setdefault(bucket.key, RateBucket())


class Offer(NamedTuple):
    """One demand, and how a ticket stands in its buckets."""

    number: int
    demand: Demand
    standings: tuple[Standing, ...]
    fits: bool
    holds: bool
    booked: int
    room: float
    wait: float

    @classmethod
    def of(cls, number: int, demand: Demand, standings: Iterable[Standing]) -> Offer:
        """Sum up how a ticket stands."""
        each = tuple(standings)
        return cls(
            number,
            demand,
            each,
            fits=all(one.fits for one in each),
            holds=all(one.kind == "held" for one in each),
            booked=sum(one.kind == "booked" for one in each),
            room=min(one.room for one in each),
            wait=max(max(one.due, one.frozen) for one in each),
        )

    def pairs(self) -> Iterable[tuple[Share, Standing]]:
        return zip(self.demand.shares, self.standings, strict=True)

    @property
    def books(self) -> bool:
        """Whether a place in every line is taken: not while a free place in flight is what is missing."""
        full = any(_is_slot(share) and not each.fits for share, each in self.pairs())
        return not full and all(each.patience is None for each in self.standings)

    def told(self) -> tuple[float, int]:
        """Give for how long to wait, in whole microseconds, and the number of the share that is the reason."""
        waits = [0.0 if one.fits else max(one.due, one.frozen) for one in self.standings]
        place = waits.index(max(waits))
        due = max(one.due for one in self.standings if not one.fits)
        frozen = max(one.frozen for one in self.standings)
        patience = [one.patience for one in self.standings if one.patience is not None]
        wait = min(patience) if patience else min(due, max(one.horizon for one in self.standings if not one.fits))
        return float(math.ceil(max(wait, frozen, _LEAST_MICROSECONDS))), place


def best(offers: list[Offer]) -> Offer:
    """Choose what is granted already, else what fits with most room, else what is booked, else what comes first."""
    for offer in offers:
        if offer.holds:
            return offer
    fitting = [offer for offer in offers if offer.fits]
    if fitting:
        return max(fitting, key=lambda offer: (offer.booked, offer.room))
    most = max(offer.booked for offer in offers)
    return min((offer for offer in offers if offer.booked == most), key=lambda offer: offer.wait)


def too_large(bucket: Bucket, weight: float, limit: float) -> DemandTooLarge:
    """Give the error of a call that no wait makes possible."""
    what = bucket.dimension.replace("_", " ")
    return DemandTooLarge(
        f"one call takes {weight:,.0f} of {bucket.scope}, which has {limit:,.0f} {what}: it can never be made. Send less, "
        "lower max_output_tokens, or raise the limit if the provider allows more",
        details={"scope": bucket.scope, "dimension": str(bucket.dimension), "amount": weight, "limit": limit},
    )


def _is_slot(share: Share) -> bool:
    return share.bucket.dimension is Dimension.CONCURRENCY


def _microseconds() -> int:
    return int(system_clock.monotonic() * SECOND)
