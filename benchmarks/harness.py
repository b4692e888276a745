"""What every benchmark needs: rows that are computed from measurements, processes that it owns, and interleaving."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import psycopg

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent

BROKERS = ("rabbitmq", "redis")

#: The side whose figure a row is about.
OURS = "nightfleet"

Measured = dict[str, list[float]]


class BenchmarkError(Exception):
    """A side did not do what it was asked to do: there is no figure then."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. It holds what was measured, round by round; all that is shown is computed from that."""

    name: str
    what: str
    #: Rounds of each side; the first side is ours, the others are what it is compared with.
    rounds: Mapping[str, Sequence[float]]
    unit: str
    target: float
    direction: Literal["at least", "at most"] = "at least"
    #: With baselines: the ratio to the best of them counts. Without: our own figure.
    ratio: bool = False

    @property
    def figures(self) -> dict[str, float]:
        """The median of each side's rounds."""
        return {side: statistics.median(values) for side, values in self.rounds.items()}

    @property
    def best_rival(self) -> str | None:
        """The baseline that counts: the best of them."""
        rivals = {side: figure for side, figure in self.figures.items() if side != OURS}
        best = max if self.direction == "at least" else min
        return best(rivals, key=lambda side: rivals[side]) if self.ratio else None

    @property
    def value(self) -> float:
        """What is compared with the target."""
        figures = self.figures
        rival = self.best_rival
        return figures[OURS] if rival is None else figures[OURS] / figures[rival]

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.direction == "at least" else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "value": self.value,
            "unit": "x" if self.ratio else self.unit,
            "direction": self.direction,
            "target": self.target,
            "met": self.met,
            "compared_with": self.best_rival,
            "medians": self.figures,
            "rounds": {side: list(values) for side, values in self.rounds.items()},
            "rounds_unit": self.unit,
        }


