"""Agents that call agents on a real fleet: one slot is enough, and another worker goes on where one has died."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, fleet

from orchestrator import RunHandle

AGENTS = Path(__file__).parents[1] / "calling_agents"


@contextmanager
def calling_fleet(folder: Path, **settings: Any) -> Generator[Fleet]:
    given: dict[str, Any] = {"agents_path": AGENTS, "suspend_after": 0.2, "lease_ttl": 600, **settings}
    with fleet(folder, **given) as installation:
        yield installation


def states_of(run: RunHandle) -> dict[str, str]:
    return {part.task: str(part.state) for part in run.snapshot().agent_runs}


@pytest.mark.parametrize("broker", BROKERS)
def test_a_fleet_with_one_slot_completes_agents_that_call_agents_that_call_agents(broker: str, tmp_path: Path) -> None:
    with calling_fleet(tmp_path, broker=broker, concurrency=1) as installation:
        installation.start_worker()
        nested = installation.orchestrator.submit("nester", {"depth": 4, "n": 5})
        mapped = installation.orchestrator.submit("caller", {"items": [{"n": n} for n in range(40)]})
        assert nested.result(120) == {"n": 10}
        assert mapped.result(120) == {"found": [{"n": 2 * n} for n in range(40)]}


def test_isolated_agents_call_on_a_fleet(tmp_path: Path) -> None:
    with calling_fleet(tmp_path) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("alone_caller", {"numbers": list(range(10))})
        assert run.result(120)["mapped"] == [2 * n for n in range(10)]


def test_what_is_called_goes_on_while_its_caller_is_taken_over(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with calling_fleet(tmp_path, heartbeat=0.5, lease_ttl=8, idle_grace=1) as installation:
        first = installation.start_worker(NIGHTFLEET_FAILPOINTS="before_suspend=kill")
        run = installation.orchestrator.submit("caller", {"input": {"n": 4, "until": str(go)}})
        installation.until(lambda: first.poll() is not None, "the caller's worker dies when it has called")
        installation.start_worker()
        installation.until(
            lambda: states_of(run) == {"caller": "suspended", "caller-1": "running"}, "both are taken up again"
        )
        go.touch()
        assert run.result(120) == {"found": {"n": 8}}
        counts = installation.query("SELECT kind, count(*) FROM journal GROUP BY 1 ORDER BY 1")
        assert counts == [("call", 1), ("step", 3)]


def test_an_agent_that_only_other_workers_have_is_known_by_what_they_have_announced(tmp_path: Path) -> None:
    callers, doublers = tmp_path / "callers", tmp_path / "doublers"
    source = (AGENTS / "callers.py").read_text()
    for folder in (callers, doublers):
        folder.mkdir()
    kept = "Doubler(BaseAgent)"
    (doublers / "callers.py").write_text(source)
    (callers / "callers.py").write_text(source.replace(f"class {kept}", f"class _{kept}"))
    with calling_fleet(tmp_path, queues="doubler") as installation:
        installation.start_worker(NIGHTFLEET_AGENTS_PATH=str(doublers))
        installation.start_worker(NIGHTFLEET_AGENTS_PATH=str(callers), NIGHTFLEET_QUEUES="caller")
        assert installation.orchestrator.submit("caller", {"input": {"n": 4}}).result(120) == {"found": {"n": 8}}
        wrong = installation.orchestrator.submit("caller", {"input": {"n": "four"}}).wait(120)
        assert wrong.error is not None
        assert wrong.error.message == "the input of agent 'doubler' is invalid: n must be of type integer"


def test_cancelling_reaches_what_runs_below(tmp_path: Path) -> None:
    never = tmp_path / "never"
    with calling_fleet(tmp_path, heartbeat=0.5) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("nester", {"depth": 2, "n": 1, "until": str(never)})
        installation.until(lambda: states_of(run).get("nester-1-1-1") == "running", "the last one runs")
        assert run.cancel()
        assert set(states_of(run).values()) == {"cancelled"}
        never.touch()
        done = threading.Event()
        installation.until(
            lambda: (
                done.wait(0.01)
                or installation.query("SELECT count(*) FROM agent_run WHERE worker_id IS NOT NULL") == [(0,)]
            ),
            "nobody holds anything of it",
        )
