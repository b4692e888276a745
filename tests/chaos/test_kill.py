"""kill -9 of a worker in the middle of everything, with no beat running."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from fleet import BROKERS, Fleet, fleet

TTL_SECONDS = 15.0


def begun_and_not_ended_by(installation: Fleet, pid: int) -> set[tuple[str, str]]:
    lines = [line for line in installation.ledger() if int(line[3]) == pid]
    begun = {(run, task) for kind, run, task, _ in lines if kind == "begin"}
    return begun - {(run, task) for kind, run, task, _ in lines if kind == "end"}


@pytest.mark.parametrize("broker", BROKERS)
def test_killing_a_worker_that_holds_twenty_agent_runs_loses_none_and_repeats_no_finished_one(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, concurrency=25) as installation:
        victim = installation.start_worker()
        installation.start_worker()
        workflow = "head=held | [a=held, b=held] | end=gather"
        installation.orchestrator.submit_many(workflow, ({"seconds": 0.5} for _ in range(200)))
        installation.until(
            lambda: (
                sum(installation.executions("end").values()) > 60
                and len(begun_and_not_ended_by(installation, victim.pid)) >= 20
            ),
            "the victim holds twenty in the middle of the runs",
        )
        # Ended for the ledger and recorded as ended are two things: what is recorded at the kill must never run again.
        installation.kill(victim)
        killed_at = time.monotonic()
        finished = {
            (run, task)
            for run, task in installation.query("SELECT run_id::text, task FROM agent_run WHERE state = 'succeeded'")
        }
        held = installation.query(
            "SELECT count(*) FROM agent_run JOIN worker ON worker.id = worker_id WHERE state = 'running' AND pid = %s",
            victim.pid,
        )[0][0]
        lines_before = len(installation.ledger())
        assert held >= 20
        installation.until(
            lambda: (
                installation.query(
                    "SELECT count(*) FROM agent_run WHERE crashes > 0 AND (state = 'running' OR finished_at IS NOT NULL)"
                )[0][0]
                >= held
            ),
            "everything the victim held runs again",
        )
        taken_over_after = time.monotonic() - killed_at
        installation.finish()
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 200)]
        again = {(run, task) for kind, run, task, _ in installation.ledger()[lines_before:] if kind == "begin"}
        assert not again & finished
        began = Counter((run, task) for kind, run, task, _ in installation.ledger() if kind == "begin")
        repeated = {key for key, count in began.items() if count > 1}
        crashed = {
            (run, task)
            for run, task in installation.query("SELECT run_id::text, task FROM agent_run WHERE crashes > 0")
        }
        assert repeated <= crashed
        assert taken_over_after <= TTL_SECONDS + 5, taken_over_after


def test_a_worker_stopped_by_sigterm_hands_back_nothing_that_ends_in_time_and_fails_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path, concurrency=10) as installation:
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
    with fleet(tmp_path, concurrency=4, drain_timeout=1) as installation:
        first = installation.start_worker()
        run = installation.orchestrator.submit("a=held", {"seconds": 8})
        installation.until(lambda: installation.executions("begin"), "it runs")
        installation.start_worker()
        stopped_at = time.monotonic()
        assert installation.stop_worker(first) == 0
        installation.until(lambda: sum(installation.executions("begin").values()) == 2, "another worker runs it")
        assert time.monotonic() - stopped_at < TTL_SECONDS - 5
        done = run.wait(60)
        assert (done.state, done.agent_runs[0].failures, done.agent_runs[0].crashes) == ("succeeded", 0, 0)


@pytest.mark.parametrize(
    "point", ["after_claim", "before_completion", "after_completion", "after_commit_before_publish"]
)
def test_a_worker_that_dies_at_a_crash_point_loses_nothing(point: str, tmp_path: Path) -> None:
    with fleet(tmp_path, lease_ttl=3, heartbeat=1, idle_grace=2) as installation:
        victim = installation.start_worker(NIGHTFLEET_FAILPOINTS=f"{point}=kill:4")
        installation.orchestrator.submit_many(
            "head=branch | [a=branch, b=branch] | mid=branch | [c=branch, d=branch] | end=gather", [{}] * 8
        )
        installation.until(lambda: victim.poll() is not None, "the victim has died")
        finished = {
            (run, task)
            for run, task in installation.query("SELECT run_id::text, task FROM agent_run WHERE state = 'succeeded'")
        }
        lines_before = len(installation.ledger())
        installation.start_worker()
        installation.finish()
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 8)]
        again = {(run, task) for _, run, task, _ in installation.ledger()[lines_before:]}
        assert not again & finished
