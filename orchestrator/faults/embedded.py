"""A run under faults without servers: one process after the other over one SQLite file."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.contracts.run import RunResult
from orchestrator.faults.trial import Trial
from orchestrator.settings import Settings
from orchestrator.store.store import Store

_EVER_SECONDS = 1e6


def run_embedded(trial: Trial, kills: Sequence[str]) -> RunResult:
    """Let a process follow each one that dies, until one has seen the end of the run."""
    home = trial.folder / "home"
    trial.environment["NIGHTFLEET_HOME"] = str(home)
    for kill in (*kills, None):
        with trial.process(kill, worker=False) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(trial.seconds_left())
            trial.seconds_left()
        if not trial.was_killed(process):
            break
        _bury(home)
    return RunResult.model_validate_json((trial.folder / "result.json").read_text())


def _bury(home: Path) -> None:
    """Take the worker of a process that is dead out of the fleet: it is, so nobody need wait for its lease."""
    store = Store.from_settings(Settings.load(home=home))
    try:
        for worker in store.fleet.workers(lease_ttl_seconds=_EVER_SECONDS):
            store.fleet.leave(worker.id)
    finally:
        store.close()
