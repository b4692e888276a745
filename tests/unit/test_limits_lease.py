"""What a process holds it keeps while its calls are in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar, cast

import pytest
from limiters import Desk, Hands, slots, tokens

from orchestrator.errors import LimiterUnavailable
from worker.limits.base import Dimension, Limiter, Renew, Request, Wait
from worker.limits.lease import LeaseKeeper
from worker.limits.memory import MemoryLimiter

T = TypeVar("T")


class Watched(MemoryLimiter):
    """Tells when it was asked to renew, and fails as often as it is told to."""

    def __init__(self, hands: Hands) -> None:
        super().__init__(hands)
        self.renewed = threading.Event()
        self.sizes: list[int] = []
        self.failures = 0
        #: What happens while a renewal is on its way.
        self.meanwhile: Callable[[], None] = lambda: None

    def ask(self, request: Request[T]) -> T:
        if isinstance(request, Renew):
            self.sizes.append(len(request.grants))
            self.renewed.set()
            self.meanwhile()
            if self.failures:
                self.failures -= 1
                raise LimiterUnavailable("it is away")
        return cast("T", super().ask(request))


@pytest.fixture
def desk() -> Desk:
    hands = Hands()
    return Desk(Watched(hands), hands)


def watched(desk: Desk) -> Watched:
    limiter: Limiter = desk.limiter
    assert isinstance(limiter, Watched)
    return limiter


def test_all_that_is_held_is_renewed_in_one_request(desk: Desk) -> None:
    keeper = LeaseKeeper(desk.limiter)
    slot = slots(3)
    with keeper.holding(desk.must(slot)), keeper.holding(desk.must(slot)), keeper.holding(desk.must(slot)):
        desk.hands.move(50)
        assert keeper.renew() == 3
        desk.hands.move(50)
        assert isinstance(desk.ask(slot), Wait)
    assert watched(desk).sizes == [3]
    keeper.close()


def test_what_is_held_no_more_is_not_renewed(desk: Desk) -> None:
    keeper = LeaseKeeper(desk.limiter)
    with keeper.holding(desk.must(slots(1))):
        pass
    assert keeper.renew() == 0
    assert watched(desk).sizes == []
    keeper.close()


def test_a_call_that_fails_is_held_no_more(desk: Desk) -> None:
    keeper = LeaseKeeper(desk.limiter)
    with pytest.raises(ZeroDivisionError), keeper.holding(desk.must(slots(1))):
        raise ZeroDivisionError
    assert keeper.renew() == 0
    keeper.close()


def test_a_renewal_that_breaks_is_followed_by_others(desk: Desk) -> None:
    keeper, limiter = LeaseKeeper(desk.limiter, every_seconds=0.01), watched(desk)
    second = threading.Event()

    def breaks() -> None:
        if len(limiter.sizes) > 1:
            second.set()
        raise ZeroDivisionError

    limiter.meanwhile = breaks
    with keeper.holding(desk.must(slots(1))):
        assert second.wait(60)
    keeper.close()


def test_while_the_limiter_is_away_renewing_goes_on(desk: Desk) -> None:
    keeper = LeaseKeeper(desk.limiter)
    watched(desk).failures = 1
    slot = slots(1)
    with keeper.holding(desk.must(slot)):
        assert keeper.renew() == 0
        desk.hands.move(50)
        assert keeper.renew() == 1
        desk.hands.move(50)
        assert isinstance(desk.ask(slot), Wait)
    keeper.close()


def test_a_call_that_ends_while_it_is_renewed_leaves_no_place_taken(desk: Desk) -> None:
    keeper = LeaseKeeper(desk.limiter)
    slot, rate = slots(1), tokens(6000, 1000, estimated=True)
    granted, others = desk.must(slot, rate), desk.must(slots(1, "elsewhere"))

    def end() -> None:
        keeper.end(granted.ticket)
        desk.settle(granted, {Dimension.TOKENS: 1000})

    with keeper.holding(granted), keeper.holding(others):
        watched(desk).meanwhile = end
        keeper.renew()
        desk.must(slot)
        assert isinstance(desk.ask(slots(1, "elsewhere")), Wait), "that call goes on"
        assert desk.state(rate.bucket).left == pytest.approx(4700), "and what it has used stays used"
    keeper.close()


def test_a_thread_renews_by_itself(desk: Desk) -> None:
    keeper = LeaseKeeper(desk.limiter, every_seconds=0.01)
    with keeper.holding(desk.must(slots(1))):
        assert watched(desk).renewed.wait(60)
    keeper.close()
