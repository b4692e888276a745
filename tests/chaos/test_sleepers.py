"""Row 8: agent runs sleep by the thousand while all workers are restarted: each wakes once, in time, and costs no memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from chaos.figures import percentile, report
from chaos.forms import LONG, PATIENCE_SECONDS, SEED, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_outputs, check_settled
from fleet import Fleet, fleet

SLEEPERS = form(short=300, long=100_000)
SPREAD_SECONDS = form(short=8, long=300)
#: Those that come first warm the workers up, and show how fast a fleet on this machine falls asleep.
FIRST, FIRST_SECONDS = form(short=100, long=2000), form(short=2, long=12)
#: So much longer than that all may take before the first of them is due.
SLACK, SLACK_SECONDS = 1.2, 2.0
WORKERS = 2
RESTARTS = 2
BEATS = 2
MOST_SECONDS_LATE = 2.0
MOST_MEGABYTES_GROWN = 50


@dataclass(frozen=True, slots=True)
class Night:
    """One sleeper's times, in seconds of the database's clock."""

    due: float
    woken: float
    claimed: float


@dataclass(slots=True)
class Restarts:
    """When there was no worker: from the signal to all of them until the first of the next ones had joined the fleet."""

    installation: Fleet
    away: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def restart_all(self) -> None:
        living = [worker for worker in self.installation.workers if worker.poll() is None]
        since = now(self.installation).timestamp()
        for worker in living:
            worker.terminate()
        assert [worker.wait(120) for worker in living] == [0] * len(living), self.installation.logs()
        self.installation.start_worker()
        self.away.append((since, now(self.installation).timestamp()))
        for _ in living[1:]:
            self.installation.start_worker()

    @property
    def longest(self) -> float:
        """How long there was none at most."""
        return max(until - since for since, until in self.away)

    def late(self, due: float, at: float) -> float:
        """Give how late something was; the time when there was no worker does not count."""
        away = sum(max(0.0, min(at, until) - max(due, since)) for since, until in self.away)
        return at - due - away


@dataclass(slots=True)
class Memory:
    """The most that any worker has taken, in megabytes; a context manager."""

    installation: Fleet
    most: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._keep_looking, name="chaos-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(10)

    def look(self) -> float:
        """Give what the largest worker takes now."""
        page = os.sysconf("SC_PAGE_SIZE") / 2**20
        taken = 0.0
        for worker in [worker for worker in self.installation.workers if worker.poll() is None]:
            pages = Path(f"/proc/{worker.pid}/statm").read_text().split()[1]
            taken = max(taken, int(pages) * page)
        self.most = max(self.most, taken)
        return taken

    def _keep_looking(self) -> None:
        while not self._over.wait(0.5):
            try:
                self.look()
            except OSError:
                continue  # one has ended between the two looks at it


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=1800))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_sleepers_wake_once_and_in_time_while_all_workers_are_restarted(broker: str, tmp_path: Path) -> None:
    chance = Random(SEED)
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **STEADY) as installation:
        for _ in range(WORKERS):
            installation.start_worker()
        with beats(installation), Memory(installation) as memory:
            falling_asleep = _first_sleepers(installation)
            before = memory.look()
            memory.most = 0.0
            start = now(installation) + timedelta(seconds=SLEEPERS / falling_asleep * SLACK + SLACK_SECONDS)
            _submit(
                installation, [start + timedelta(seconds=chance.uniform(0, SPREAD_SECONDS)) for _ in range(SLEEPERS)]
            )
            restarts = Restarts(installation)
            for number in range(RESTARTS):
                share = (number + 1) / (RESTARTS + 1.5)
                _until(installation, start + timedelta(seconds=share * SPREAD_SECONDS))
                restarts.restart_all()
            _until(installation, start + timedelta(seconds=SPREAD_SECONDS))
            installation.finish()
        nights = _nights(installation, start)
        late = [(restarts.late(night.due, night.woken), restarts.late(night.due, night.claimed)) for night in nights]
        woken, claimed = (percentile([each[which] for each in late], 0.99) for which in (0, 1))
        grown = memory.most - before
        performed = Performed.of(installation)
        awake = [task for task in performed.executions if performed.effects(task) == {"awake"}]
        assert len(awake) == FIRST + SLEEPERS
        assert performed.repeated() == []
        assert installation.query("SELECT sum(failures), sum(crashes) FROM agent_run") == [(0, 0)]
        # To the millisecond, as timers are kept.
        assert [night for night in nights if night.woken < night.due - 0.001] == []
        if LONG:
            assert len(nights) == SLEEPERS, "some were due before they slept: the machine is too slow for this"
            assert woken <= MOST_SECONDS_LATE, f"claimed {claimed:.2f} s late"
            assert grown <= MOST_MEGABYTES_GROWN
        check_outputs(installation)
        report(
            8,
            broker,
            f"{SLEEPERS:,} sleepers due within {SPREAD_SECONDS} s, {BEATS} beats, all {WORKERS} workers restarted "
            f"{RESTARTS} times (without any for up to {restarts.longest:.1f} s): each woke once, p99 {woken:.2f} s late, "
            f"claimed p99 {claimed:.2f} s late; a worker grew by at most {grown:.0f} MB",
        )
        check_settled(installation)


def _first_sleepers(installation: Fleet) -> float:
    """Let the first ones sleep and wake; gives how many fell asleep in a second."""
    due = now(installation) + timedelta(seconds=FIRST_SECONDS)
    began = time.monotonic()
    _submit(installation, [due] * FIRST)
    open_row = "SELECT 1 FROM agent_run WHERE state IN ('queued', 'running') AND task = 'sleeper' LIMIT 1"
    installation.until(lambda: not installation.query(open_row), "they sleep")
    seconds = time.monotonic() - began
    installation.finish()
    return FIRST / seconds


def _submit(installation: Fleet, dues: list[datetime]) -> None:
    installation.orchestrator.submit_many("sleeper", ({"until": due.isoformat()} for due in dues))


def _until(installation: Fleet, moment: datetime) -> None:
    threading.Event().wait(max(0.0, (moment - now(installation)).total_seconds()))


def _nights(installation: Fleet, start: datetime) -> list[Night]:
    """Give the nights of those who were due from `start` on and slept."""
    rows = installation.query(
        "SELECT extract(epoch FROM (r.input ->> 'until')::timestamptz)::float, extract(epoch FROM queued_at)::float, "
        "extract(epoch FROM claimed_at)::float FROM agent_run a JOIN run r ON r.id = a.run_id "
        "WHERE a.task = 'sleeper' AND a.epoch > 1 AND (r.input ->> 'until')::timestamptz >= %s",
        start,
    )
    return [Night(*row) for row in rows]


def now(installation: Fleet) -> datetime:
    """Give the database's time, by which timers go."""
    found: datetime = installation.query("SELECT clock_timestamp()")[0][0]
    return found


@contextmanager
def beats(installation: Fleet) -> Generator[None]:
    """Have beats that fire beside all this."""
    file = installation.folder / "schedules.yaml"
    file.write_text("laborers: {workflow: laborer, input: {steps: 0, seconds: 0}, every: 2s}\n")
    with (installation.folder / "beats.log").open("wb") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "orchestrator.cli", "beat", "--schedules", str(file)],
                env={**os.environ, **installation.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=installation.folder,
            )
            for _ in range(BEATS)
        ]
    try:
        yield
        for process in processes:
            process.terminate()
        assert [process.wait(120) for process in processes] == [0] * BEATS
        # What they have submitted last.
        installation.finish()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait(60)
