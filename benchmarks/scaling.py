"""Agents that wait, on one worker process and on four: whether four do four times as much."""

from __future__ import annotations

from harness import OURS, Bench, Row
from ours import SHAPES, Fleet

SECONDS = 0.2
PROCESSES = 4
#: So few that the processor is not what four processes run into.
SLOTS = 4
#: Waves of agents in a round, the same number for one process and for four.
WAVES = 15


def scaling(bench: Bench) -> list[Row]:
    return [_scaling(bench, broker) for broker in ("rabbitmq", "redis")]


def _scaling(bench: Bench, broker: str) -> Row:
    with bench.alone() as alone:
        one = Fleet(alone, broker, concurrency=SLOTS)
        four = Fleet(alone, broker, concurrency=SLOTS, processes=PROCESSES)
        # Not stopped in between: an idle worker takes next to nothing, and a supervisor's processes are not its group.
        one.start_worker()
        four.start_worker()
        efficiency = [_rate(four, PROCESSES * SLOTS) / _rate(one, SLOTS) / PROCESSES for _ in range(alone.rounds)]
    what = f"{PROCESSES} worker processes against 1, {SLOTS} slots each, agents that wait {SECONDS * 1000:.0f} ms, {broker}"
    return Row(f"scaling-{broker}", f"{what}, efficiency", {OURS: efficiency}, "of 1", 0.9)


def _rate(fleet: Fleet, slots: int) -> float:
    """Give agents per second from the first claim to the last end, with a backlog from the beginning."""
    workflow, _, expected = SHAPES["sync"]
    count = slots * WAVES
    since = fleet.scalar("SELECT clock_timestamp()")
    fleet.submit(workflow, [{"seconds": SECONDS}] * count)
    fleet.wait()
    fleet.finished(workflow, since, count, expected)
    seconds = fleet.scalar(
        "SELECT extract(epoch FROM max(a.finished_at) - min(a.claimed_at)) "
        "FROM @agent_run a JOIN @run r ON r.id = a.run_id WHERE r.created_at >= %s",
        since,
    )
    return count / float(seconds)
