"""`nightfleet beat`: real processes on a real fleet, and what the command says when it cannot start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fleet import PROOF_AGENTS, Fleet, fleet

from orchestrator.cli import main


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet without a worker: to submit takes none."""
    with fleet(tmp_path_factory.mktemp("beat")) as made:
        yield made


class Beats:
    """Beat processes over one file."""

    def __init__(self, installation: Fleet, folder: Path) -> None:
        self.installation = installation
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, schedules: str, **environment: str) -> subprocess.Popen[bytes]:
        (self.folder / "schedules.yaml").write_text(schedules)
        with (self.folder / f"beat-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator.cli", "beat", "--schedules", "schedules.yaml"],
                env={**os.environ, **self.installation.environment, "NIGHTFLEET_LOG_LEVEL": "INFO", **environment},
                cwd=self.folder,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log(self, number: int) -> str:
        return (self.folder / f"beat-{number}.log").read_text()

    def fired(self, name: str) -> list[datetime]:
        """Give the times for which a schedule has a run, once for each run."""
        rows = self.installation.query(
            "SELECT idempotency_key FROM run WHERE idempotency_key LIKE %s ORDER BY 1", f"schedule/{name}/%"
        )
        return [datetime.fromisoformat(row[0].rpartition("/")[2]) for row in rows]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(60)


@pytest.fixture
def beats(installation: Fleet, tmp_path: Path) -> Iterator[Beats]:
    made = Beats(installation, tmp_path)
    yield made
    made.close()


def test_two_beats_make_one_run_of_each_firing_and_end_when_told_to(beats: Beats) -> None:
    schedules = "twice: {workflow: branch | gather, input: {n: 1}, every: 1s, catch_up: 1m}"
    for _ in range(2):
        # At this level one says also what the other one has fired.
        beats.start(schedules, NIGHTFLEET_LOG_LEVEL="DEBUG")
    began = datetime.now(UTC)
    beats.installation.until(
        lambda: (
            all("fired" in beats.log(number) for number in (0, 1))
            and [at for at in beats.fired("twice") if at > began][2:]
        ),
        "both take part, and three more have fired",
        timeout=120,
    )
    for process in beats.processes:
        process.terminate()
    assert [process.wait(60) for process in beats.processes] == [0, 0]
    fired = beats.fired("twice")
    assert len(fired) == len(set(fired))
    # Each second from the beginning of the window on, none left out.
    assert (fired[-1] - fired[0]).total_seconds() == len(fired) - 1
    row = beats.installation.query("SELECT input::text, state FROM run WHERE idempotency_key LIKE 'schedule/twice/%%'")[
        0
    ]
    assert (json.loads(row[0]), row[1]) == ({"n": 1}, "pending")


def test_what_a_beat_was_about_to_submit_when_it_was_killed_is_submitted_by_the_next(beats: Beats) -> None:
    # Far more of them than can pass out of the window while the next one starts.
    schedules = "killed: {workflow: branch, every: 5m, catch_up: 30m}"
    killed = beats.start(schedules, NIGHTFLEET_FAILPOINTS="before_firing=kill")
    assert killed.wait(60) == -9
    died = datetime.now(UTC)
    assert beats.fired("killed") == []
    beats.start(schedules)
    beats.installation.until(lambda: beats.fired("killed")[1:], "the next has fired")
    assert all(at <= died for at in beats.fired("killed")[:2])


# What it says when it cannot start ------------------------------------------------------------------------------------


def beat(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["beat", *arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_beat_without_a_fleet_is_wrong_use(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert beat() == 2
    assert "beat submits to a fleet: set NIGHTFLEET_BROKER_URL" in capsys.readouterr().err


def test_a_file_that_was_named_must_be_there(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert beat("--list", "--schedules", "mine.yaml") == 2
    monkeypatch.setenv("NIGHTFLEET_SCHEDULES", "config/schedules.yaml")
    assert beat("--list") == 2
    assert "no such file" in capsys.readouterr().err


def test_the_list_needs_no_fleet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert beat("--list") == 0
    assert capsys.readouterr().err == "no schedules\n"
    (here / "config").mkdir()
    (here / "config/schedules.yaml").write_text("nightly: {workflow: a | b, cron: '0 2 1 1 *', timezone: Asia/Tokyo}")
    assert beat("--list") == 0
    printed = capsys.readouterr().out
    assert "nightly   0 2 1 1 * Asia/Tokyo" in printed
    assert "-12-31 17:00:00Z" in printed
    assert beat("--list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["next"].endswith("-12-31T17:00:00Z")
    assert beat("--json") == 2


def test_a_service_that_cannot_be_reached_is_exit_code_3(beats: Beats) -> None:
    away = beats.start("{}", NIGHTFLEET_BROKER_URL="amqp://u:hunter2hunter2@127.0.0.1:1//")
    assert away.wait(60) == 3
    assert "cannot reach the broker amqp://u:***@127.0.0.1:1" in beats.log(0)


def test_a_beat_that_has_nothing_to_do_says_so_and_stays(installation: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "beat.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", "beat"],
            env={**os.environ, **installation.environment, "NIGHTFLEET_AGENTS_PATH": str(PROOF_AGENTS)},
            cwd=tmp_path,
            stderr=file,
        )
    try:
        installation.until(lambda: "nothing to submit" in log.read_text(), "it says so")
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
