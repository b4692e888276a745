"""How often a process looks for timers: at the time of the next one, less often where others are quicker or all is slow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.advance import Advancer
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.store.repairs import TAKEN_AT_ONCE
from orchestrator.store.store import Store
from orchestrator.timers import LEAST_WAIT_SECONDS, Timers

LONGEST = 1.0


class World:
    """A store, a broker and a clock by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        #: What each look takes.
        self.takes = 0.0
        #: How many sleep until now, and when the next one is due, in seconds from now.
        self.due = 0
        self.next_due: float | None = None
        self.away = False
        self.asked = 0
        self.published: list[Dispatch] = []

    def monotonic(self) -> float:
        return self.now

    def wake_due(self, runs: Any) -> list[Dispatch]:
        assert runs is None
        self.asked += 1
        self.now += self.takes
        count = min(self.due, TAKEN_AT_ONCE)
        self.due -= count
        return [Dispatch(f"{number}", 2, "sleeper", 1) for number in range(count)]

    def take_due(self, runs: Any) -> list[Dispatch]:
        del runs
        return []

    def republish(self, dispatches: list[Dispatch]) -> bool:
        self.published += [] if self.away else dispatches
        return not self.away

    def seconds_to_next_due(self) -> float | None:
        return self.next_due


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def timers(world: World) -> Timers:
    store = SimpleNamespace(waits=world, repairs=world)
    return Timers(cast("Store", store), cast("Advancer", world), longest_wait=LONGEST, clock=cast("Any", world))


def look(timers: Timers, world: World, *, due: int) -> float:
    """Look at the time of a timer, which has been fired elsewhere if none is due; gives the pause, others being due at once."""
    world.next_due = 0.0
    timers.wait_seconds()
    world.due = due
    assert timers.fire() == due
    return timers.wait_seconds()


def test_without_timers_it_is_looked_for_new_ones_at_the_longest_interval(timers: Timers) -> None:
    assert timers.fire() == 0
    assert timers.wait_seconds() == LONGEST


def test_the_next_look_is_when_the_next_timer_is_due(timers: Timers, world: World) -> None:
    world.next_due = 0.3
    assert 0.3 < timers.wait_seconds() < 0.31
    world.next_due = 30
    assert timers.wait_seconds() == LONGEST


def test_timers_that_end_one_after_the_other_are_fired_together(timers: Timers, world: World) -> None:
    assert look(timers, world, due=7) == LEAST_WAIT_SECONDS


def test_thousands_that_are_due_are_fired_in_batches_without_a_look_too_many(timers: Timers, world: World) -> None:
    assert look(timers, world, due=2 * TAKEN_AT_ONCE + 7) == LEAST_WAIT_SECONDS
    assert (len(world.published), world.asked) == (2 * TAKEN_AT_ONCE + 7, 3)


def test_a_broker_that_is_away_is_not_given_the_rest(timers: Timers, world: World) -> None:
    world.due, world.away = 2 * TAKEN_AT_ONCE, True
    assert timers.fire() == 0
    assert world.asked == 1


def test_who_finds_that_others_were_quicker_looks_ever_less_often_until_it_finds_something(
    timers: Timers, world: World
) -> None:
    pauses = [look(timers, world, due=0) for _ in range(8)]
    assert pauses[:3] == [0.04, 0.08, 0.16]
    assert pauses[-2:] == [LONGEST, LONGEST]
    assert look(timers, world, due=1) == LEAST_WAIT_SECONDS


def test_a_look_at_no_timers_time_finds_nothing_and_proves_nothing(timers: Timers, world: World) -> None:
    for _ in range(8):
        world.next_due = None
        timers.wait_seconds()
        timers.fire()
    world.next_due = 0.0
    assert timers.wait_seconds() == LEAST_WAIT_SECONDS


def test_where_a_look_takes_long_the_agents_get_most_of_the_time(timers: Timers, world: World) -> None:
    world.takes = 0.1
    assert look(timers, world, due=30) == pytest.approx(0.4)
    world.takes = 5
    assert look(timers, world, due=30) == LONGEST
