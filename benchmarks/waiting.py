"""Hundreds of agents that wait in one worker process: its memory, and how fast slots turn over."""

from __future__ import annotations

from harness import OURS, Bench, Row
from ours import SHAPES, Fleet

SLOTS = 300
WAVES = 4


def waiting(bench: Bench) -> list[Row]:
    return [row for kind in ("sync", "async") for row in _waiting(bench, kind)]


def _waiting(bench: Bench, kind: str) -> list[Row]:
    rates: list[float] = []
    peaks: list[float] = []
    with bench.alone() as alone:
        fleet = Fleet(alone, "rabbitmq", concurrency=SLOTS)
        worker = fleet.start_worker()
        for _ in range(alone.rounds):
            rates.append(_rate(fleet, kind))
            peaks.append(worker.memory_mb("VmHWM"))
    what = f"{SLOTS} {kind} agents waiting 1 s each in one worker process"
    return [
        Row(f"waiting-{kind}-memory", f"{what}, most resident memory", {OURS: peaks}, "MB", 120.0, "at most"),
        Row(f"waiting-{kind}-rate", f"{what}, steady rate", {OURS: rates}, "agents/s", 260.0),
    ]


def _rate(fleet: Fleet, kind: str) -> float:
    """Give agents per second between the end of the first wave and the end of the last."""
    workflow, value, expected = SHAPES[kind]
    count = SLOTS * WAVES
    since = fleet.scalar("SELECT clock_timestamp()")
    fleet.submit(workflow, [value] * count)
    fleet.wait()
    fleet.finished(workflow, since, count, expected)
    ends = fleet.rows("SELECT finished_at FROM @run WHERE created_at >= %s ORDER BY 1", since)
    return (count - SLOTS) / (ends[-1][0] - ends[SLOTS - 1][0]).total_seconds()
