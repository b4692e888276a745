"""Jobs that wait for something of their process lend their slots to others meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.clock import system_clock
from worker.effects.base import Account
from worker.isolation.alone import Turns
from worker.pool import Job, TaskPool, slot_lent


class Lender:
    """A pool with two slots, and jobs that lend theirs, or hold it, until they are told to go on."""

    def __init__(self) -> None:
        self.pool = TaskPool(limit=2)
        self.pool.start()
        self.lending = threading.Semaphore(0)
        self.holding = threading.Semaphore(0)
        self.back = threading.Event()
        self.go = threading.Event()

    def lend(self, count: int) -> list[Job]:
        def work() -> None:
            with slot_lent():
                self.lending.release()
                self.back.wait(60)
            self.hold_on()

        made = [self.pool.on_apply(work, ()) for _ in range(count)]
        assert all(self.lending.acquire(timeout=60) for _ in made)
        return made

    def hold(self, count: int) -> None:
        for _ in range(count):
            self.pool.on_apply(self.hold_on, ())

    def hold_on(self) -> None:
        self.holding.release()
        self.go.wait(60)

    def held(self, count: int) -> bool:
        return all(self.holding.acquire(timeout=60) for _ in range(count))


@pytest.fixture
def lender() -> Iterator[Lender]:
    made = Lender()
    yield made
    made.back.set()
    made.go.set()
    made.pool.stop()


def settled(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(6_000)) and condition()


def test_others_have_the_slots_of_jobs_that_wait(lender: Lender) -> None:
    lender.lend(2)
    assert (lender.pool.running, lender.pool.lent(), lender.pool.full) == (0, 2, False)
    lender.hold(2)
    assert lender.held(2)
    assert lender.pool.full


def test_as_many_wait_without_a_slot_as_there_are_slots(lender: Lender) -> None:
    lender.lend(4)
    assert (lender.pool.running, lender.pool.lent(), lender.pool.full) == (2, 2, True)


def test_a_job_that_is_done_waiting_goes_on_at_once_and_its_slot_is_counted_again(lender: Lender) -> None:
    lender.lend(2)
    lender.hold(3)
    assert lender.held(2)
    lender.back.set()
    assert lender.held(2)
    assert (lender.pool.running, lender.pool.lent()) == (4, 0)
    assert not lender.holding.acquire(blocking=False), "the third one has begun, beyond the slots"
    lender.go.set()
    assert settled(lambda: lender.pool.finished == 5)
    assert settled(lambda: lender.pool.info["threads"] <= 2)
    lender.hold(2)
    assert lender.held(2)


def test_a_drain_waits_for_jobs_that_have_lent_their_slot(lender: Lender) -> None:
    lender.lend(1)
    assert not lender.pool.wait_until_done(0.05)
    lender.back.set()
    lender.go.set()
    assert lender.pool.wait_until_done(10)


def test_a_job_that_is_given_up_while_it_waits_takes_no_slot_when_it_comes_back(lender: Lender) -> None:
    [job] = lender.lend(1)
    assert lender.pool.abandon(job)
    assert (lender.pool.running, lender.pool.lent()) == (0, 0)
    lender.back.set()
    assert lender.held(1)
    assert lender.pool.running == 0
    lender.hold(2)
    assert lender.held(2)


def test_lenders_are_told_apart_by_when_they_began(lender: Lender) -> None:
    lender.lend(1)
    between = system_clock.monotonic()
    lender.lend(1)
    assert (lender.pool.lent(), lender.pool.lent(since=between)) == (2, 1)


def test_a_suspect_without_a_turn_lends_its_slot_until_it_has_one(lender: Lender) -> None:
    turns, taken = Turns(1), threading.Semaphore(0)

    def suspect() -> None:
        execution: Any = SimpleNamespace(account=Account("model"))
        with turns.taken(execution):
            taken.release()
            lender.back.wait(60)

    for _ in range(2):
        lender.pool.on_apply(suspect, ())
    assert taken.acquire(timeout=60)
    assert settled(lambda: lender.pool.lent() == 1)
    assert lender.pool.running == 1
    lender.hold(1)
    assert lender.held(1)
    lender.back.set()
    assert taken.acquire(timeout=60)
    assert settled(lambda: lender.pool.finished == 2)


def test_outside_a_pool_there_is_nothing_to_lend() -> None:
    with slot_lent():
        pass
