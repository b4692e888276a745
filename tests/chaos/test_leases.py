"""Leases in real life: a plugin that holds the GIL, a worker that is stopped, a database that is away, wrong clocks."""

from __future__ import annotations

import os
import signal
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import servers
from chaos.forms import form
from fleet import PROOF_AGENTS, Fleet, fleet

from orchestrator import RetryPolicy, TaskDefinition, sequential

LEASE_AGENTS = Path(__file__).parent.parent / "lease_agents"
AGENTS = {"agents_path": f"{PROOF_AGENTS}{os.pathsep}{LEASE_AGENTS}"}
QUICK: dict[str, Any] = {**AGENTS, "heartbeat": 0.5, "lease_ttl": 3}
SHORTER: dict[str, Any] = {**QUICK, "lease_ttl": 1.5}
#: Outlasts a restart of Postgres on a busy machine.
LONGER: dict[str, Any] = {**QUICK, "lease_ttl": 6}


def events(installation: Fleet) -> Counter[tuple[str, str]]:
    """How often each run noted each event."""
    return Counter((line[0], line[1]) for line in installation.ledger())


def charged(installation: Fleet) -> list[tuple[Any, ...]]:
    return installation.query("SELECT max(epoch), sum(crashes), sum(failures), bool_or(suspect) FROM agent_run")


def test_a_plugin_that_holds_the_gil_loses_no_lease(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, **(AGENTS if form(short=False, long=True) else QUICK)) as installation:
        stubborn = installation.start_worker()
        beside = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", beside.id], "another agent runs in the same process")
        stuck = installation.orchestrator.submit("gil", {"seconds": form(short=8, long=30)})
        installation.until(lambda: events(installation)["begin", stuck.id], "it has the interpreter to itself")
        installation.start_worker()
        ttl = installation.kernel.settings.lease_ttl
        installation.until(
            lambda: installation.query(
                "SELECT bool_or(now() - claimed_at > %s) FROM agent_run WHERE agent = 'gil'", ttl * 1.5
            )[0][0],
            "the other worker has observed it for more than a lease",
        )
        assert not events(installation)["end", stuck.id], "it was over before anything was seen"
        assert stuck.wait(60).state == "succeeded"
        until.touch()
        assert beside.wait(30).state == "succeeded"
        assert charged(installation) == [(1, 0, 0, False)]
        assert set(events(installation).values()) == {1}
        assert stubborn.poll() is None
        assert "declared dead" not in installation.logs()


def test_a_worker_that_is_stopped_for_too_long_loses_its_lease_and_stops_its_executor_when_it_goes_on(
    tmp_path: Path,
) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, **QUICK, stall_timeout=3) as installation:
        stopped = installation.start_worker()
        run = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", run.id], "it runs")
        installation.start_worker()
        stopped.send_signal(signal.SIGSTOP)
        installation.until(lambda: events(installation)["begin", run.id] == 2, "another worker has taken it over", 30)
        stopped.send_signal(signal.SIGCONT)
        installation.until(lambda: events(installation)["stopped", run.id], "the first one is stopped at its await")
        installation.until(lambda: len(installation.live_workers()) == 2, "its worker has joined again")
        until.touch()
        assert run.wait(30).state == "succeeded"
        assert events(installation)["end", run.id] == 1


