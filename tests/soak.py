"""Two weeks of nights in miniature: steady load, workers that are restarted, and a look at whatever could grow.

The short form is a test; `make soak` runs it for half an hour on each broker and prints the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import services
from fleet import Fleet
from redis import Redis
from servers import free_ports

#: Three tasks, one of them twice side by side: a chain and a chord.
WORKFLOW = "first=branch | [a=branch, b=branch] | last=gather"
TASKS = ("first", "a", "b", "last")
_CALIBRATION_RUNS = 400
_TICK_SECONDS = 0.25
#: So many it takes to see what one leaves behind, however long they last on this machine.
LEAST_RESTARTS = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """What could grow, at one moment: `bytes`, `files` (connections among them) and `threads` by role, counts by name."""

    at: float
    bytes: dict[str, int]
    files: dict[str, int]
    threads: dict[str, int]
    broker_names: int
    messages: int
    database_connections: int
    rows: dict[str, int]
    open_runs: int


@dataclass(slots=True)
class Report:
    """What a soak has seen."""

    broker: str
    rate: float
    submitted: int = 0
    restarts: int = 0
    samples: list[Sample] = field(default_factory=list[Sample])

    def growth(self, series: Callable[[Sample], float]) -> float:
        """Give how much the last third lies above the second one; the first is for warming up."""
        third = len(self.samples) // 3
        if not third:
            raise ValueError("too few samples: soak for longer")
        before, after = self.samples[third : 2 * third], self.samples[2 * third :]
        return statistics.median(map(series, after)) - statistics.median(map(series, before))

    def lines(self) -> list[str]:
        """Give the figures as lines of a table."""
        first, last = self.samples[len(self.samples) // 3], self.samples[-1]
        lines = [f"{self.broker}: {self.submitted:,} runs at {self.rate:.0f}/s, {self.restarts} restarts of workers"]
        for role in last.bytes:
            grown = self.growth(lambda sample, role=role: sample.bytes.get(role, 0)) / 2**20
            lines.append(
                f"  {role:14} {first.bytes.get(role, 0) / 2**20:6.1f} -> {last.bytes[role] / 2**20:6.1f} MB (growth "
                f"{grown:+.2f} MB), files {first.files.get(role, 0)} -> {last.files[role]}, threads {last.threads[role]}"
            )
        lines.append(
            f"  broker: names {first.broker_names} -> {last.broker_names}, messages {last.messages}; database: connections "
            f"{first.database_connections} -> {last.database_connections}, rows {last.rows}"
        )
        return lines


class Soak:
    """One installation under steady load; `run` returns when all of its runs have ended."""

    def __init__(self, fleet: Fleet, *, seconds: float, restart_every_seconds: float) -> None:
        # Names the connections of this installation in `pg_stat_activity`, ours and the workers'.
        fleet.environment["PGAPPNAME"] = fleet.environment["NIGHTFLEET_NAMESPACE"]
        self._fleet = fleet
        self._seconds = seconds
        self._restart_every = restart_every_seconds
        self._beside: dict[str, subprocess.Popen[bytes]] = {}
        self._ids: list[str] = []
        self._stop = threading.Event()

    def run(self) -> Report:
        """Calibrate, load, restart and look; every failure of a part ends the soak."""
        fleet = self._fleet
        steady, first = fleet.start_worker(), fleet.start_worker()
        report = Report(fleet.broker, self._half_the_maximum())
        with ExitStack() as stack:
            for name in ("beat", "flower"):
                stack.callback(_end, self._start_beside(name))
            loader = threading.Thread(target=self._load, args=(report.rate,), name="soak-load", daemon=True)
            loader.start()
            stack.callback(self._stop.set)
            self._watch(report, steady, first)
            self._stop.set()
            loader.join(300)
            report.submitted = len(self._ids)
            fleet.finish()
            report.samples.append(self._sample(steady))
        return report

    @property
    def ids(self) -> list[str]:
        """Every run that was submitted."""
        return self._ids

    def _half_the_maximum(self) -> float:
        began = time.monotonic()
        handles = self._fleet.orchestrator.submit_many(WORKFLOW, ({"n": number} for number in range(_CALIBRATION_RUNS)))
        self._fleet.finish()
        self._ids.extend(handle.id for handle in handles)
        return _CALIBRATION_RUNS / (time.monotonic() - began) / 2

    def _load(self, rate: float) -> None:
        began, sent = time.monotonic(), 0
        while not self._stop.wait(_TICK_SECONDS):
            due = int((time.monotonic() - began) * rate) - sent
            handles = self._fleet.orchestrator.submit_many(WORKFLOW, ({"n": sent + number} for number in range(due)))
            self._ids.extend(handle.id for handle in handles)
            sent += due

    def _watch(self, report: Report, steady: subprocess.Popen[bytes], restarted: subprocess.Popen[bytes]) -> None:
        began = time.monotonic()
        every = max(1.0, self._seconds / 120)
        next_restart = self._restart_every
        pause = threading.Event()
        while (passed := time.monotonic() - began) < self._seconds or report.restarts < LEAST_RESTARTS:
            if passed >= next_restart:
                successor = self._fleet.start_worker()
                assert self._fleet.stop_worker(restarted) == 0, self._fleet.logs()
                self._fleet.workers.remove(restarted)
                restarted = successor
                report.restarts += 1
                # There are samples between two of them, however long one takes.
                passed = time.monotonic() - began
                next_restart = max(next_restart + self._restart_every, passed + self._restart_every / 4)
            report.samples.append(self._sample(steady))
            pause.wait(every)

    def _start_beside(self, name: str) -> subprocess.Popen[bytes]:
        options = ["--port", str(free_ports(["flower"])["flower"])] if name == "flower" else []
        with (self._fleet.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "orchestrator.cli", name, *options],
                env={**os.environ, **self._fleet.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._fleet.folder,
            )
        self._beside[name] = process
        return process

    def _sample(self, steady: subprocess.Popen[bytes]) -> Sample:
        fleet = self._fleet
        processes = {"steady worker": steady.pid, **{name: process.pid for name, process in self._beside.items()}}
        for name, process in self._beside.items():
            assert process.poll() is None, f"{name} has ended\n{fleet.logs()}"
        tables = ("worker", "worker_queue", "agent", "sweep", "project", "workflow", "run_event")
        return Sample(
            at=time.monotonic(),
            bytes={role: _resident_bytes(pid) for role, pid in processes.items()},
            files={role: _entries(pid, "fd") for role, pid in processes.items()},
            threads={role: _entries(pid, "task") for role, pid in processes.items()},
            broker_names=_names_at_broker(fleet),
            messages=fleet.broker_depths(),
            database_connections=int(
                fleet.query(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", fleet.environment["PGAPPNAME"]
                )[0][0]
            ),
            rows={table: int(fleet.query(f"SELECT count(*) FROM {table}")[0][0]) for table in tables},
            open_runs=fleet.open_runs(),
        )


def unaccounted(fleet: Fleet, ids: list[str]) -> dict[str, int]:
    """Give what is not as it should be: runs without a row or not succeeded, failures charged, tasks run twice."""
    states = dict(fleet.query("SELECT id::text, state FROM run"))
    charged = fleet.query("SELECT count(*) FROM agent_run WHERE failures > 0 OR crashes > 0")[0][0]
    executions = fleet.executions()
    found = {
        "missing": sum(1 for identity in ids if identity not in states),
        "not succeeded": sum(1 for identity in ids if states.get(identity) != "succeeded"),
        "strangers": len(states.keys() - set(ids)),
        "executed more or less than once": sum(
            1 for identity in ids for task in TASKS if executions[identity, task] != 1
        ),
        "charged": int(charged),
    }
    return {what: count for what, count in found.items() if count}


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _entries(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())


def _names_at_broker(fleet: Fleet) -> int:
    """Give how many queues (or keys, and members of the sets that bind them) an installation has at its broker."""
    namespace = fleet.environment["NIGHTFLEET_NAMESPACE"]
    if fleet.broker == "redis":
        client = Redis.from_url(fleet.environment["NIGHTFLEET_BROKER_URL"])
        keys = list(client.scan_iter(f"{namespace}:*", count=1000))
        members = sum(int(client.scard(key)) for key in keys if client.type(key) == b"set")  # type: ignore[arg-type]
        client.close()
        return len(keys) + members
    place = urlsplit(services.urls()["NIGHTFLEET_TEST_RABBITMQ_MANAGEMENT_URL"])
    url = f"{place.scheme}://{place.hostname}:{place.port}/api/queues?columns=name"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, place.username or "", place.password or "")
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    with opener.open(url, timeout=60) as answer:
        return sum(1 for queue in json.load(answer) if namespace in queue["name"])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(60)
