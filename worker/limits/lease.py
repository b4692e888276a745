"""Keeps what this process holds while its calls are in flight: a process that dies gives its share back by expiry."""

from __future__ import annotations

from collections.abc import Sequence

from worker.keeping import Keeper
from worker.limits.base import LEASE_SECONDS, Demand, Dimension, Granted, Limiter, Release, Renew


class LeaseKeeper(Keeper[Granted]):
    """Renews the grants of this process, all in one request, three times in a lease; thread-safe."""

    def __init__(self, limiter: Limiter, every_seconds: float = LEASE_SECONDS / 3) -> None:
        super().__init__(every_seconds, "limits")
        self._limiter = limiter

    def end(self, ticket: str) -> None:
        """Renew a grant no more; to be said before the limiter is told that its call has ended."""
        self._drop(ticket)

    def _ask(self, held: Sequence[Granted]) -> None:
        self._limiter.ask(Renew(tuple(held)))

    def _give_back(self, ended: Sequence[Granted]) -> None:
        """Give back places that renewing has taken again: their calls ended while it was under way."""
        for granted in ended:
            places = tuple(each for each in granted.demand.shares if each.bucket.dimension is Dimension.CONCURRENCY)
            if places:
                self._limiter.ask(Release(granted.ticket, (Demand(places),)))

    def _key(self, held: Granted) -> str:
        return held.ticket
