"""Every worker of a fleet is replaced under load, one SIGTERM after the other: nobody who submits can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import BROKERS, fleet

from orchestrator import RunHandle

WORKERS = 2


@pytest.mark.parametrize("broker", BROKERS)
def test_a_rolling_restart_under_load_fails_no_run_and_charges_no_failure(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker, concurrency=8) as installation:
        old = [installation.start_worker() for _ in range(WORKERS)]
        runs: list[RunHandle] = []
        for worker in old:
            before = len(installation.ledger())
            runs += installation.orchestrator.submit_many(
                "head=held | [a=held, b=quiet] | end=gather", [{"seconds": 0.3}] * 50
            )
            installation.until(lambda before=before: len(installation.ledger()) > before + 30, "there is load")
            assert installation.stop_worker(worker) == 0
            assert installation.open_runs() > 0, "it stopped without any load"
            installation.start_worker()
        installation.finish()
        assert {run.state for run in runs} == {"succeeded"}
        assert installation.query("SELECT sum(failures), sum(crashes), max(epoch) FROM agent_run") == [(0, 0, 1)]
        assert set(installation.executions("begin").values()) == {1}
        assert {worker.pid for worker in old}.isdisjoint(row.pid for row in installation.live_workers())
