"""What a model call costs a worker: a thousand in flight in one process, against the provider's SDK alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from harness import BIN, HERE, OURS, Bench, Child, Row, Turned, expect, interleaved
from ours import Fleet


class Shape(NamedTuple):
    """What one agent asks."""

    lanes: int
    calls: int


MODEL = "gpt-5-mini"
#: How many calls are in flight, and for how long each.
LANES = 1000
SECONDS = 1.0
#: Questions that a lane asks one after the other; one more before, so that connections are open.
CALLS = 3
#: On how many of these lanes an agent asks, and how often on each; every other call is one of another agent.
SHAPES = {"gathered": Shape(50, CALLS), "single": Shape(1, 1)}
#: How many lanes share a client of the SDK: its HTTP library looks at all connections of a client for each request.
BARE = {"bare SDK": LANES, "bare SDK, 50 calls a client": 50}
EMULATOR = "the emulator"

#: Limits that are never reached: what is measured is what it takes to ask.
LIMITS = """
[[limits]]
model = "openai:*"
per = ["model", "credential"]
requests_per_minute = 1e9
tokens_per_minute = 1e12
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side did in a round: calls a second, processor time for each, and its most resident memory."""

    rate: float
    cpu_ms: float
    emulator_ms: float
    memory_mb: float


class Caller(Turned, Protocol):
    """One side."""

    child: Child

    def ask(self, calls: int) -> list[float]:
        """Ask so many questions on each lane; gives the seconds at which answers were there, in order."""
        ...


class Bare:
    """The SDK in a loop."""

    def __init__(self, bench: Bench, environment: dict[str, str], name: str) -> None:
        self.name = name
        given = {"BENCH_LANES": str(LANES), "BENCH_LANES_OF_A_CLIENT": str(BARE[name]), "BENCH_MODEL": MODEL}
        command = [sys.executable, HERE / "models_bare.py"]
        self.child = Child(bench, "bare-sdk", command, environment | given, talks=True)

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def ask(self, calls: int) -> list[float]:
        return self.child.ask(calls=calls)["ends"]


class Ours(Fleet):
    """A worker with as many slots and calls as there are lanes; everything else is as it comes."""

    def __init__(self, bench: Bench, environment: dict[str, str], shape: Shape) -> None:
        self._given = environment
        self._shape = shape
        super().__init__(bench, "redis", concurrency=LANES, agents=str(HERE / "model_agents"))
        self.child = self.start_worker()

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self._given

    def ask(self, calls: int) -> list[float]:
        lanes, each = self._shape.lanes, min(calls, self._shape.calls)
        agents = LANES * calls // (lanes * each)
        since = self.scalar("SELECT clock_timestamp()")
        self.submit("asker", [{"lanes": lanes, "calls": each}] * agents)
        self.wait(timeout=600)
        self.finished("asker", since, agents, lanes * each)
        ends = "SELECT extract(epoch FROM settled_at)::float8 FROM @model_call WHERE created_at >= %s AND state = 'settled'"
        return [end for (end,) in self.rows(f"{ends} ORDER BY 1", since)]


def models(bench: Bench) -> list[Row]:
    return [row for name in SHAPES for row in _models(bench, name)]


def _models(bench: Bench, name: str) -> list[Row]:
    found: dict[str, list[Figures]] = {side: [] for side in (OURS, *BARE)}
    with bench.alone() as alone:
        emulator, environment = start_emulator(alone, SECONDS)
        (alone.folder / "models.toml").write_text(LIMITS)
        given = {
            "NIGHTFLEET_MODEL": f"openai:{MODEL}",
            "NIGHTFLEET_OPENAI_API": "responses",
            "NIGHTFLEET_MODELS_FILE": str(alone.folder / "models.toml"),
            "NIGHTFLEET_MODEL_CALLS": str(LANES),
            # Each asks something else: the SDK has no answers to share either.
            "NIGHTFLEET_MODEL_CACHE_TTL": "0",
        }
        sides: list[Caller] = [Ours(alone, environment | given, SHAPES[name])]
        sides += [Bare(alone, environment, side) for side in BARE]

        def measure(side: Caller) -> float:
            figures = _round(side, emulator)
            found[side.name].append(figures)
            return figures.rate

        interleaved(alone, sides, measure)
    return _rows(name, found)


def _round(side: Caller, emulator: Child) -> Figures:
    side.ask(1)
    before, emulated = cpu_ms(side.child), cpu_ms(emulator)
    ends = side.ask(CALLS)
    took, emulated = cpu_ms(side.child) - before, cpu_ms(emulator) - emulated
    calls = LANES * CALLS
    expect(len(ends), calls, "answers")
    # Between the end of the first wave and the end of the last: how a side begins is not what is measured.
    rate = (calls - LANES) / (ends[-1] - ends[LANES - 1])
    return Figures(rate, took / calls, emulated / calls, side.child.memory_mb("VmHWM"))


def _rows(name: str, found: Mapping[str, Sequence[Figures]]) -> list[Row]:
    shape = SHAPES[name]
    each = f"{shape.lanes} of an agent" if shape.lanes > 1 else "each of another agent"
    what = f"{LANES:,} model calls of {SECONDS:g} s in flight in one worker process, {each}"
    rate = {side: [each.rate for each in figures] for side, figures in found.items()}
    cpu = {side: [each.cpu_ms for each in figures] for side, figures in found.items()}
    memory = {side: [each.memory_mb for each in figures] for side, figures in found.items()}
    beside = {"in all": cpu[OURS], EMULATOR: [each.emulator_ms for each in found[OURS]]}
    return [
        Row(f"models-{name}-rate", what, rate, "calls/s", 0.9 * LANES / SECONDS),
        *(
            Row(
                f"models-{name}-cpu-{number}",
                f"{what}: processor time of a call beyond that of the {side}",
                {OURS: [mine - theirs for mine, theirs in zip(cpu[OURS], cpu[side], strict=True)], side: cpu[side]}
                | beside,
                "ms",
                1.5,
                "at most",
            )
            for number, side in enumerate(BARE, 1)
        ),
        Row(f"models-{name}-memory", f"{what}: most resident memory", memory, "MB", 256.0, "at most"),
    ]


def start_emulator(bench: Bench, seconds: float) -> tuple[Child, dict[str, str]]:
    """Start the provider in a process of its own; gives it, and what leads clients to it."""
    command = [BIN / "nightfleet", "emulator", "--port", "0", "--latency", f"{seconds:g}"]
    child = Child(bench, "emulator", command, {}, talks=True)
    said = child.process.stdout
    assert said is not None
    lines = [said.readline() for _ in range(2)]
    pairs = (line.removeprefix("export ").strip().partition("=") for line in lines)
    return child, {name: value for name, _, value in pairs}


def cpu_ms(child: Child) -> float:
    """Give the processor time that a process has taken so far."""
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
