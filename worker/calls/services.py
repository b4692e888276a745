"""Calls of external services, within the limits that the whole fleet keeps for each of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from orchestrator.contracts.effect import Slot
from orchestrator.errors import LimiterUnavailable
from worker.calls.desk import Desk
from worker.calls.place import Place
from worker.effects.progress import NotYet, Progress
from worker.limits.base import Acquire, Bucket, Demand, Dimension, Granted, Settle, Share, Wait
from worker.tools.needs import ServiceLimit


@dataclass(frozen=True, slots=True)
class Services:
    """Lets the calls of one execution through, by the limiter that its model calls use; thread-safe."""

    desk: Desk
    place: Place

    @contextmanager
    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> Generator[None]:
        """Hold a place within a limit; raises `NotYet` while there is none, or while nobody can say."""
        booked = self._booked(slot, progress)
        try:
            found = self.desk.limiter.ask(Acquire(booked.ticket, (demand_of(limit),)))
        except LimiterUnavailable as error:
            raise self._away(error, booked) from None
        granted = _granted(found, booked)
        with self.desk.leases.holding(granted):
            try:
                yield
            finally:
                with suppress(LimiterUnavailable):  # its share comes back when its lease ends
                    self.desk.limiter.ask(Settle(granted))

    @asynccontextmanager
    async def admitted_async(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> AsyncGenerator[None]:
        """Do the same from an event loop."""
        booked = self._booked(slot, progress)
        try:
            found = await self.desk.limiter.ask_async(Acquire(booked.ticket, (demand_of(limit),)))
        except LimiterUnavailable as error:
            raise self._away(error, booked) from None
        granted = _granted(found, booked)
        with self.desk.leases.holding(granted):
            try:
                yield
            finally:
                with suppress(LimiterUnavailable):
                    await self.desk.limiter.ask_async(Settle(granted))

    def _booked(self, slot: Slot, progress: Progress) -> Progress:
        """Give the place in the line that this claim may use: of an earlier one, only that of the claim before."""
        ticket, epoch = progress.ticket, self.place.claim.epoch
        if not ticket or epoch - progress.epoch > 1:
            ticket = self.place.ticket(slot, progress.sent)
        return progress._replace(ticket=ticket, epoch=epoch)

    def _away(self, error: LimiterUnavailable, booked: Progress) -> NotYet:
        # Nobody holds a slot for a limiter that is away.
        seconds = max(error.retry_after or 0.0, self.desk.longer_than_a_moment)
        return NotYet(seconds, error.message, booked, "limiter_away")


def demand_of(limit: ServiceLimit) -> Demand:
    """Give what one call takes of the buckets of its service."""
    scope, shares = f"service:{limit.service}", list[Share]()
    if limit.requests_per_minute is not None:
        bucket = Bucket(scope, Dimension.REQUESTS, limit.requests_per_minute, burst_seconds=limit.burst_seconds)
        shares.append(Share(bucket))
    if limit.concurrency is not None:
        shares.append(Share(Bucket(scope, Dimension.CONCURRENCY, limit.concurrency)))
    return Demand(tuple(shares))


def _granted(found: Granted | Wait, booked: Progress) -> Granted:
    if isinstance(found, Wait):
        raise NotYet(found.seconds, f"waits for {found.bucket.key} ({found.why})", booked, "limit")
    return found
