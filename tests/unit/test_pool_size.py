"""The slots of a worker while their number changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.clock import system_clock
from worker.pool import TaskPool


class Jobs:
    """Jobs that hold their slot until they are told to go."""

    def __init__(self, pool: TaskPool) -> None:
        self.pool = pool
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def add(self, count: int) -> None:
        def job() -> None:
            self.begun.release()
            self.go.wait(60)

        def over(_result: Any) -> None:
            self.ended.release()

        for _ in range(count):
            self.pool.apply_async(job, callback=over)

    def run(self, count: int) -> bool:
        """Wait until so many more have begun."""
        return all(self.begun.acquire(timeout=60) for _ in range(count))


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    pool = TaskPool(limit=2)
    pool.start()
    made = Jobs(pool)
    yield made
    made.go.set()
    pool.stop()


def settled(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(6_000)) and condition()


def threads(pool: TaskPool) -> int:
    return int(pool.info["threads"])


def test_more_slots_take_at_once_what_waits(jobs: Jobs) -> None:
    jobs.add(4)
    assert jobs.run(2)
    assert not jobs.begun.acquire(blocking=False)
    jobs.pool.resize(4)
    assert jobs.run(2)
    assert jobs.pool.full


def test_running_jobs_are_told_apart_by_when_they_began(jobs: Jobs) -> None:
    jobs.pool.resize(3)
    jobs.add(2)
    assert jobs.run(2)
    between = system_clock.monotonic()
    jobs.add(1)
    assert jobs.run(1)
    assert (jobs.pool.begun_before(between), jobs.pool.running) == (2, 3)
    jobs.go.set()
    assert settled(lambda: jobs.pool.begun_before(between) == 0)


def test_fewer_slots_leave_alone_what_runs_and_end_threads_that_are_free(jobs: Jobs) -> None:
    jobs.pool.resize(3)
    jobs.add(3)
    assert jobs.run(3)
    jobs.pool.resize(1)
    assert (jobs.pool.running, jobs.pool.num_processes) == (3, 1)
    jobs.go.set()
    assert settled(lambda: threads(jobs.pool) <= 1)
    assert all(jobs.ended.acquire(timeout=60) for _ in range(3))


def test_slots_that_come_and_go_lose_no_job(jobs: Jobs) -> None:
    jobs.go.set()
    for size in (5, 1, 4, 1, 3, 2):
        jobs.add(20)
        jobs.pool.resize(size)
    assert all(jobs.ended.acquire(timeout=60) for _ in range(120))
    assert threads(jobs.pool) <= 2 or settled(lambda: threads(jobs.pool) <= 2)
