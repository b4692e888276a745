"""Row 9: an agent that kills its process each time, among many that do not, and what that costs those."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.figures import report
from chaos.forms import LONG, PATIENCE_SECONDS, QUICK, SEED, brokers, form
from chaos.ledger import AGENTS_PATH, check_settled
from fleet import PROOF_AGENTS, Fleet, fleet

from orchestrator import Orchestrator

INNOCENT = 200
SLOTS = INNOCENT + 5
WORKERS = form(short=2, long=3)
#: Of each innocent agent run in the long form, on average; they wait, as agents do for models, so slots are what they
#: compete for. Enough of them keep every slot busy until the poison is in quarantine, and for a while after that.
INNOCENT_SECONDS = 10
INNOCENT_RUNS = form(short=INNOCENT, long=8_000)
WINDOW = timedelta(seconds=form(short=0.1, long=20))
LEAST_SHARE = 0.9


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=1800))
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_an_agent_that_kills_its_worker_is_quarantined_and_costs_the_two_hundred_beside_it_one_lease(
    broker: str, tmp_path: Path
) -> None:
    die, go = tmp_path / "die", tmp_path / "go"
    agents = {"agents_path": f"{PROOF_AGENTS}:{AGENTS_PATH}"}
    with fleet(tmp_path, broker, concurrency=SLOTS, **agents, **QUICK) as installation:
        nf = installation.orchestrator
        victim = installation.start_worker()
        poisoned = nf.submit("a=poison", {"until": str(die)})
        _submit_innocents(nf, go)
        installation.until(_beside(installation, victim.pid), f"{INNOCENT} others run beside it")
        others = [installation.start_worker() for _ in range(WORKERS - 1)]
        threading.Event().wait(form(short=0, long=INNOCENT_SECONDS + WINDOW.total_seconds()))
        installation.until(_beside(installation, victim.pid), f"{INNOCENT} others run beside it")
        die.touch()
        installation.until(lambda: victim.poll() is not None, "the worker has died")
        died_at = _now(installation)
        go.touch()
        others.append(installation.start_worker())
        epoch = "SELECT epoch FROM agent_run WHERE agent = 'poison'"
        installation.until(lambda: installation.query(epoch) != [(1,)], "it runs alone")
        alone_at = _now(installation)
        failed = poisoned.wait(300)
        over_at = _now(installation)
        assert (failed.state, failed.error and failed.error.code) == ("failed", "agent_crashed")
        assert installation.executions("begin")[failed.id, "a"] == 1 + 3
        installation.finish(form(short=300, long=900))

        assert [worker.poll() for worker in others] == [None] * WORKERS, "one death was shared, and no second one"
        innocent = (
            "SELECT state, sum(crashes), sum(failures), count(*) FROM agent_run WHERE agent <> 'poison' GROUP BY 1"
        )
        assert installation.query(innocent) == [("succeeded", 0, 0, INNOCENT_RUNS)]
        assert installation.query("SELECT state, crashes, suspect FROM agent_run WHERE agent = 'poison'") == [
            ("failed", 3, False)
        ]
        [dead] = nf.dead()
        assert (dead.run_id, dead.quarantined, dead.crashes) == (failed.id, True, 3)
        before = _rate(installation, died_at - WINDOW, died_at)
        leased, alone = _rate(installation, died_at, alone_at), _rate(installation, alone_at, over_at)
        if LONG:
            assert alone >= LEAST_SHARE * before
        [(suspects,)] = installation.query("SELECT count(*) FROM agent_run WHERE agent <> 'poison' AND epoch > 1")
        report(
            9,
            broker,
            f"it took one of {WORKERS} workers along, with {suspects} innocent agent runs, then died alone 3 times: in "
            f"quarantine {(over_at - died_at).total_seconds():.0f} s after its first death, none of the others; they ended at "
            f"{before:.0f}/s before, {leased:.0f}/s until their lease was over "
            f"({(alone_at - died_at).total_seconds():.0f} s), {alone:.0f}/s while suspects ran alone",
        )
        check_settled(installation, states=("failed", "succeeded"))


def _submit_innocents(nf: Orchestrator, go: Path) -> None:
    """Submit agents that wait: in the short form all of them until a file appears."""
    if not LONG:
        nf.submit_many("a=patient", [{"until": str(go)}] * INNOCENT)
        return
    chance = Random(SEED)
    seconds = (INNOCENT_SECONDS * chance.uniform(0.5, 1.5) for _ in range(INNOCENT_RUNS))
    nf.submit_many("a=sitter", ({"seconds": each} for each in seconds))


def _beside(installation: Fleet, pid: int) -> Callable[[], bool]:
    """Tell, each time that it is called, whether a worker runs all the agents that it is meant to."""
    running = (
        "SELECT count(*) FROM agent_run a JOIN worker w ON w.id = a.worker_id WHERE a.state = 'running' AND w.pid = %s"
    )
    return lambda: installation.query(running, pid)[0][0] > INNOCENT


def _now(installation: Fleet) -> datetime:
    return installation.query("SELECT clock_timestamp()")[0][0]


def _rate(installation: Fleet, since: datetime, until: datetime) -> float:
    """Give how many innocent agent runs have ended per second between two times."""
    ended: list[tuple[Any, ...]] = installation.query(
        "SELECT count(*) FROM agent_run WHERE agent <> 'poison' AND finished_at >= %s AND finished_at < %s",
        since,
        until,
    )
    return ended[0][0] / (until - since).total_seconds()


def test_a_suspect_whose_worker_is_killed_is_charged_nothing_and_its_process_ends_too(tmp_path: Path) -> None:
    with fleet(tmp_path, lease_ttl=6, heartbeat=1) as installation:
        go = tmp_path / "go"
        run = installation.orchestrator.submit("a=patient", {"until": str(go)})
        installation.query("UPDATE agent_run SET suspect = true")
        victim = installation.start_worker()
        installation.until(lambda: installation.executions("begin"), "it runs alone")
        [[_, _, _, child]] = installation.ledger()
        assert int(child) != victim.pid
        installation.kill(victim)
        installation.until(lambda: not Path(f"/proc/{child}").exists(), "its process has ended")
        installation.start_worker()
        go.touch()
        assert run.wait(120).state == "succeeded"
        assert installation.query("SELECT epoch, crashes, failures, suspect FROM agent_run") == [(2, 0, 0, False)]
