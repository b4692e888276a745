"""Agents that talk on a real fleet: over both brokers, on one slot and on many, in order and once."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, fleet

from orchestrator import RunHandle, TaskDefinition, WorkflowDefinition

AGENTS = Path(__file__).parents[1] / "talking_agents"


@contextmanager
def talking_fleet(folder: Path, **settings: Any) -> Generator[Fleet]:
    given: dict[str, Any] = {"agents_path": AGENTS, "concurrency": 4, "lease_ttl": 600, **settings}
    with fleet(folder, **given) as installation:
        yield installation


def together(**agents: str) -> WorkflowDefinition:
    """Give a workflow of tasks that run at the same time, by id."""
    return WorkflowDefinition(name="talk", tasks=tuple(TaskDefinition(id=key, agent=agent) for key, agent in agents.items()))


def outputs(run: RunHandle, seconds: float = 300) -> dict[str, Any]:
    result = run.wait(seconds)
    assert result.state == "succeeded", result.error
    return {each.task: each.output for each in run.snapshot().agent_runs}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("kind", ["", "async_", "isolated_"])
def test_agents_on_two_workers_answer_each_other(tmp_path: Path, broker: str, kind: str) -> None:
    with talking_fleet(tmp_path, broker=broker, concurrency=1) as installation:
        for _ in range(2):
            installation.start_worker()
        run = installation.orchestrator.submit(together(asker=f"{kind}asker", answerer=f"{kind}answerer"), {"times": 10})
        assert outputs(run)["asker"]["got"] == [10 * number for number in range(10)]


@pytest.mark.parametrize("broker", BROKERS)
def test_two_agents_ask_each_other_a_hundred_times_on_one_slot(tmp_path: Path, broker: str) -> None:
    with talking_fleet(tmp_path, broker=broker, concurrency=1) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit(together(asker="asker", answerer="answerer"), {"times": 100})
        found = outputs(run)
        assert found["asker"]["got"] == [10 * number for number in range(100)]
        assert found["answerer"] == {"answered": 100}
