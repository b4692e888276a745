"""`celery -A worker.app inspect|control`: Celery's own command on a fleet that the environment names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from fleet import BROKERS, Fleet, fleet
from monitor import task_id_of

ROOT = Path(__file__).parents[2]


def celery(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "celery", "-A", "worker.app", *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ask(installation: Fleet, kind: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask the one worker, until it has answered: by itself the command waits for a second."""
    [worker] = installation.live_workers()
    return celery(
        installation.folder, installation.environment, kind, "--timeout", "60", "--destination", worker.name, *arguments
    )


@pytest.fixture(scope="module", params=BROKERS)
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    with fleet(tmp_path_factory.mktemp(request.param), request.param, concurrency=3) as made:
        made.start_worker()
        # What is asked before would reach nobody, and the command waits for an answer to that.
        made.until(made.listens, "the worker hears what it is asked")
        yield made


def test_inspect_tells_of_workers_and_their_agents(installation: Fleet) -> None:
    for arguments, told in (
        (("inspect", "ping"), ("pong", "1 node online")),
        (("inspect", "stats"), (f'"transport": "{installation.broker}"', '"max-concurrency": 3')),
        (("inspect", "registered"), ("* agent.held", "* agent.reader")),
    ):
        done = ask(installation, *arguments)
        assert done.returncode == 0, done.stderr
        assert [each for each in told if each not in done.stdout] == [], done.stdout
        for name in ("NIGHTFLEET_BROKER_URL", "NIGHTFLEET_DATABASE_URL"):
            password = installation.environment[name].partition("://")[2].partition("@")[0].partition(":")[2]
            assert password not in done.stdout + done.stderr


def test_control_revoke_cancels_the_run_that_inspect_shows_as_active(installation: Fleet) -> None:
    run = installation.orchestrator.submit("held", {"seconds": 600})
    installation.until(lambda: installation.executions("begin")[run.id, "held"], "it runs")
    task_id = task_id_of(installation, run.id)
    assert task_id in ask(installation, "inspect", "active").stdout
    done = ask(installation, "control", "revoke", task_id)
    assert (done.returncode, f"cancelling the run of {task_id}" in done.stdout) == (0, True), done.stdout
    installation.until(lambda: run.state == "cancelled", "the run is cancelled")
    installation.until(lambda: not installation.query("SELECT 1 FROM agent_run WHERE state = 'running'"), "it stops")
    result = celery(installation.folder, installation.environment, "result", task_id)
    assert "TaskRevokedError: cancelled" in result.stderr


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "there is no fleet: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL"),
        ({"NIGHTFLEET_BROKER_URL": "redis://:planted-password@127.0.0.1:1/0"}, "set NIGHTFLEET_DATABASE_URL"),
        ({"NIGHTFLEET_BROKER": "x"}, "NIGHTFLEET_BROKER is no setting"),
    ],
    ids=["nothing", "half", "misspelt"],
)
def test_without_settings_it_says_what_is_missing(tmp_path: Path, environment: dict[str, str], told: str) -> None:
    done = celery(tmp_path, environment, "inspect", "ping")
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "planted-password" not in done.stderr
