"""What a worker has in hand of each agent, and how its pools bound that."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.contracts.fleet import PoolSummary
from worker.pools import Pools


class Clock:
    time = 0.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> Any:
        raise AssertionError("nobody asks for the time of the day")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pools(clock: Clock) -> Pools:
    return Pools(clock)


def pool(agent: str = "critic", **fields: Any) -> PoolSummary:
    return PoolSummary(agent=agent, **fields)


def test_nothing_is_bounded_until_somebody_wishes_it(pools: Pools) -> None:
    assert all(pools.take("critic") for _ in range(1000))
    assert pools.bound("critic") is None
    assert pools.shut(10) == []
    assert not pools.counted_by_fleet("critic")


def test_a_worker_has_no_more_in_hand_than_its_bound(pools: Pools) -> None:
    pools.follow([pool(worker_slots=2)])
    assert [pools.take("critic") for _ in range(3)] == [True, True, False]
    assert pools.take("reader")
    assert pools.is_full("critic")
    assert pools.shut(10) == ["critic"]
    pools.let_go("critic", ended=True)
    assert not pools.is_full("critic")
    assert pools.take("critic")


def test_the_smaller_of_two_bounds_holds_and_the_fleet_counts_only_its_own(pools: Pools) -> None:
    pools.follow([pool(worker_slots=2), pool("reader", slots=3), pool("writer", slots=1, worker_slots=5)])
    assert [pools.bound(agent) for agent in ("critic", "reader", "writer")] == [2, 3, 1]
    assert [pools.counted_by_fleet(agent) for agent in ("critic", "reader", "writer")] == [False, True, True]


def test_what_was_in_hand_before_a_bound_counts(pools: Pools) -> None:
    assert [pools.take("critic") for _ in range(3)] == [True] * 3
    pools.follow([pool(worker_slots=2)])
    assert not pools.take("critic")
    for _ in range(2):
        pools.let_go("critic", ended=True)
    assert pools.take("critic")
    assert not pools.take("critic")


def test_a_paused_agent_gets_nothing_until_it_is_resumed(pools: Pools) -> None:
    pools.follow([pool(paused=True, slots=4)])
    assert (pools.bound("critic"), pools.take("critic")) == (0, False)
    assert pools.counted_by_fleet("critic")
    assert pools.shut(10) == ["critic"]
    pools.follow([pool(slots=4)])
    assert (pools.bound("critic"), pools.take("critic")) == (4, True)
    pools.follow([])
    assert pools.bound("critic") is None


def test_where_the_fleet_is_full_nobody_asks_again_for_a_second(pools: Pools, clock: Clock) -> None:
    pools.follow([pool(slots=5)])
    assert pools.take("critic")
    pools.refuse("critic")
    pools.let_go("critic", ended=False)  # its message goes back
    assert not pools.take("critic")
    clock.time += 2
    assert pools.take("critic")


def test_a_slot_that_ends_here_is_asked_for_at_once(pools: Pools) -> None:
    pools.follow([pool(slots=5)])
    assert pools.take("critic")
    assert pools.take("critic")
    pools.refuse("critic")
    pools.let_go("critic", ended=False)
    assert not pools.take("critic")
    pools.let_go("critic", ended=True)
    assert pools.take("critic")


def test_an_agent_that_was_shut_a_moment_ago_is_not_idle(pools: Pools, clock: Clock) -> None:
    """Its queue is opened each second to see whether there is room: a beat must not happen to fall there."""
    pools.follow([pool(slots=5)])
    pools.refuse("critic")
    clock.time += 3
    assert pools.bound("critic") == 5
    assert pools.shut(10) == ["critic"]
    clock.time += 8
    assert pools.shut(10) == []


def test_a_refusal_is_forgotten_with_the_bound_that_it_was_about(pools: Pools) -> None:
    pools.follow([pool(slots=5)])
    pools.refuse("critic")
    pools.follow([])
    pools.follow([pool(slots=6)])
    assert pools.take("critic")
