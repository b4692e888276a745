"""Limiters with time by hand, and short ways to ask them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    Seen,
    Settle,
    Share,
    State,
    Wait,
)


class Hands:
    """The hands of a clock: microseconds that a test moves."""

    def __init__(self) -> None:
        self.at = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += round(seconds * 1_000_000)


@dataclass
class Desk:
    """A limiter, and the time that it goes by."""

    limiter: Limiter
    hands: Hands
    count: int = 0
    granted: dict[str, Granted] = field(default_factory=dict[str, Granted])

    def ask(self, *shares: Share, ticket: str | None = None, lease: float = 60.0) -> Granted | Wait:
        return self.ask_one_of(Demand(shares, lease), ticket=ticket)

    def ask_one_of(self, *demands: Demand, ticket: str | None = None) -> Granted | Wait:
        if ticket is None:
            self.count += 1
            ticket = f"ticket-{self.count}"
        return self.limiter.ask(Acquire(ticket, demands))

    def must(self, *shares: Share, ticket: str | None = None, lease: float = 60.0) -> Granted:
        answer = self.ask(*shares, ticket=ticket, lease=lease)
        assert isinstance(answer, Granted), answer
        return answer

    def wait(self, *shares: Share, ticket: str | None = None) -> Wait:
        answer = self.ask(*shares, ticket=ticket)
        assert isinstance(answer, Wait), answer
        return answer

    def drain(self, share: Share) -> int:
        """Take what there is; gives how many calls that were."""
        count = 0
        while isinstance(answer := self.ask(share), Granted):
            count += 1
        self.limiter.ask(Release(f"ticket-{self.count}", (Demand((share,)),)))
        assert isinstance(answer, Wait)
        return count

    def settle(self, granted: Granted, used: Mapping[Dimension, float] | None = None, **seen: Seen) -> None:
        told = {Dimension[name.upper()]: value for name, value in seen.items()}
        self.limiter.ask(Settle(granted, used or {}, told))

    def adjust(self, granted: Granted, **seen: Seen) -> None:
        self.limiter.ask(Adjust(granted, {Dimension[name.upper()]: value for name, value in seen.items()}))

    def refuse(self, granted: Granted, seconds: float, *, over_limit: bool = True, **seen: Seen) -> None:
        told = {Dimension[name.upper()]: value for name, value in seen.items()}
        self.limiter.ask(Freeze(granted, seconds, over_limit, seen=told))

    def release(self, ticket: str, *shares: Share) -> None:
        self.limiter.ask(Release(ticket, (Demand(shares),)))

    def renew(self, *grants: Granted) -> None:
        self.limiter.ask(Renew(grants))

    def state(self, bucket: Bucket) -> State:
        [found] = [state for state in self.limiter.ask(Look(bucket.key)) if state.key == bucket.key]
        return found


def requests(
    limit: float, scope: str = "model", *, provider: bool = False, burst_seconds: float | None = None
) -> Share:
    return Share(Bucket(scope, Dimension.REQUESTS, limit, provider=provider, burst_seconds=burst_seconds))


def tokens(
    limit: float, amount: float, *, assumed: bool = False, estimated: bool = False, scope: str = "model"
) -> Share:
    bucket = Bucket(scope, Dimension.TOKENS, limit, assumed=assumed, provider=True)
    return Share(bucket, amount, estimated=estimated)


def slots(limit: int, scope: str = "server") -> Share:
    return Share(Bucket(scope, Dimension.CONCURRENCY, limit))