def test_after_an_outage_of_the_database_a_full_lease_passes_before_anybody_is_taken_for_dead(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with (
        servers.private_postgres() as postgres,
        fleet(tmp_path, database=postgres.url, **LONGER) as installation,
    ):
        victim = installation.start_worker()
        lost = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", lost.id], "it runs")
        installation.start_worker()
        installation.start_worker(NIGHTFLEET_AGENTS_PATH=str(LEASE_AGENTS), NIGHTFLEET_QUEUES="waits")
        kept = installation.orchestrator.submit_many("waits", [{"until": str(until)}] * 10)
        installation.until(lambda: sum(events(installation).values()) == 11, "all run")
        on_victim = {line[1] for line in installation.ledger() if int(line[3]) == victim.pid}
        installation.kill(victim)
        postgres.stop(immediate=True)
        postgres.start()
        installation.until(
            lambda: sum(events(installation).values()) == 11 + len(on_victim), "what the dead one held runs again", 40
        )
        rows = installation.query(
            "SELECT run_id::text, epoch, suspect, extract(epoch FROM claimed_at - pg_postmaster_start_time()) FROM agent_run"
        )
        assert {row[0] for row in rows if row[1] == 2} == on_victim
        assert {row[0] for row in rows if row[2]} == on_victim
        assert all(float(row[3]) >= LONGER["lease_ttl"] for row in rows if row[1] == 2), rows
        until.touch()
        installation.finish()
        assert {run.state for run in (lost, *kept)} == {"succeeded"}


def test_an_outage_that_outlasts_the_leases_makes_nobody_a_suspect(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with (
        servers.private_postgres() as postgres,
        fleet(tmp_path, database=postgres.url, **SHORTER) as installation,
    ):
        installation.start_worker()
        run = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", run.id], "it runs")
        postgres.stop(immediate=True)
        installation.until(lambda: events(installation)["stopped", run.id], "it is stopped: somebody else may have it")
        postgres.start()
        installation.until(lambda: events(installation)["begin", run.id] == 2, "it runs again", 30)
        assert charged(installation) == [(2, 0, 0, False)]
        until.touch()
        assert run.wait(30).state == "succeeded"


def test_a_worker_whose_clock_is_off_by_ten_minutes_loses_nothing_and_fires_nothing_early(tmp_path: Path) -> None:
    with fleet(tmp_path, **QUICK) as installation:
        for shift in ("600", "-600"):
            installation.start_worker(NIGHTFLEET_TEST_CLOCK=shift)
        held = installation.orchestrator.submit_many("held", [{"seconds": 4}] * 8)
        patient = TaskDefinition(id="later", agent="later", retry=RetryPolicy(first_delay=timedelta(seconds=0.1)))
        later = installation.orchestrator.submit_many(sequential(patient), [{}] * 8)
        installation.finish()
        assert {run.state for run in (*held, *later)} == {"succeeded"}
        assert set(installation.executions("begin").values()) == {1}
        assert installation.query("SELECT sum(crashes), sum(republished), bool_or(suspect) FROM agent_run") == [
            (0, 0, False)
        ]
        tries: dict[str, list[float]] = {}
        for run, at in (line[1:3] for line in installation.ledger() if line[0] == "try"):
            tries.setdefault(run, []).append(float(at))
        assert all(len(each) == 3 for each in tries.values())
        early = [b - a for each in tries.values() for a, b in pairwise(each) if b - a < 1]
        assert early == []


# The pool -------------------------------------------------------------------------------------------------------------


def test_a_revoke_with_terminate_stops_an_async_agent_at_its_await(tmp_path: Path) -> None:
    with fleet(tmp_path, **QUICK) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("waits", {"until": str(tmp_path / "never")})
        installation.until(lambda: events(installation)["begin", run.id], "it runs")
        [(identity,)] = installation.query("SELECT id::text FROM agent_run")
        installation.kernel.app.control.revoke(f"{identity}.1", terminate=True)
        installation.until(lambda: events(installation)["stopped", run.id], "it is stopped", 10)
        assert run.wait(10).state == "cancelled"


def test_a_sync_agent_past_its_hard_limit_is_fenced_off_and_its_slot_taken_by_the_next(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, concurrency=1, **QUICK) as installation:
        worker = installation.start_worker()
        once = TaskDefinition(id="stuck", agent="stuck", retry=RetryPolicy(retries=0))
        stuck = installation.orchestrator.submit(sequential(once), {"until": str(until)})
        installation.until(lambda: events(installation)["begin", stuck.id], "it has the one slot")
        assert installation.orchestrator.submit("branch", {}).wait(20).state == "succeeded"
        assert not events(installation)["end", stuck.id], "the next one has waited for the first"
        [(claimed, limited)] = installation.query(
            "SELECT min(claimed_at) FILTER (WHERE agent = 'branch'), min(claimed_at) FILTER (WHERE agent = 'stuck') "
            "+ interval '0.5 s' FROM agent_run"
        )
        assert (claimed - limited).total_seconds() < 1, "the slot was given back late"
        until.touch()
        installation.until(lambda: events(installation)["end", stuck.id], "it comes to its end after all")
        assert installation.orchestrator.submit("branch", {}).wait(20).state == "succeeded"
        done = stuck.snapshot()
        assert done.error is not None, done
        assert (done.state, done.error.code, done.agent_runs[0].output) == ("failed", "agent_timeout", None)
        assert worker.poll() is None, "one stuck thread is no reason to replace a worker"
        assert installation.stop_worker(worker) == 0


def test_a_worker_with_too_many_stuck_threads_drains_and_ends_to_be_replaced(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, concurrency=4, drain_timeout=1, **QUICK) as installation:
        worker = installation.start_worker()
        beside = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", beside.id], "another agent runs")
        installation.orchestrator.submit_many("stuck", [{"until": str(tmp_path / "never")}] * 2)
        assert worker.wait(40) == 75, installation.logs()
        assert "drains, to be replaced" in installation.logs()
        row = installation.query("SELECT state, crashes, failures, suspect FROM agent_run WHERE agent = 'waits'")
        assert row == [("queued", 0, 0, False)]
        assert installation.live_workers() == []
        until.touch()
        installation.start_worker()
        assert beside.wait(30).state == "succeeded"


def test_a_drain_repeats_nothing_recorded_and_ends_although_a_step_is_stuck_in_its_thread(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, drain_timeout=1, **QUICK) as installation:
        worker = installation.start_worker()
        run = installation.orchestrator.submit("steps", {"until": str(until)})
        installation.until(lambda: events(installation)["second", run.id], "it is in its second step")
        assert installation.stop_worker(worker, timeout=20) == 0
        assert charged(installation) == [(1, 0, 0, False)]
        until.touch()
        installation.start_worker()
        assert run.wait(30).state == "succeeded"
        assert (events(installation)["first", run.id], events(installation)["second", run.id]) == (1, 2)
        assert charged(installation) == [(2, 0, 0, False)]


@pytest.mark.parametrize("kept", ["heart", "worker"])
def test_neither_a_worker_nor_its_heart_outlives_the_other_for_long(kept: str, tmp_path: Path) -> None:
    with fleet(tmp_path, **QUICK) as installation:
        worker = installation.start_worker()
        [before] = installation.live_workers()

        def hearts() -> list[int]:
            # Each thread has the children that it has started.
            threads = Path(f"/proc/{worker.pid}/task").glob("*/children")
            found = [int(pid) for thread in threads for pid in thread.read_text().split()]
            return [pid for pid in found if b"heartbeat" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        [heart] = installation.until(hearts, "its heart beats")
        if kept == "heart":
            installation.kill(worker)
            installation.until(lambda: not Path(f"/proc/{heart}").exists(), "the heart has ended", 10)
            return
        os.kill(heart, signal.SIGKILL)
        installation.until(lambda: hearts() not in ([], [heart]), "there is another one", 20)
        assert [row.id for row in installation.live_workers()] == [before.id]
        assert installation.stop_worker(worker) == 0
        assert "Traceback" not in installation.logs()