@dataclass(slots=True)
class Bench:
    """One invocation: where the servers are, how long to measure, and what to clean up."""

    urls: Mapping[str, str]
    rounds: int
    scale: float
    concurrency: int
    folder: Path
    stack: contextlib.ExitStack
    quiet: bool = False

    @property
    def database_url(self) -> str:
        return self.urls["NIGHTFLEET_TEST_DATABASE_URL"]

    def broker_url(self, kind: str) -> str:
        return self.urls[f"NIGHTFLEET_TEST_{kind.upper()}_URL"]

    def redis_url(self, database: int) -> str:
        return urlsplit(self.broker_url("redis"))._replace(path=f"/{database}").geturl()

    def token(self) -> str:
        """Give a name that nothing else has."""
        return secrets.token_hex(3)

    def count(self, full: int) -> int:
        """Scale a number of runs."""
        return max(20, round(full * self.scale))

    def say(self, text: str) -> None:
        """Tell who waits what goes on."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def database(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection for what the harness asks itself; closed at the end."""
        return self.stack.enter_context(contextlib.closing(psycopg.connect(self.database_url, autocommit=True)))

    def schema(self, name: str) -> str:
        """Make an empty schema that goes with this invocation."""
        connection = self.database()
        connection.execute(f'CREATE SCHEMA "{name}"'.encode())
        self.stack.callback(lambda: connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'.encode()))
        return name

    @contextlib.contextmanager
    def alone(self) -> Generator[Bench]:
        """Give the same invocation for one benchmark: what it starts ends with it."""
        with contextlib.ExitStack() as stack:
            yield dataclasses.replace(self, stack=stack)


class Child:
    """A process of ours: its output goes to a file, it can be stopped in its tracks, and it ends with us."""

    def __init__(
        self, bench: Bench, name: str, command: Sequence[str | Path], env: Mapping[str, str], *, talks: bool = False
    ) -> None:
        self.name = name
        self._log = bench.folder / f"{name}-{bench.token()}.log"
        self._stopped = False
        with self._log.open("wb") as log:
            self.process: subprocess.Popen[str] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                env={**clean_environment(), **env},
                cwd=bench.folder,
                text=True,
                start_new_session=True,
            )
        bench.stack.callback(self.kill)

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a line of JSON, wait for the line that answers it."""
        questions, answers = self._pipes()
        questions.write(json.dumps(question) + "\n")
        questions.flush()
        line = answers.readline()
        if not line:
            raise self.failed("it ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self.failed(answer["error"])
        return answer

    def pause(self) -> None:
        """Take the processor from it."""
        self.check()
        if not self._stopped:
            self.process.send_signal(signal.SIGSTOP)
            self._stopped = True

    def resume(self) -> None:
        """Let it go on."""
        if self._stopped:
            self.process.send_signal(signal.SIGCONT)
            self._stopped = False

    def check(self) -> None:
        """Raise if it has ended."""
        if self.process.poll() is not None:
            raise self.failed(f"it ended with exit code {self.process.returncode}")

    def end(self, patience_seconds: float = 40.0) -> None:
        """End it in good order; raises `BenchmarkError` when it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            self.resume()
            try:
                self.process.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise self.failed(f"it did not end within {patience_seconds:g} s") from None
        self._close()

    def kill(self) -> None:
        """End it at once: it has nothing to lose."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def memory_mb(self, key: Literal["VmRSS", "VmHWM"] = "VmRSS") -> float:
        """Give its resident memory, now or at most."""
        return memory_mb(self.process.pid, key)

    def failed(self, reason: str) -> BenchmarkError:
        """Make the error that shows the end of its log."""
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        return BenchmarkError(f"{self.name}: {reason}\n{tail}")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError(f"{self.name} does not talk")
        return self.process.stdin, self.process.stdout


class Turned(Protocol):
    """One side of a comparison; between its turns it gets no processor."""

    name: str

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Side(Turned, Protocol):
    """One that runs workflows."""

    def run(self, shape: str, count: int) -> float:
        """Run so many workflows and check each result; give runs per second, first submit to last completion."""
        ...


T = TypeVar("T", bound=Turned)
S = TypeVar("S", bound=Side)


def interleaved(bench: Bench, sides: Sequence[T], measure: Callable[[T], float], *, together: bool = False) -> Measured:
    """Measure every side once in each round, in turns; only one of them runs at a time."""
    rounds: Measured = {side.name: [] for side in sides}
    if not together:
        for side in sides:
            side.pause()
    for _ in range(bench.rounds):
        for side in sides:
            side.resume()
            gc.collect()
            rounds[side.name].append(measure(side))
            if not together:
                side.pause()
    for side in sides:
        side.resume()
    return rounds


def throughput(bench: Bench, sides: Sequence[S], shape: str, counts: Mapping[str, int]) -> Measured:
    """Measure runs per second of each side, in turns; `counts` has the number of runs by the side's name."""

    def measure(side: S) -> float:
        side.run(shape, 5)  # what piled up while it was stopped is not what is measured
        return side.run(shape, counts[side.name])

    for side in sides:
        side.run(shape, min(60, counts[side.name]))
    return interleaved(bench, sides, measure)


def wait_for(ready: Callable[[], bool], what: str, *, alive: Child | None = None, timeout: float = 60.0) -> None:
    """Ask again and again, seldom enough not to disturb; raises `BenchmarkError` after the timeout."""
    deadline = time.monotonic() + timeout
    while not ready():
        if alive is not None:
            alive.check()
        if time.monotonic() > deadline:
            reason = f"{what}: not within {timeout:g} s"
            raise BenchmarkError(reason) if alive is None else alive.failed(reason)
        time.sleep(0.04)


def expect(found: object, wanted: object, what: str) -> None:
    """Raise `BenchmarkError` unless both are equal: a figure for wrong work is no figure."""
    if found != wanted:
        raise BenchmarkError(f"{what}: {found!r}, expected {wanted!r}")


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the smallest value that at least so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]


def memory_mb(pid: int | Literal["self"], key: str) -> float:
    """Give a process's resident memory in MB (10^6 bytes), as the kernel counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BenchmarkError(f"process {pid} has no {key}")


def clean_environment() -> dict[str, str]:
    """Give the environment without settings of an installation that is not measured here."""
    return {key: value for key, value in os.environ.items() if not key.startswith("NIGHTFLEET_")}
