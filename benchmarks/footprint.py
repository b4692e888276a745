"""What a process costs before it works: memory, and the time to start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness import BIN, OURS, ROOT, Bench, Child, Row, clean_environment, expect, wait_for
from ours import Fleet

STARTS = 10

#: Run by a process of its own, whose memory is that of a producer.
PRODUCER = """
from pathlib import Path
from orchestrator import Orchestrator
with Orchestrator() as nf:
    nf.submit("reader | summarizer", {"text": "Celery moves, Postgres remembers."})
    print(Path("/proc/self/status").read_text())
"""


def memory(bench: Bench) -> list[Row]:
    idle: list[float] = []
    producer: list[float] = []
    with bench.alone() as alone:
        # With the agents that ship, and default settings.
        fleet = Fleet(alone, "rabbitmq", agents=str(ROOT / "agents"))
        for _ in range(alone.rounds):
            worker = fleet.start_worker()
            _settle(worker)
            idle.append(worker.memory_mb())
            fleet.stop_worker()
            producer.append(_producer_mb(fleet))
            fleet.discard_messages()
    return [
        Row(
            "memory-worker",
            "idle worker before any model SDK is used, resident memory",
            {OURS: idle},
            "MB",
            75.0,
            "at most",
        ),
        Row(
            "memory-producer",
            "producer process after a submit, resident memory",
            {OURS: producer},
            "MB",
            65.0,
            "at most",
        ),
    ]


def startup(bench: Bench) -> list[Row]:
    del bench
    help_, package, surface = (
        ([BIN / "nightfleet", "--help"], "nightfleet --help", 0.4),
        ([sys.executable, "-c", "import orchestrator"], "import orchestrator", 0.3),
        (
            [sys.executable, "-c", "from orchestrator import *"],
            "from orchestrator import *: every name of the surface, loaded",
            0.3,
        ),
    )
    return [
        Row(f"startup-{name}", what, {OURS: [_wall(command) for _ in range(STARTS)]}, "s", target, "at most")
        for name, (command, what, target) in (("help", help_), ("import", package), ("surface", surface))
    ]


def _settle(worker: Child) -> None:
    """Wait until the memory of a process that has nothing to do stays the same."""
    seen = [0.0, 0.0]

    def settled() -> bool:
        time.sleep(0.7)
        seen[:] = [seen[1], worker.memory_mb()]
        return seen[0] == seen[1]

    wait_for(settled, "the worker is idle", alive=worker)


def _producer_mb(fleet: Fleet) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER],
        env=clean_environment() | fleet.environment,
        cwd=fleet.bench.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    expect(done.returncode, 0, f"the producer's exit code\n{done.stderr[-2000:]}")
    found = [line for line in done.stdout.splitlines() if line.startswith("VmRSS:")]
    return int(found[0].split()[1]) * 1024 / 1e6


def _wall(command: Sequence[str | Path]) -> float:
    began = time.monotonic()
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    expect(done.returncode, 0, f"{command[0]}: exit code\n{done.stderr[-2000:]}")
    return seconds
