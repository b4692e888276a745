#!/usr/bin/env python3
"""Run the benchmarks: both sides of every comparison in one run, in turns, with the servers of the tests.

    python benchmarks/run.py                       all of them
    python benchmarks/run.py chain chord           some of them (or --only chain,chord)
    python benchmarks/run.py --scale 0.2           quick, for a first look
    python benchmarks/run.py --json                rows and every round, for programs
    python benchmarks/run.py --markdown            ... and write the figures into docs/benchmarks.md

The exit code is 1 when a benchmark failed (its work was wrong or did not end), not when a target was not met.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The other modules here by path; the servers of the tests after everything else, whatever else is beside them.
sys.path.insert(0, str(HERE))
sys.path.append(str(HERE.parent / "tests"))

import psycopg  # noqa: E402
import services  # noqa: E402
from batch import batch  # noqa: E402
from conversations import conversations  # noqa: E402
from effects import effects  # noqa: E402
from embedded import embedded  # noqa: E402
from footprint import memory, startup  # noqa: E402
from harness import OURS, ROOT, Bench, BenchmarkError, Row  # noqa: E402
from kombu.connection import Connection  # noqa: E402
from latency import dispatch, pickup  # noqa: E402
from limiter import limiter  # noqa: E402
from listing import listing  # noqa: E402
from loops import loops  # noqa: E402
from models import models  # noqa: E402
from others import CONSTRAINTS  # noqa: E402
from producing import submit  # noqa: E402
from redis import Redis  # noqa: E402
from resuming import replay, resume  # noqa: E402
from scaling import scaling  # noqa: E402
from takeover import takeover  # noqa: E402
from talking import talking  # noqa: E402
from throughput import chain, chord, others  # noqa: E402
from waiting import waiting  # noqa: E402

from orchestrator.clock import system_clock  # noqa: E402

Benchmark = Callable[[Bench], list[Row]]

BENCHMARKS: dict[str, Benchmark] = {
    made.__name__: made
    for made in (
        chain,
        chord,
        others,
        submit,
        dispatch,
        pickup,
        batch,
        listing,
        effects,
        limiter,
        models,
        loops,
        conversations,
        resume,
        replay,
        takeover,
        embedded,
        talking,
        waiting,
        scaling,
        memory,
        startup,
    )
}

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- Figures: written by benchmarks/run.py --markdown -->", "<!-- End of figures -->"


def main() -> int:
    options = _options()
    for name in [name for name in os.environ if name.startswith("NIGHTFLEET_") and "_TEST_" not in name]:
        del os.environ[name]  # settings of an installation that is not measured here
    # Told to end, we still stop what we started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    rows: list[Row] = []
    failures: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        bench = Bench(
            urls=services.start(),
            rounds=options.rounds,
            scale=options.scale,
            concurrency=options.concurrency,
            folder=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nightfleet-bench-"))),
            stack=stack,
            quiet=options.json,
        )
        for name in options.names:
            try:
                found = BENCHMARKS[name](bench)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on and the exit code tells
                failures[name] = str(error) if isinstance(error, BenchmarkError) else traceback.format_exc()
                bench.say(f"{name}: FAILED: {failures[name]}\n")
                continue
            rows.extend(found)
            for row in found:
                bench.say(_line(row))
        seconds = time.monotonic() - began
        facts = _facts(bench, options)
    if options.json:
        print(json.dumps({"facts": facts, "rows": [row.as_json() for row in rows], "failures": failures}, indent=2))
    else:
        missed = [row.name for row in rows if not row.met]
        print(f"\n{len(rows) - len(missed)} of {len(rows)} targets met in {seconds:.0f} s", end="")
        print(f"; not met: {', '.join(missed)}" if missed else "")
    if options.markdown and not failures:
        _write(_markdown(rows, facts))
    for name, reason in failures.items():
        print(f"{name} FAILED: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--only", default="", metavar="NAME,...", help="the same as names")
    parser.add_argument("--rounds", type=int, default=5, help="of each side; the median counts (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of runs in a round (1)")
    parser.add_argument("--concurrency", type=int, default=8, help="slots of every side where throughput counts (8)")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--markdown", action="store_true", help=f"write the figures into {DOCUMENT.name}")
    options = parser.parse_args()
    options.names = [*options.names, *filter(None, options.only.split(","))] or list(BENCHMARKS)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if options.rounds < 1 or options.scale <= 0 or options.concurrency < 1:
        parser.error("rounds, scale and concurrency must be positive")
    if options.markdown and list(options.names) != list(BENCHMARKS):
        parser.error("--markdown writes the whole table: run all benchmarks with it")
    return options


def _line(row: Row) -> str:
    figures = ", ".join(f"{side} {_number(figure)}" for side, figure in row.figures.items())
    verdict = "met" if row.met else "NOT MET"
    return f"{row.name:22} {_value(row):>12}  {row.direction} {row.target:g}  {verdict:8} {figures} {row.unit}"


def _value(row: Row) -> str:
    return f"{row.value:.2f}x" if row.ratio else f"{_number(row.value)} {row.unit}"


def _number(figure: float) -> str:
    return f"{figure:.3g}" if figure < 100 else f"{figure:.0f}"


def _facts(bench: Bench, options: argparse.Namespace) -> dict[str, str]:
    """Say what was measured with, as it says of itself."""
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    with psycopg.connect(bench.database_url) as connection:
        postgres = connection.info.server_version // 10000
    with Redis.from_url(bench.broker_url("redis")) as client:
        redis = client.info("server")["redis_version"]
    with Connection(bench.broker_url("rabbitmq")) as connection:
        connection.connect()
        rabbitmq = getattr(connection.connection, "server_properties", {}).get("version", "unknown")
    libraries = " · ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "psycopg", "sqlalchemy"))
    others_ = " · ".join(f"{name} {pinned[name]}" for name in ("langgraph", "langgraph-checkpoint-postgres", "dbos"))
    return {
        "date": f"{system_clock.now():%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, servers and all processes on it",
        "python": platform.python_version(),
        "servers": f"Postgres {postgres} · RabbitMQ {rabbitmq} · Redis {redis}",
        "libraries": libraries,
        "compared with": others_,
        "rounds": f"{options.rounds}, scale {options.scale:g}, {options.concurrency} slots",
    }


def _markdown(rows: Sequence[Row], facts: dict[str, str]) -> str:
    lines = ["", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    lines += ["| what | figure | target | | medians |", "|---|---|---|---|---|"]
    for row in rows:
        medians = "; ".join(
            f"{side} {_number(figure)}" for side, figure in row.figures.items() if row.ratio or side != OURS
        )
        unit = f" {row.unit}" if medians else ""
        target = f"{row.direction} {row.target:g}{'x' if row.ratio else f' {row.unit}'}"
        lines.append(f"| {row.what} | {_value(row)} | {target} | {'met' if row.met else 'not met'} | {medians}{unit} |")
    return "\n".join([*lines, ""])


def _write(figures: str) -> None:
    text = DOCUMENT.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"{DOCUMENT} has lost its markers: {BEGIN} ... {END}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
