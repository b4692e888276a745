"""Calls, messages and shared values together: who waits across them is told when nobody can help, and looks when told to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, fleet, settings_of

from orchestrator import Orchestrator, RunHandle, TaskDefinition, WorkflowDefinition
from orchestrator.contracts.run import RunState
from worker.effects.parking import Parking

AGENTS = Path(__file__).parents[1] / "joined_agents"
NEVER_SECONDS = 3600.0


def together(**agents: str) -> WorkflowDefinition:
    """Give a workflow of tasks that run at the same time, by id."""
    tasks = (TaskDefinition(id=key, agent=agent) for key, agent in agents.items())
    return WorkflowDefinition(name="joined", tasks=tuple(tasks))


def outputs(run: RunHandle) -> dict[str, Any]:
    result = run.wait(150)
    assert result.state is RunState.SUCCEEDED, result.error
    return {each.task: each.output for each in run.snapshot().agent_runs}


@contextmanager
def embedded(folder: Path) -> Generator[Orchestrator]:
    settings = settings_of(home=folder / "home", agents_path=str(AGENTS), suspend_after=0.1, concurrency=4)
    with Orchestrator.embedded(settings=settings) as nf:
        yield nf


@contextmanager
def of_a_fleet(folder: Path, broker: str = "rabbitmq") -> Generator[Orchestrator]:
    with fleet(folder, broker=broker, agents_path=AGENTS, suspend_after=0.1, concurrency=1) as installation:
        for _ in range(2):
            installation.start_worker()
        yield installation.orchestrator


PLACES = [embedded, *(partial(of_a_fleet, broker=broker) for broker in BROKERS)]
places = pytest.mark.parametrize("place", PLACES, ids=["embedded", *BROKERS])


@places
def test_one_that_asks_who_has_called_it_is_told_that_nobody_can_answer(place: Any, tmp_path: Path) -> None:
    with place(tmp_path) as nf:
        run = nf.submit(together(chief="chief"), {})
        assert run.wait(150).state is RunState.SUCCEEDED
        said = next(each.output["error"] for each in run.snapshot().agent_runs if each.task == "chief")
    assert "no_message_can_come" in said
    assert "chief-1 waits for chief; chief waits for chief-1, which it has called" in said


@places
@pytest.mark.parametrize("agent", ["watchman", "lone_watchman"])
def test_who_waits_for_changes_that_nobody_can_make_is_told(place: Any, agent: str, tmp_path: Path) -> None:
    with place(tmp_path) as nf:
        found = outputs(nf.submit(together(ann=agent, bob=agent), {"wait": {"ann": "plan", "bob": "draft"}}))
    for name, other, key in (("ann", "bob", "plan"), ("bob", "ann", "draft")):
        assert f"no change can come any more: {name} waits for a change of '{key}' by {other}" in found[name]["error"]


@places
@pytest.mark.parametrize("agent", ["late", "lone_late"])
@pytest.mark.parametrize("kind", ["change", "message"])
def test_what_has_come_all_the_same_is_found_by_who_was_told_and_its_next_wait_is_told_nothing(
    place: Any, kind: str, agent: str, tmp_path: Path
) -> None:
    with place(tmp_path) as nf:
        found = outputs(nf.submit(together(early="early", late=agent), {"mark": str(tmp_path / "mark"), "for": kind}))
    assert found == {"early": "went on", "late": {"found": "made", "heard": "hello"}}


@pytest.mark.parametrize("kind", ["call", "change"])
def test_what_is_waited_for_in_a_process_is_looked_for_when_it_happens_there(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.effects.subwork._LOOK_SECONDS", NEVER_SECONDS)
    monkeypatch.setattr("worker.post.Parking", partial(Parking, look_seconds=NEVER_SECONDS))
    agents = {"busy": "busy"} if kind == "call" else {"busy": "busy", "helper": "helper"}
    with embedded(tmp_path) as nf:
        found = outputs(nf.submit(together(**agents), {"mark": str(tmp_path / "mark"), "for": kind}))
    assert found["busy"] == {"found": "given", "done": "done"}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("kind", ["call", "change"])
def test_what_happens_in_another_process_lets_go_on_who_waits_in_this_one(
    kind: str, broker: str, tmp_path: Path
) -> None:
    agents = {"busy": "busy"} if kind == "call" else {"busy": "busy", "helper": "helper"}
    with of_a_fleet(tmp_path, broker) as nf:
        found = outputs(nf.submit(together(**agents), {"mark": str(tmp_path / "mark"), "for": kind}))
    assert found["busy"] == {"found": "given", "done": "done"}
