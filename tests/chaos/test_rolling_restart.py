"""Every worker of a fleet is replaced under load, one SIGTERM after the other: nobody who submits can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import BROKERS, fleet

from orchestrator import RunHandle

WORKERS = 2


@pytest.mark.parametrize("broker", BROKERS)
def test_a_rolling_restart_under_load_fails_no_run_and_charges_no_failure(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker, concurrency=8, drain_timeout=120, lease_ttl=60) as installation:
        old = [installation.start_worker() for _ in range(WORKERS)]
        runs: list[RunHandle] = []

        def works(pid: int, go: Path) -> bool:
            """Tell whether a worker has begun a task that waits for a file."""
            return ["begin", go.name, str(pid)] in [[event, task, by] for event, _, task, by in installation.ledger()]

        for go, worker in ((tmp_path / f"go{number}", worker) for number, worker in enumerate(old)):
            runs += installation.orchestrator.submit_many(
                f"head=held | [a=held, {go.name}=patient] | end=gather", [{"seconds": 0.3, "until": str(go)}] * 50
            )
            installation.until(lambda pid=worker.pid, go=go: works(pid, go), "it is in the middle of its work")
            worker.terminate()
            # It cannot end before the file is there, and neither can any of these runs.
            assert installation.open_runs() >= 50, "it stopped without any load"
            go.touch()
            assert worker.wait(180) == 0
            installation.start_worker()
        installation.finish()
        assert {run.state for run in runs} == {"succeeded"}
        assert installation.query("SELECT sum(failures), sum(crashes), max(epoch) FROM agent_run") == [(0, 0, 1)]
        assert set(installation.executions("begin").values()) == {1}
        assert {worker.pid for worker in old}.isdisjoint(row.pid for row in installation.live_workers())
