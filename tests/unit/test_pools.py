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


def held(pools: Pools, agent: str = "critic") -> int:
    """Take as many as there is room for."""
    count = 0
    while pools.take(agent):
        count += 1
    return count


def test_nothing_is_bounded_until_somebody_wishes_it(pools: Pools) -> None:
    assert all(pools.take("critic") for _ in range(1000))
    assert pools.room("critic") is None
    assert pools.shut(10) == []
    assert not pools.counted_by_fleet("critic")


def test_a_worker_has_no_more_in_hand_than_its_bound(pools: Pools) -> None:
    pools.follow([pool(worker_slots=2)])
    assert [pools.take("critic") for _ in range(3)] == [True, True, False]
    assert pools.take("reader")
    assert pools.room("critic") == 0
    assert pools.shut(10) == ["critic"]
    pools.let_go("critic")
    assert pools.room("critic") == 1
    assert pools.take("critic")


def test_only_what_the_fleet_bounds_is_counted_there(pools: Pools) -> None:
    pools.follow([pool(worker_slots=2), pool("reader", slots=3), pool("writer", paused=True)])
    assert [pools.counted_by_fleet(agent) for agent in ("critic", "reader", "writer", "editor")] == [
        False,
        True,
        True,
        False,
    ]


def test_what_was_in_hand_before_a_bound_counts(pools: Pools) -> None:
    assert [pools.take("critic") for _ in range(3)] == [True] * 3
    pools.follow([pool(worker_slots=2)])
    assert not pools.take("critic")
    for _ in range(2):
        pools.let_go("critic")
    assert pools.take("critic")
    assert not pools.take("critic")


def test_a_paused_agent_gets_nothing_until_it_is_resumed(pools: Pools) -> None:
    pools.follow([pool(paused=True, worker_slots=4)])
    assert (pools.room("critic"), pools.take("critic")) == (0, False)
    assert pools.shut(10) == ["critic"]
    pools.follow([pool(worker_slots=4)])
    assert (pools.room("critic"), pools.take("critic")) == (4, True)
    pools.follow([])
    assert pools.room("critic") is None


def test_a_worker_feels_its_way_to_what_the_fleet_has_room_for(pools: Pools) -> None:
    """It never takes more than eight messages that the fleet may have no room for."""
    pools.follow([pool(slots=100)])
    taken: list[int] = []
    for _ in range(6):
        taken.append(held(pools))
        for _ in range(taken[-1]):
            pools.accept("critic")
    assert taken[0] == 1
    assert max(taken) <= 8


def test_the_bound_of_the_fleet_bounds_each_worker_too(pools: Pools) -> None:
    pools.follow([pool(slots=3, worker_slots=5)])
    for _ in range(3):
        assert held(pools) == 1
        pools.accept("critic")
    assert held(pools) == 0


def test_where_the_fleet_is_full_one_asks_again_after_a_second(pools: Pools, clock: Clock) -> None:
    pools.follow([pool(slots=5)])
    assert held(pools) == 1
    pools.refuse("critic")
    pools.let_go("critic")
    assert pools.room("critic") == 0
    clock.time += 2
    assert held(pools) == 1


def test_one_that_has_ended_here_makes_room_for_another_at_once(pools: Pools) -> None:
    pools.follow([pool(slots=5)])
    held(pools)
    pools.accept("critic")
    held(pools)
    pools.refuse("critic")
    pools.let_go("critic")  # its message goes back
    assert pools.room("critic") == 0
    pools.let_go("critic")  # the other one has ended
    assert held(pools) == 1


def test_a_worker_that_loses_its_share_to_others_takes_less_and_less(pools: Pools) -> None:
    pools.follow([pool(slots=50)])
    for _ in range(4):
        for _ in range(held(pools)):
            pools.accept("critic")
    before = held(pools)
    for _ in range(before):
        pools.refuse("critic")
        pools.let_go("critic")
    assert pools.room("critic") == 0


def test_an_agent_that_was_shut_a_moment_ago_is_not_idle(pools: Pools, clock: Clock) -> None:
    """Its queue is opened each second to see whether there is room: a beat must not happen to fall there."""
    pools.follow([pool(slots=5)])
    held(pools)
    pools.refuse("critic")
    pools.let_go("critic")
    clock.time += 3
    assert pools.room("critic") == 1
    assert pools.shut(10) == ["critic"]
    clock.time += 8
    assert pools.shut(10) == []


def test_a_refusal_is_forgotten_with_the_bound_that_it_was_about(pools: Pools) -> None:
    pools.follow([pool(slots=5)])
    held(pools)
    pools.refuse("critic")
    pools.let_go("critic")
    pools.follow([pool(slots=6)])
    assert pools.take("critic")
    pools.follow([])
    pools.refuse("critic")
    pools.accept("critic")
    assert pools.room("critic") is None


def test_following_the_same_wish_again_changes_nothing(pools: Pools) -> None:
    """Each heartbeat does so."""
    pools.follow([pool(slots=5)])
    held(pools)
    pools.refuse("critic")
    pools.let_go("critic")
    pools.follow([pool(slots=5, running=3)])
    assert pools.room("critic") == 0
