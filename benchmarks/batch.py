"""Data sets: `batch run` against `submit_many` and waiting for the same runs, and what a batch keeps in memory."""

from __future__ import annotations

import json
import time
from pathlib import Path

from harness import BIN, OURS, Bench, BenchmarkError, Child, Row, Side, expect, interleaved, wait_for
from ours import Fleet

ROWS = 10_000
MANY_ROWS = 100_000
WORKFLOW = "noop_a | noop_b"
PROCESSES = 2


class Batch:
    """`nightfleet batch run`, as a user starts it."""

    name = OURS

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.peak_mb = 0.0

    def run(self, shape: str, count: int) -> float:
        """Put so many rows through the workflow and check the results; gives rows per second."""
        data = _data(self.fleet.bench, count)
        out = data.with_suffix(".results.jsonl")
        command = [BIN / "nightfleet", "batch", "run", data, "--workflow", shape, "--out", out]
        began = time.monotonic()
        child = Child(self.fleet.bench, "batch", command, self.fleet.environment)
        while child.process.poll() is None:
            self.peak_mb = max(self.peak_mb, _peak_mb(child))
            time.sleep(0.04)
        seconds = time.monotonic() - began
        expect(child.process.returncode, 0, f"batch run: exit code\n{child.failed('')}")
        with out.open() as file:
            found = [(row["line"], row["output"]["n"]) for row in map(json.loads, file)]
        wrong = set(found) ^ {(line, line + 1) for line in range(1, count + 1)}
        expect((len(found), wrong), (count, set()), "one right result for each row")
        return count / seconds

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class SubmitMany:
    """`submit_many` in this process, until no run is open."""

    name = "submit_many"

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def run(self, shape: str, count: int) -> float:
        """Submit and wait; gives runs per second."""
        opened = "SELECT count(*) FROM (SELECT 1 FROM @run WHERE state IN ('pending', 'running') LIMIT 1) open"
        since = self.fleet.scalar("SELECT clock_timestamp()")
        began = time.monotonic()
        self.fleet.submit(shape, [{"n": index} for index in range(count)])
        wait_for(lambda: self.fleet.scalar(opened) == 0, "all runs end", timeout=60 + count / 20)
        seconds = time.monotonic() - began
        done = "SELECT count(*) FROM @run WHERE state = 'succeeded' AND created_at >= %s"
        expect(self.fleet.scalar(done, since), count, "runs that succeeded")
        return count / seconds

    def pause(self) -> None: ...

    def resume(self) -> None: ...


def batch(bench: Bench) -> list[Row]:
    """Rate and memory, with two worker processes."""
    with bench.alone() as alone:
        fleet = _fleet(alone)
        sides: list[Side] = [Batch(fleet), SubmitMany(fleet)]
        for side in sides:
            side.run(WORKFLOW, min(200, alone.count(ROWS)))
        rounds = interleaved(alone, sides, lambda side: side.run(WORKFLOW, alone.count(ROWS)), together=True)
        few, many = Batch(fleet), Batch(fleet)
        few.run(WORKFLOW, alone.count(ROWS))
        many.run(WORKFLOW, alone.count(MANY_ROWS))
    what = f"batch run of {ROWS:,} rows through 2 agents vs submit_many and waiting, {PROCESSES} worker processes"
    memory = f"peak memory of batch run: {MANY_ROWS:,} rows vs {ROWS:,}"
    peaks = {OURS: [many.peak_mb], f"{ROWS:,} rows": [few.peak_mb]}
    return [
        Row("batch", what, rounds, "rows/s", 0.8, ratio=True),
        Row("batch-memory", memory, peaks, "MB", 1.2, "at most", ratio=True),
    ]


def _fleet(bench: Bench) -> Fleet:
    fleet = Fleet(bench, "rabbitmq")
    workers = Child(bench, "workers", [BIN / "nightfleet", "worker", "--processes", str(PROCESSES)], fleet.environment)
    wait_for(lambda: fleet.scalar("SELECT count(*) FROM @worker") == PROCESSES, "the workers join", alive=workers)
    return fleet


def _data(bench: Bench, count: int) -> Path:
    path = bench.folder / f"rows-{bench.token()}.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"n": {index}}}\n' for index in range(count))
    return path


def _peak_mb(child: Child) -> float:
    try:
        return child.memory_mb("VmHWM")
    except (OSError, BenchmarkError):  # it has just ended
        return 0.0
