"""Nothing grows and nothing is lost while a fleet works for long and its workers come and go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fleet import BROKERS, fleet
from soak import LEAST_RESTARTS, Soak, unaccounted

#: `make soak` asks for half an hour on each broker.
_SECONDS = 60 * float(os.environ.get("NIGHTFLEET_TEST_SOAK_MINUTES", "1.5"))
#: Workers are restarted every minute, and in the short form often enough to see what a restart leaves behind.
_RESTART_EVERY_SECONDS = min(60.0, _SECONDS / 6)
_MEGABYTES = 2**20
#: Few, so that a worker that has just begun opens no more of them later than growth may be: one more connection of a pool
#: that is not full yet is no leak.
_POOL_SIZE = 3


@pytest.mark.slow
@pytest.mark.timeout(_SECONDS + 1200)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_fleet_under_steady_load_whose_workers_are_restarted_loses_nothing_and_grows_nowhere(
    broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nobody is killed, so no lease has to end; and one that a slow machine takes away would have tasks run twice.
    with fleet(tmp_path, broker, lease_ttl=120, database_pool_size=_POOL_SIZE) as installation:
        soak = Soak(installation, seconds=_SECONDS, restart_every_seconds=_RESTART_EVERY_SECONDS)
        report = soak.run()
        with capsys.disabled():
            print("", *report.lines(), sep="\n")
        assert unaccounted(installation, soak.ids) == {}
        last = report.samples[-1]
        assert (last.open_runs, last.messages) == (0, 0)
        # What a worker leaves at the broker or in a table, each restart would leave once more.
        assert report.restarts >= LEAST_RESTARTS
        assert report.growth(lambda sample: sample.broker_names) <= 1
        assert report.growth(lambda sample: sample.database_connections) <= 2
        for table in ("worker", "worker_queue", "agent", "sweep", "project", "workflow", "run_event"):
            assert report.growth(lambda sample, table=table: sample.rows[table]) <= 0, table
        for role in ("steady worker", "beat"):
            assert report.growth(lambda sample, role=role: sample.bytes[role]) <= 3 * _MEGABYTES, role
            assert report.growth(lambda sample, role=role: sample.files[role]) <= 2, role
