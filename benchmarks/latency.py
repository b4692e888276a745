"""How long a ready agent run waits: at low load, and on a worker that is full."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

from harness import BROKERS, OURS, Bench, Row, expect, percentile, wait_for
from ours import SHAPES, Fleet

LONE_RUNS = 40
BACKLOG = 400
SLOTS = 4
AGENT_SECONDS = 0.02


def dispatch(bench: Bench) -> list[Row]:
    return [row for broker in BROKERS for row in _dispatch(bench, broker)]


def pickup(bench: Bench) -> list[Row]:
    return [_pickup(bench, broker) for broker in BROKERS]


def _dispatch(bench: Bench, broker: str) -> list[Row]:
    with bench.alone() as alone:
        fleet = Fleet(alone, broker, concurrency=alone.concurrency)
        fleet.start_worker()
        fleet.run("chain", 20)
        waits = [_one_at_a_time(fleet, alone.count(LONE_RUNS)) for _ in range(alone.rounds)]
    what = f"dispatch overhead per agent at low load, ready to started, {broker}"
    return [
        Row(
            f"dispatch-{broker}-p{percent}",
            f"{what}, p{percent}",
            {OURS: [percentile(found, percent) for found in waits]},
            "ms",
            target,
            "at most",
        )
        for percent, target in ((50, 5.0), (95, 15.0))
    ]


def _one_at_a_time(fleet: Fleet, count: int) -> Sequence[float]:
    """Run chains one after the other; gives the milliseconds from ready to claimed of each agent run."""
    workflow, value, expected = SHAPES["chain"]
    since = fleet.scalar("SELECT clock_timestamp()")
    for _ in range(count):
        fleet.submit(workflow, [value])
        fleet.wait()
        time.sleep(0.01)
    fleet.finished(workflow, since, count, expected)
    waits = fleet.rows(
        "SELECT (extract(epoch FROM a.claimed_at - a.queued_at) * 1000)::float8 "
        "FROM @agent_run a JOIN @run r ON r.id = a.run_id WHERE r.created_at >= %s",
        since,
    )
    return [wait for (wait,) in waits]


def _pickup(bench: Bench, broker: str) -> Row:
    with bench.alone() as alone:
        fleet = Fleet(alone, broker, concurrency=SLOTS)
        fleet.start_worker()
        _gaps(fleet, alone, 20)
        rounds = [percentile(_gaps(fleet, alone, alone.count(BACKLOG)), 99) for _ in range(alone.rounds)]
    what = f"a saturated worker picks up the next task after a slot frees, {broker}, p99"
    return Row(f"pickup-{broker}", what, {OURS: rounds}, "ms", 20.0, "at most")


def _gaps(fleet: Fleet, bench: Bench, count: int) -> list[float]:
    """Work off a backlog; gives the milliseconds from the end of an agent to the start of the next in its thread."""
    ledger = bench.folder / f"ledger-{bench.token()}"
    since = fleet.scalar("SELECT clock_timestamp()")
    fleet.pause()  # so that the worker waits for nothing but itself
    fleet.submit("punctual", [{"ledger": str(ledger), "seconds": AGENT_SECONDS}] * count)
    fleet.resume()
    fleet.wait()
    fleet.finished("punctual", since, count, 1)
    wait_for(ledger.exists, "a ledger")
    spans = [tuple(int(part) for part in line.split()) for line in ledger.read_text().splitlines()]
    expect(len(spans), count, "executions in the ledger")
    slots: dict[int, list[tuple[int, int]]] = {}
    for thread, began, ended in spans:
        slots.setdefault(thread, []).append((began, ended))
    expect(len(slots), SLOTS, "slots in use")
    return [(after[0] - before[1]) / 1e6 for found in slots.values() for before, after in pairwise(sorted(found))]
