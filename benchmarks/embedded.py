"""Embedded mode: runs per second of a process that is producer, broker and worker at once."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

from harness import HERE, OURS, Bench, Child, Row, expect

from orchestrator import Orchestrator

RUNS = 500
TARGET = 350.0


def embedded(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        process = Child(alone, "embedded", [sys.executable, __file__], {}, talks=True)
        process.ask(count=50)
        rounds: list[float] = []
        for _ in range(alone.rounds):
            count = alone.count(RUNS)
            rounds.append(count / process.ask(count=count)["seconds"])
    return [Row("embedded", "embedded: chain of 3 no-op agents", {OURS: rounds}, "runs/s", TARGET)]


def measure(nf: Orchestrator, count: int) -> float:
    """Run so many chains; gives the seconds from the first submit to the last end."""
    began = time.monotonic()
    handles = nf.submit_many("noop_a | noop_b | noop_c", [{"n": 0}] * count)
    results = [handle.wait(timeout=60) for handle in reversed(handles)]
    seconds = time.monotonic() - began
    expect({(result.state, result.output["n"]) for result in results}, {("succeeded", 3)}, "results")
    return seconds


def main() -> None:
    # Answers have stdout to themselves; whatever else writes there goes to the log.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with (
        tempfile.TemporaryDirectory() as home,
        Orchestrator.embedded(home, agents_path=str(HERE / "agents")) as nf,
    ):
        for line in sys.stdin:
            try:
                answer: dict[str, Any] = {"seconds": measure(nf, json.loads(line)["count"])}
            except Exception as error:  # noqa: BLE001 - whoever asked decides
                answer = {"error": repr(error)}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
