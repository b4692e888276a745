"""SIGTERM to a worker that is busy: nothing fails, and nothing waits for a lease."""

from __future__ import annotations

import json
from pathlib import Path

from fleet import Fleet, fleet

#: No test waits for so long.
TTL_SECONDS = 3600


def begun_and_not_ended_by(installation: Fleet, pid: int) -> set[tuple[str, str]]:
    lines = [line for line in installation.ledger() if int(line[3]) == pid]
    begun = {(run, task) for kind, run, task, _ in lines if kind == "begin"}
    return begun - {(run, task) for kind, run, task, _ in lines if kind == "end"}


def test_a_worker_stopped_by_sigterm_hands_back_nothing_that_ends_in_time_and_fails_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path, concurrency=10, lease_ttl=TTL_SECONDS) as installation:
        first = installation.start_worker()
        installation.orchestrator.submit_many("a=held | b=held", ({"seconds": 0.3} for _ in range(60)))
        installation.until(lambda: sum(installation.executions("begin").values()) >= 10, "it works")
        installation.start_worker()
        assert installation.stop_worker(first) == 0
        assert begun_and_not_ended_by(installation, first.pid) == set()
        installation.finish()
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 60)]
        assert installation.query("SELECT sum(failures), sum(crashes) FROM agent_run") == [(0, 0)]
        assert set(installation.executions("begin").values()) == {1}


def test_what_outlives_the_drain_timeout_is_handed_back_at_once_and_charged_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path, concurrency=4, drain_timeout=1, lease_ttl=TTL_SECONDS) as installation:
        first = installation.start_worker()
        run = installation.orchestrator.submit("a=held", {"seconds": 600})
        installation.until(lambda: installation.executions("begin"), "it runs")
        # It is held for as long as the first worker lives, however slow the second one's start is.
        installation.query("UPDATE run SET input = %s WHERE id = %s", json.dumps({"seconds": 0}), run.id)
        installation.start_worker()
        assert installation.stop_worker(first) == 0
        installation.until(lambda: sum(installation.executions("begin").values()) == 2, "another worker runs it")
        done = run.wait(120)
        assert (done.state, done.agent_runs[0].failures, done.agent_runs[0].crashes) == ("succeeded", 0, 0)
