"""Row 11 and other things that must not cost a lease: a held GIL, wrong clocks, a database that is away, a lost heart."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import servers
from chaos import forms
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, brokers, form
from chaos.ledger import check_settled
from fleet import PROOF_AGENTS, Fleet, fleet

from orchestrator import RetryPolicy, RunHandle, TaskDefinition, clock, sequential

LEASE_AGENTS = Path(__file__).parent.parent / "lease_agents"
AGENTS = {"agents_path": f"{PROOF_AGENTS}{os.pathsep}{LEASE_AGENTS}"}
#: A lease that is lost in the test, and by nobody who is only slow.
QUICK: dict[str, Any] = {**AGENTS, "heartbeat": 0.5, "lease_ttl": 5}
#: Outlasts a restart of Postgres on a busy machine.
LONGER: dict[str, Any] = {**QUICK, "lease_ttl": 20}
#: Nobody loses it.
STEADY: dict[str, Any] = {**QUICK, "lease_ttl": 60}

#: Row 11: two leases in the long form.
HELD_SECONDS = form(short=1.5 * forms.LEASE_TTL, long=30)
WRONG_SECONDS = 600
BESIDE = form(short=20, long=50)
TIMERS = form(short=8, long=50)


def events(installation: Fleet) -> Counter[tuple[str, str]]:
    """How often each run noted each event."""
    return Counter((line[0], line[1]) for line in installation.ledger())


def charged(installation: Fleet) -> list[tuple[Any, ...]]:
    return installation.query("SELECT max(epoch), sum(crashes), sum(failures), bool_or(suspect) FROM agent_run")


@pytest.mark.scenario
@pytest.mark.timeout(PATIENCE_SECONDS)
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_neither_a_held_gil_nor_wrong_clocks_cost_a_lease_or_fire_a_timer_early(broker: str, tmp_path: Path) -> None:
    until, free = tmp_path / "go", tmp_path / "free"
    with fleet(tmp_path, broker, **AGENTS, **forms.QUICK) as installation:
        for shift in ("0", str(WRONG_SECONDS), str(-WRONG_SECONDS)):
            installation.start_worker(NIGHTFLEET_TEST_CLOCK=shift)
        beside = installation.orchestrator.submit_many("waits", [{"until": str(until)}] * BESIDE)
        installation.until(lambda: len(events(installation)) == BESIDE, "other agents run")
        timers = _submit_timers(installation)
        stuck = installation.orchestrator.submit("gil", {"until": str(free)})
        installation.until(lambda: events(installation)["begin", stuck.id], "it has an interpreter to itself")
        ttl = installation.kernel.settings.lease_ttl
        installation.until(
            lambda: installation.query(
                "SELECT bool_or(clock_timestamp() - claimed_at > %s) FROM agent_run WHERE agent = 'gil'",
                timedelta(seconds=HELD_SECONDS),
            )[0][0],
            "the other workers have observed it for more than a lease",
        )
        free.touch()
        assert stuck.wait(120).state == "succeeded"
        until.touch()
        installation.finish()
        assert {run.state for run in (*beside, *timers)} == {"succeeded"}
        held = "SELECT max(epoch), sum(crashes), sum(failures), bool_or(suspect) FROM agent_run WHERE agent IN ('gil', 'waits')"
        assert installation.query(held) == [(1, 0, 0, False)]
        assert installation.query("SELECT sum(crashes), bool_or(suspect) FROM agent_run") == [(0, False)]
        assert "declared dead" not in installation.logs()
        late = _lateness(installation)
        assert len(late) == 4 * TIMERS
        assert min(late) >= 0
        report(
            11,
            broker,
            f"{HELD_SECONDS:g} s of GIL hold beside {BESIDE} agents, lease {ttl.total_seconds():g} s, two of three workers with "
            f"clocks that are 10 minutes off: no lease lost; {len(late)} timers fired, none early, the first "
            f"{min(late) * 1000:.0f} ms after its time",
        )
        check_settled(installation)


def _submit_timers(installation: Fleet) -> list[RunHandle]:
    """Have agents sleep for a while, sleep until a time, and be tried again after a while."""
    due, span = time.monotonic() + 4, timedelta(seconds=4)
    asleep = {"seconds": 2, "until": (clock.system_clock.now() + span).isoformat(), "due": due}
    patient = TaskDefinition(id="later", agent="later", retry=RetryPolicy(first_delay=timedelta(seconds=0.1)))
    nf = installation.orchestrator
    return [*nf.submit_many("naps", [asleep] * TIMERS), *nf.submit_many(sequential(patient), [{}] * TIMERS)]


def _lateness(installation: Fleet) -> list[float]:
    """Give by how many seconds each timer was late, by a clock that nobody sets."""
    lines = installation.ledger()
    tries: dict[str, list[float]] = {}
    for run, at in (line[1:3] for line in lines if line[0] == "try"):
        tries.setdefault(run, []).append(float(at))
    assert all(len(each) == 3 for each in tries.values())
    retries = [b - a - 1 for each in tries.values() for a, b in pairwise(each)]
    slept: dict[tuple[str, str], float] = {}
    for event, run, late, _ in (line for line in lines if line[0] in {"napped", "slept"}):
        slept.setdefault((event, run), float(late))  # the code between two effects runs again, later
    return [*retries, *slept.values()]


def test_a_worker_that_is_stopped_for_too_long_loses_its_lease_and_stops_its_executor_when_it_goes_on(
    tmp_path: Path,
) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, **QUICK, stall_timeout=5) as installation:
        stopped = installation.start_worker()
        run = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", run.id], "it runs")
        installation.start_worker()
        stopped.send_signal(signal.SIGSTOP)
        installation.until(lambda: events(installation)["begin", run.id] == 2, "another worker has taken it over")
        stopped.send_signal(signal.SIGCONT)
        installation.until(lambda: events(installation)["stopped", run.id], "the first one is stopped at its await")
        installation.until(lambda: len(installation.live_workers()) == 2, "its worker has joined again")
        until.touch()
        assert run.wait(120).state == "succeeded"
        assert events(installation)["end", run.id] == 1


def _times(log: Path, words: str) -> int:
    return log.read_text(errors="replace").count(words)


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
        # A restart between two looks at the heartbeats is nothing to a worker: what it saw before is still true. The
        # first look that fails may be one for timers.
        for log in ("worker-1.log", "worker-2.log"):
            failed = partial(_times, tmp_path / log, "no sweep")
            installation.until(lambda failed=failed: failed() >= 2, "it cannot look at the heartbeats")
        postgres.start()
        installation.until(
            lambda: sum(events(installation).values()) == 11 + len(on_victim), "what the dead one held runs again"
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
        fleet(tmp_path, database=postgres.url, **QUICK) as installation,
    ):
        installation.start_worker()
        run = installation.orchestrator.submit("waits", {"until": str(until)})
        installation.until(lambda: events(installation)["begin", run.id], "it runs")
        postgres.stop(immediate=True)
        installation.until(lambda: events(installation)["stopped", run.id], "it is stopped: somebody else may have it")
        postgres.start()
        installation.until(lambda: events(installation)["begin", run.id] == 2, "it runs again")
        assert charged(installation) == [(2, 0, 0, False)]
        until.touch()
        assert run.wait(120).state == "succeeded"


@pytest.mark.parametrize("kept", ["heart", "worker"])
def test_neither_a_worker_nor_its_heart_outlives_the_other_for_long(kept: str, tmp_path: Path) -> None:
    with fleet(tmp_path, **STEADY) as installation:
        worker = installation.start_worker()
        [before] = installation.live_workers()

        def hearts() -> list[int]:
            # Each thread has the children that it has started.
            threads = Path(f"/proc/{worker.pid}/task").glob("*/children")
            found = [pid for thread in threads for pid in read(thread).split()]
            return [int(pid) for pid in found if b"heartbeat" in read(Path(f"/proc/{pid.decode()}/cmdline"))]

        def read(path: Path) -> bytes:
            with suppress(OSError):  # a thread or a process that has just ended
                return path.read_bytes()
            return b""

        [heart] = installation.until(hearts, "its heart beats")
        if kept == "heart":
            installation.kill(worker)
            installation.until(lambda: not Path(f"/proc/{heart}").exists(), "the heart has ended")
            return
        os.kill(heart, signal.SIGKILL)
        installation.until(lambda: hearts() not in ([], [heart]), "there is another one")
        assert [row.id for row in installation.live_workers()] == [before.id]
        assert installation.stop_worker(worker) == 0
        assert "Traceback" not in installation.logs()
