"""`batch run` on a fleet: whatever dies, every row has one result, and no finished row is computed again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos.proxy import Proxy
from fleet import Fleet, fleet

from orchestrator.contracts.batch import BatchResult

LEASE: dict[str, Any] = {"heartbeat": 0.5, "lease_ttl": 8, "idle_grace": 1}
#: Where nobody is killed nobody loses a lease, however slow the machine is.
STEADY: dict[str, Any] = {**LEASE, "lease_ttl": 60}


@dataclass(frozen=True)
class Desk:
    """A folder beside a fleet, in which batches are started."""

    fleet: Fleet
    folder: Path
    workflow: str = "branch"

    @property
    def out(self) -> Path:
        return self.folder / "r.jsonl"

    def write(self, count: int, **row: Any) -> None:
        self._write({"n": n, **row} for n in range(count))

    def write_waiting(self, count: int, until: Callable[[int], Path]) -> None:
        """Write rows for an agent that waits until a file appears, each for its own."""
        self._write({"n": n, "until": str(until(n))} for n in range(count))

    def _write(self, rows: Iterable[dict[str, Any]]) -> None:
        (self.folder / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = ["batch", "run", "d.jsonl", "--workflow", self.workflow, "--out", "r.jsonl", *options]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", *command],
            cwd=self.folder,
            env={**os.environ, **self.fleet.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return process.returncode, out, err

    def results(self, count: int) -> dict[int, dict[str, Any]]:
        """Give the results by their lines, of which there must be one each, all succeeded, each with its own run."""
        found = [json.loads(line) for line in self.out.read_text().splitlines()]
        assert sorted(row["line"] for row in found) == list(range(1, count + 1))
        assert {row["state"] for row in found} == {"succeeded"}
        assert len({row["run_id"] for row in found}) == count
        return {row["line"]: row for row in found}

    def executions(self, event: str = "run") -> Counter[str]:
        """How often each run of these results was executed."""
        mine = {json.loads(line)["run_id"] for line in self.out.read_text().splitlines() if line.endswith("}")}
        found: Counter[str] = Counter()
        for (run_id, _), times in self.fleet.executions(event).items():
            if run_id in mine:
                found[run_id] += times
        return found


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with one worker, for the tests that leave it alone."""
    with fleet(tmp_path_factory.mktemp("fleet"), **STEADY) as made:
        made.start_worker()
        yield made


@pytest.fixture
def desk(installation: Fleet, tmp_path: Path) -> Desk:
    return Desk(installation, tmp_path)


KILLS = [
    "after_commit_before_publish=kill:2",
    "after_batch_submit=kill:3",
    "before_batch_write=kill:2",
    "after_batch_write=kill:2",
]


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_batch_goes_on_and_computes_nothing_twice(kill: str, desk: Desk) -> None:
    desk.write(200)
    code, _, err = desk.finish(desk.start("--window", "60", NIGHTFLEET_FAILPOINTS=kill))
    assert code == -signal.SIGKILL, err
    code, _, err = desk.finish(desk.start("--window", "60"))
    assert code == 0, err
    desk.results(200)
    assert set(desk.executions().values()) == {1}, "the fleet was not killed: it does everything once"


def test_a_batch_that_is_killed_again_and_again_ends(desk: Desk) -> None:
    desk.write(300)
    for number in range(1, 5):
        kill = f"after_batch_write=kill:{number}"
        code, _, err = desk.finish(desk.start("--window", "40", NIGHTFLEET_FAILPOINTS=kill))
        assert code in {-signal.SIGKILL, 0}, err
    assert desk.finish(desk.start())[0] == 0
    desk.results(300)
    assert set(desk.executions().values()) == {1}


def test_ctrl_c_leaves_open_runs_to_the_fleet(installation: Fleet, tmp_path: Path) -> None:
    desk, go = Desk(installation, tmp_path, "patient"), tmp_path / "go"
    desk.write_waiting(50, lambda n: tmp_path if n < 5 else go)
    process = desk.start("--window", "25")
    installation.until(lambda: desk.out.exists() and desk.out.stat().st_size > 0, "some are written")
    process.send_signal(signal.SIGINT)
    code, out, err = desk.finish(process)
    assert (code, out) == (130, "")
    assert "of 50 rows; the same command goes on from there" in err
    assert "runs that are open go on in the fleet" in err
    go.touch()
    installation.finish()
    code, out, _ = desk.finish(desk.start("--window", "25", "--json"))
    assert (code, BatchResult.model_validate_json(out).succeeded) == (0, 50)
    desk.results(50)
    assert set(desk.executions("end").values()) == {1}


def test_a_worker_that_is_killed_costs_no_row(tmp_path: Path) -> None:
    with fleet(tmp_path, **LEASE) as installation:
        desk = Desk(installation, tmp_path, "held")
        desk.write(80, seconds=0.2)
        victim = installation.start_worker()
        installation.start_worker()
        process = desk.start("--window", "60")
        installation.until(
            lambda: {line[3] for line in installation.ledger()} >= {str(victim.pid)} and desk.out.stat().st_size > 0,
            "the victim has begun and some are written",
        )
        finished = {json.loads(line)["run_id"] for line in desk.out.read_text().splitlines() if line.endswith("}")}
        installation.kill(victim)
        code, _, err = desk.finish(process)
        assert code == 0, err
        desk.results(80)
        ends = desk.executions("end")
        assert all(ends[run_id] == 1 for run_id in finished)


def test_a_lost_broker_and_a_lost_database_are_waited_for(installation: Fleet, tmp_path: Path) -> None:
    window, blocks = 20, [tmp_path / f"block {number}" for number in range(6)]
    desk = Desk(installation, tmp_path, "patient")
    desk.write_waiting(window * len(blocks), lambda n: blocks[n // window])
    environment = installation.environment
    with (
        Proxy(environment["NIGHTFLEET_BROKER_URL"]) as broker,
        Proxy(environment["NIGHTFLEET_DATABASE_URL"]) as database,
    ):
        through = {"NIGHTFLEET_BROKER_URL": broker.url, "NIGHTFLEET_DATABASE_URL": database.url}
        process = desk.start("--window", str(window), **through)
        for gate, first, second in ((database, *blocks[:2]), (broker, *blocks[2:4])):
            before = len(desk.out.read_bytes()) if desk.out.exists() else 0
            first.touch()
            installation.until(
                lambda before=before: desk.out.exists() and desk.out.stat().st_size > before, "it writes results"
            )
            refused = gate.refused
            gate.shut()
            second.touch()  # the next rows have to be submitted, and the last ones cannot end meanwhile
            installation.until(lambda gate=gate, refused=refused: gate.refused > refused, "it has tried in vain")
            assert process.poll() is None, "it waits"
            gate.open()
        for block in blocks:
            block.touch()
        code, _, err = desk.finish(process)
    assert code == 0, err
    desk.results(120)
    assert set(desk.executions("end").values()) == {1}
    assert "The batch goes on when it is back" in err
    assert re.search(r"back after \d+ s: the batch goes on", err)
