"""Threads that are stuck in jobs that were given up: counted while they last, and reported when there are too many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from worker.pool import Job, TaskPool


class Stuck:
    """A pool in which every job is stuck until it is let go."""

    def __init__(self, slots: int) -> None:
        self.pool = TaskPool(limit=slots)
        self.pool.start()
        self.reports = 0
        self.pool.on_stuck = self._report
        self.pool.stuck_after_seconds = 0.0
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def _report(self) -> None:
        self.reports += 1

    def job(self) -> Job:
        def work() -> None:
            self.begun.release()
            self.go.wait(60)

        made: Job = self.pool.on_apply(work, ())
        assert self.begun.acquire(timeout=60)
        return made

    def give_up(self, count: int) -> None:
        for _ in range(count):
            self.pool.give_up(self.job(), 1.0)


@pytest.fixture
def stuck() -> Iterator[Callable[[int], Stuck]]:
    made: list[Stuck] = []

    def make(slots: int) -> Stuck:
        made.append(Stuck(slots))
        return made[-1]

    yield make
    for each in made:
        each.go.set()
        each.pool.stop()


def settled(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(6_000)) and condition()


@pytest.mark.parametrize(("slots", "bearable"), [(1, 1), (4, 1), (19, 1), (20, 2), (100, 10)])
def test_more_than_a_tenth_of_the_slots_and_more_than_one_are_too_many(
    slots: int, bearable: int, stuck: Callable[[int], Stuck]
) -> None:
    made = stuck(slots)
    made.give_up(bearable)
    assert settled(lambda: made.pool.stuck == bearable)
    assert made.reports == 0
    made.give_up(1)
    assert settled(lambda: made.reports == 1)


def test_a_thread_that_soon_notices_that_its_job_was_given_up_is_not_stuck(
    stuck: Callable[[int], Stuck], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stuck(2)
    judge, judged = made.pool._judge, threading.Semaphore(0)  # pyright: ignore[reportPrivateUsage]

    def noted(job: Job) -> None:
        judge(job)
        judged.release()

    monkeypatch.setattr(made.pool, "_judge", noted)
    with made.pool._deadlines._changed:  # pyright: ignore[reportPrivateUsage] - nobody is judged meanwhile
        made.give_up(2)
        made.go.set()
        assert settled(lambda: not made.pool._left_behind)  # pyright: ignore[reportPrivateUsage]
    assert all(judged.acquire(timeout=60) for _ in range(2))
    assert (made.pool.stuck, made.reports) == (0, 0)


def test_a_slot_is_free_while_its_thread_is_stuck(stuck: Callable[[int], Stuck]) -> None:
    made = stuck(1)
    made.give_up(1)
    assert (made.pool.running, made.pool.full) == (0, False)
    made.job()
    assert (made.pool.running, made.pool.full) == (1, True)


def test_a_thread_that_gets_loose_is_stuck_no_more_and_leaves_the_slots_as_they_are(
    stuck: Callable[[int], Stuck],
) -> None:
    made = stuck(2)
    made.give_up(1)
    assert settled(lambda: made.pool.stuck == 1)
    made.job()
    made.go.set()
    assert settled(lambda: made.pool.stuck == 0 and made.pool.running == 0)
    assert made.pool.info["threads"] == 1


def test_a_job_that_has_ended_leaves_no_thread_behind_when_it_is_given_up(stuck: Callable[[int], Stuck]) -> None:
    made = stuck(2)
    job = made.job()
    made.go.set()
    assert settled(lambda: made.pool.running == 0)
    made.pool.give_up(job, 1.0)
    assert (made.pool.stuck, made.pool.info["threads"]) == (0, 1)


def test_a_job_that_is_taken_from_a_pool_before_it_began_never_begins(stuck: Callable[[int], Stuck]) -> None:
    made = stuck(1)
    made.job()
    waiting: Job = made.pool.on_apply(made.begun.release, ())
    assert made.pool.abandon(waiting)
    made.go.set()
    assert settled(lambda: made.pool.running == 0 and not made.pool.full)
    assert not made.begun.acquire(blocking=False)
    made.job()
