"""What an agent's loop of ten tools costs beside the SDK: against pydantic-ai and LangGraph, on the emulator."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from harness import HERE, OURS, Bench, BenchmarkError, Child, Row, Turned, interleaved
from models import cpu_ms, start_emulator
from others import interpreter
from ours import Fleet

MODEL = "gpt-5-mini"
CALLS = 10
#: How many calls of tools a model wishes for at a time.
WIDTHS = {"one": 1, "five": 5}
LOOPS = 40
#: What everybody pays is subtracted from all the others.
BARE = "the SDK by hand"
LOOP = "nightfleet, on the event loop"
INSIDE = "nightfleet, in memory"
PEERS = {
    BARE: "by-hand",
    "pydantic-ai": "pydantic-ai",
    "LangGraph": "langgraph",
    "LangGraph, Postgres": "langgraph-postgres",
}
#: Our sides: what is kept where, and the most that it may cost of what the cheapest of the others does.
SIDES = {
    OURS: ("journaled in Postgres", 1.0),
    LOOP: ("journaled in Postgres, on the event loop", 1.0),
    INSIDE: ("in memory", 0.5),
}
#: Agents that run in a thread, and on the event loop.
AGENT = {OURS: "adder", LOOP: "async_adder"}
AGENTS = HERE / "loop_agents"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side did in a round: processor time of a loop among others, and how long one alone took."""

    cpu_ms: float
    wall_ms: float


class Looper(Turned, Protocol):
    """One side."""

    child: Child

    def loop(self, count: int, at_a_time: int) -> float:
        """Run so many loops and check their answers; gives the seconds that they took together."""
        ...


class Talking:
    """A process that is told how many loops to run."""

    def __init__(self, bench: Bench, name: str, command: Sequence[Any], environment: dict[str, str]) -> None:
        self.name = name
        self.child = Child(bench, name.replace(", ", "-").replace(" ", "-"), command, environment, talks=True)

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def loop(self, count: int, at_a_time: int) -> float:
        return self.child.ask(count=count, at_a_time=at_a_time, text="Add.")["seconds"]


class Ours(Fleet):
    """A worker with the slots of the other sides; what its agents do is recorded in Postgres."""

    def __init__(self, bench: Bench, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self._agent = AGENT[name]
        self._given = environment
        super().__init__(bench, "redis", concurrency=bench.concurrency, agents=str(AGENTS))
        self.child = self.start_worker()

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self._given

    def loop(self, count: int, at_a_time: int) -> float:
        inputs = [{"text": f"Add. {number}", "most": CALLS + 2} for number in range(count)]
        since = self.scalar("SELECT clock_timestamp()")
        together = count if at_a_time > 1 else 1
        for first in range(0, count, together):
            self.submit(self._agent, inputs[first : first + together])
            self.wait()
        self.finished(self._agent, since, count, CALLS)
        # From claim to end: how fast a worker is told of an agent run is another benchmark.
        took = "max(a.finished_at) - min(a.claimed_at)" if at_a_time > 1 else "sum(a.finished_at - a.claimed_at)"
        of_runs = "FROM @agent_run a JOIN @run r ON r.id = a.run_id WHERE r.created_at >= %s"
        return self.scalar(f"SELECT extract(epoch FROM {took})::float8 {of_runs}", since)


def loops(bench: Bench) -> list[Row]:
    return [row for name, width in WIDTHS.items() for row in _loops(bench, name, width)]


def _loops(bench: Bench, name: str, width: int) -> list[Row]:
    with bench.alone() as alone:
        _, leads = start_emulator(alone, 0)
        _tell(leads["OPENAI_BASE_URL"], width)
        given = leads | {
            "NIGHTFLEET_MODEL": f"openai:{MODEL}",
            # That of the other sides.
            "NIGHTFLEET_OPENAI_API": "chat",
            # The other sides have no answers to share.
            "NIGHTFLEET_MODEL_CACHE_TTL": "0",
            "BENCH_MODEL": MODEL,
            "BENCH_CALLS": str(CALLS),
            "BENCH_CONCURRENCY": str(alone.concurrency),
            "BENCH_DATABASE_URL": alone.database_url,
            "BENCH_SCHEMA": alone.schema(f"loops{alone.token()}"),
        }
        python = interpreter(alone)
        sides: list[Looper] = [Ours(alone, name, given) for name in AGENT]
        sides += [Talking(alone, INSIDE, [sys.executable, HERE / "loops_inside.py"], given)]
        sides += [Talking(alone, side, [python, HERE / "loops_peers.py", what], given) for side, what in PEERS.items()]
        found: dict[str, list[Figures]] = {side.name: [] for side in sides}

        def measure(side: Looper) -> float:
            figures = _round(side, alone)
            found[side.name].append(figures)
            return figures.cpu_ms

        interleaved(alone, sides, measure)
    return _rows(name, found)


def _round(side: Looper, bench: Bench) -> Figures:
    side.loop(bench.concurrency, bench.concurrency)
    count = bench.count(LOOPS)
    before = cpu_ms(side.child)
    side.loop(count, bench.concurrency)
    took = cpu_ms(side.child) - before
    return Figures(took / count, side.loop(count // 2, 1) * 1000 / (count // 2))


def _rows(name: str, found: Mapping[str, Sequence[Figures]]) -> list[Row]:
    cpu = _beyond({side: [each.cpu_ms for each in figures] for side, figures in found.items()})
    wall = _beyond({side: [each.wall_ms for each in figures] for side, figures in found.items()})
    what = f"agent with {CALLS} tools, {name} at a time, beyond {BARE}"
    return [
        _row(f"loops-{name}-{kind}-{number}", f"{what}: {told}", side, figures)
        for number, side in enumerate(SIDES, 1)
        for kind, told, figures in (("cpu", "processor time", cpu), ("wall", "time of one alone", wall))
    ]


def _row(name: str, what: str, side: str, figures: Mapping[str, Sequence[float]]) -> Row:
    # Below nothing is what a machine that others use too has added to the SDK's own round: nothing to compare with.
    rivals = {peer: figures[peer] for peer in PEERS if peer != BARE and median(figures[peer]) > 0}
    if not rivals:
        raise BenchmarkError(f"{what}: no other side took longer than {BARE}; is the machine in use?")
    kept, target = SIDES[side]
    return Row(name, f"{what}, {kept}", {OURS: figures[side]} | rivals, "ms", target, "at most", ratio=True)


def _beyond(figures: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Give what each side took beyond that of the SDK in the same round."""
    bare = figures[BARE]
    return {
        side: [mine - theirs for mine, theirs in zip(values, bare, strict=True)]
        for side, values in figures.items()
        if side != BARE
    }


def _tell(url: str, width: int) -> None:
    """Tell the emulator which tools to wish for, at which turn of any conversation."""
    turns = CALLS // width
    wishes = [
        [
            {"name": "add", "arguments": {"first": turn, "second": place}, "id": f"call-{turn}-{place}"}
            for place in range(width)
        ]
        for turn in range(turns)
    ]
    replies = [{"tool_calls": calls} for calls in wishes] + [{"text": "Done."}]
    rules = [{"when": {"turn": turn}, "replies": [reply], "repeat": True} for turn, reply in enumerate(replies)]
    request = urllib.request.Request(f"{url.removesuffix('/v1')}/_script", json.dumps(rules).encode())
    urllib.request.urlopen(request, timeout=10).close()
