"""Workers that are killed: how long it takes until another worker has claimed what they held."""

from __future__ import annotations

import time
from datetime import datetime

from harness import BIN, OURS, Bench, Child, Row, expect, percentile, wait_for
from ours import DURABLE_AGENTS, Fleet

VICTIMS = 10
#: Default settings: a lease is given up when nothing was heard for so long.
HEARTBEAT_SECONDS, LEASE_SECONDS = 5.0, 15.0
TARGET_SECONDS = LEASE_SECONDS + 5.0


def takeover(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        seconds = _killed(Fleet(alone, "rabbitmq", agents=DURABLE_AGENTS), alone)
    what = f"an agent is claimed by another worker after kill -9 of its own, lease {LEASE_SECONDS:.0f} s"
    figures = ((50, seconds), (95, [percentile(seconds, 95)]))
    return [
        Row(f"takeover-p{percent}", f"{what}, p{percent}", {OURS: found}, "s", TARGET_SECONDS, "at most")
        for percent, found in figures
    ]


def _killed(fleet: Fleet, bench: Bench) -> list[float]:
    """Kill workers that hold one agent run each; gives the seconds from each kill to the next claim."""
    marks = bench.folder / f"marks-{bench.token()}"
    marks.mkdir()
    since = fleet.scalar("SELECT clock_timestamp()")
    victims = {worker.process.pid: worker for worker in (_worker(fleet, 1) for _ in range(VICTIMS))}
    wait_for(lambda: fleet.scalar("SELECT count(*) FROM @worker") == VICTIMS, "the workers join")
    fleet.submit("held", [{"marks": str(marks)}] * VICTIMS)
    wait_for(lambda: len(list(marks.iterdir())) == VICTIMS, "every worker executes an agent")
    survivor = _worker(fleet, VICTIMS)
    wait_for(lambda: fleet.scalar("SELECT count(*) FROM @worker") == VICTIMS + 1, "the survivor joins", alive=survivor)
    held = fleet.rows("SELECT a.id, w.pid FROM @agent_run a JOIN @worker w ON w.id = a.worker_id ORDER BY w.pid")
    expect([pid for _, pid in held], sorted(victims), "workers that hold an agent run")
    killed: dict[str, datetime] = {}
    for identity, pid in held:
        killed[identity] = fleet.scalar("SELECT clock_timestamp()")
        victims[pid].kill()
        time.sleep(HEARTBEAT_SECONDS / VICTIMS)  # so that the moments of their last beats differ
    fleet.wait()
    fleet.finished("held", since, VICTIMS, 1)
    claims = fleet.rows("SELECT id, claimed_at, epoch FROM @agent_run")
    expect({epoch for _, _, epoch in claims}, {2}, "claims of each agent run")
    return [(claimed_at - killed[identity]).total_seconds() for identity, claimed_at, _ in claims]


def _worker(fleet: Fleet, slots: int) -> Child:
    command = [BIN / "nightfleet", "worker", "--concurrency", str(slots)]
    return Child(fleet.bench, "worker", command, fleet.environment)
