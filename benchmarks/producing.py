"""Submitting: `submit_many` against a loop of raw `chain.apply_async()`, without workers."""

from __future__ import annotations

import time

from harness import BROKERS, OURS, Bench, Row, expect, interleaved, wait_for
from ours import SHAPES, Fleet
from raw import Raw, free_redis_database

RUNS = 600
TARGET = 1.5


def submit(bench: Bench) -> list[Row]:
    return [_submit(bench, broker) for broker in BROKERS]


def _submit(bench: Bench, broker: str) -> Row:
    with bench.alone() as alone:
        rival = Raw(alone, "Celery, default", broker, free_redis_database(alone))
        ours = Fleet(alone, broker)
        ours.start_worker()  # announces the agents
        ours.stop_worker()
        count = alone.count(RUNS)

        def measure(side: Fleet | Raw) -> float:
            _submitted(side, 20)
            return count / _submitted(side, count)

        rounds = interleaved(alone, [ours, rival], measure)
    what = f"submit_many vs a loop of raw chain.apply_async(), {broker}"
    return Row(
        f"submit-{broker}", what, {OURS: rounds[OURS], rival.name: rounds[rival.name]}, "runs/s", TARGET, ratio=True
    )


def _submitted(side: Fleet | Raw, count: int) -> float:
    """Submit so many chains; gives the seconds, with what the broker has confirmed."""
    began = time.monotonic()
    if isinstance(side, Fleet):
        workflow, value, _ = SHAPES["chain"]
        ids = side.submit(workflow, [value] * count)
        seconds = time.monotonic() - began
        expect(side.scalar("SELECT count(*) FROM @run WHERE id = ANY(%s::uuid[])", ids), count, "runs in the database")
        wait_for(lambda: side.waiting("noop_a") == count, "all messages reach the broker", timeout=5)
    else:
        results = side.submit("chain", count)
        seconds = time.monotonic() - began
        wait_for(lambda: side.waiting() == count, "all messages reach the broker", timeout=5)
        for result in results:
            side.app.backend.remove_pending_result(result)
    side.discard_messages()
    return seconds
