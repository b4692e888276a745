"""What a worker does about agents that do not stop: revoked, past their limits, stuck in their threads."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from fleet import PROOF_AGENTS, Fleet, fleet

from orchestrator import RetryPolicy, TaskDefinition, Timeouts, sequential

#: Of an agent that shall have begun by then.
LIMIT = Timeouts(hard=timedelta(seconds=3))
LEASE_AGENTS = Path(__file__).parent.parent / "lease_agents"
#: No lease has to end here.
QUICK: dict[str, Any] = {"agents_path": f"{PROOF_AGENTS}:{LEASE_AGENTS}", "heartbeat": 0.5, "lease_ttl": 60}


def events(installation: Fleet) -> Counter[tuple[str, str]]:
    """How often each run noted each event."""
    return Counter((line[0], line[1]) for line in installation.ledger())


def charged(installation: Fleet) -> list[tuple[Any, ...]]:
    return installation.query("SELECT max(epoch), sum(crashes), sum(failures), bool_or(suspect) FROM agent_run")


def test_a_revoke_with_terminate_stops_an_async_agent_at_its_await(tmp_path: Path) -> None:
    with fleet(tmp_path, **QUICK) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("waits", {"until": str(tmp_path / "never")})
        installation.until(lambda: events(installation)["begin", run.id], "it runs")
        # A slow claim is published a second time, under another number.
        [(task_id,)] = installation.query("SELECT id || '.' || dispatch FROM agent_run")
        control = installation.kernel.app.control
        # One of its own: a pooled connection may have been lost since an earlier test.
        with installation.kernel.app.connection_for_write() as connection:
            installation.until(
                lambda: bool(control.ping(connection=connection)), "the worker listens to what it is told"
            )
        installation.revoke(task_id, terminate=True)
        installation.until(lambda: events(installation)["stopped", run.id], "it is stopped")
        assert run.wait(120).state == "cancelled"


def test_a_sync_agent_past_its_hard_limit_is_fenced_off_and_its_slot_taken_by_the_next(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, concurrency=1, **QUICK) as installation:
        worker = installation.start_worker()
        once = TaskDefinition(id="stuck", agent="stuck", retry=RetryPolicy(retries=0), timeouts=LIMIT)
        stuck = installation.orchestrator.submit(sequential(once), {"until": str(until)})
        installation.until(lambda: events(installation)["begin", stuck.id], "it has the one slot")
        assert installation.orchestrator.submit("branch", {}).wait(120).state == "succeeded"
        assert not events(installation)["end", stuck.id], "the next one has waited for the first"
        until.touch()
        installation.until(lambda: events(installation)["end", stuck.id], "it comes to its end after all")
        assert installation.orchestrator.submit("branch", {}).wait(120).state == "succeeded"
        done = stuck.snapshot()
        assert done.error is not None, done
        assert (done.state, done.error.code, done.agent_runs[0].output) == ("failed", "agent_timeout", None)
        assert worker.poll() is None, "one stuck thread is no reason to replace a worker"
        assert installation.stop_worker(worker) == 0


def test_a_worker_with_too_many_stuck_threads_drains_and_ends_to_be_replaced(tmp_path: Path) -> None:
    until, free = tmp_path / "go", tmp_path / "free"
    with fleet(tmp_path, concurrency=4, drain_timeout=1, **QUICK) as installation:
        worker = installation.start_worker()
        beside = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", beside.id], "another agent runs")
        installation.orchestrator.submit_many("stuck", [{"until": str(free)}] * 2)
        assert worker.wait(120) == 75, installation.logs()
        assert "drains, to be replaced" in installation.logs()
        row = installation.query("SELECT state, crashes, failures, suspect FROM agent_run WHERE agent = 'waits'")
        assert row == [("queued", 0, 0, False)]
        assert installation.live_workers() == []
        # Those that were stuck may be tried again, and shall not take the next worker along.
        free.touch()
        until.touch()
        installation.start_worker()
        assert beside.wait(120).state == "succeeded"


def test_a_drain_repeats_nothing_recorded_and_ends_although_a_step_is_stuck_in_its_thread(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, drain_timeout=1, **QUICK) as installation:
        worker = installation.start_worker()
        run = installation.orchestrator.submit("steps", {"until": str(until)})
        installation.until(lambda: events(installation)["second", run.id], "it is in its second step")
        assert installation.stop_worker(worker) == 0
        assert charged(installation) == [(1, 0, 0, False)]
        until.touch()
        installation.start_worker()
        assert run.wait(120).state == "succeeded"
        assert (events(installation)["first", run.id], events(installation)["second", run.id]) == (1, 2)
        assert charged(installation) == [(2, 0, 0, False)]
