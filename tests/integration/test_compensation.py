"""A run that fails or is cancelled is undone by the agents that its tasks name, in one process and on a fleet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import fleet, settings_of

from orchestrator import Compensation, Orchestrator, RunFailed, RunState, RunStateConflict, TaskDefinition, sequential

AGENTS = '''
import os
import signal
from pathlib import Path
from worker.agent import BaseAgent, Context, RetryableError

def note(*words):
    with Path(os.environ["BOOKINGS"]).open("a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

class Book(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        note("book", ctx.task)
        return {"id": ctx.task.upper()}

class Sold(BaseAgent):
    """Finds nothing to book."""
    def execute(self, data: dict, ctx: Context) -> dict:
        raise ValueError("sold out")

class Busy(BaseAgent):
    """Waits for a better time."""
    def execute(self, data: dict, ctx: Context) -> dict:
        raise RetryableError("closed", retry_after=3600)

class Unbook(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, "unbook", data["output"]["id"])
        return {}

class Tired(BaseAgent):
    """Undoes at the second try."""
    def execute(self, data: dict, ctx: Context) -> dict:
        mark = Path(os.environ["BOOKINGS"] + ".tired")
        if not mark.exists():
            mark.touch()
            raise RetryableError("later", retry_after=0.01)
        ctx.step(note, "unbook", data["id"], data["who"])
        return {}

class Never(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        raise ValueError("no refunds")

class Killed(BaseAgent):
    """Its worker dies behind its first effect, once."""
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, "unbook", data["output"]["id"])
        mark = Path(os.environ["BOOKINGS"] + ".killed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.step(note, "told", data["output"]["id"])
        return {}
'''


@pytest.fixture
def bookings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bookings"
    path.touch()
    monkeypatch.setenv("BOOKINGS", str(path))
    return path


@pytest.fixture
def agents(tmp_path: Path) -> str:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "bookings.py").write_text(AGENTS)
    return str(folder)


@pytest.fixture
def nf(tmp_path: Path, agents: str) -> Iterator[Orchestrator]:
    settings = settings_of(home=tmp_path / "home", agents_path=agents, sweep_interval=0.05)
    with Orchestrator.embedded(tmp_path / "home", agents_path=agents, settings=settings) as made:
        yield made


def book(identity: str, compensate: Any = "unbook", **fields: Any) -> TaskDefinition:
    return TaskDefinition(id=identity, agent="book", compensate=compensate, **fields)


def lines(bookings: Path) -> list[str]:
    return bookings.read_text().splitlines()


def test_a_trip_that_cannot_be_booked_whole_is_unbooked_in_reverse_and_then_has_failed(
    nf: Orchestrator, bookings: Path
) -> None:
    run = nf.submit(sequential(book("flight"), book("hotel"), "sold"))
    with pytest.raises(RunFailed, match="sold out"):
        run.result(60)
    assert lines(bookings) == ["book flight", "book hotel", "unbook HOTEL", "unbook FLIGHT"]
    result = run.snapshot()
    assert [(part.task, part.agent, str(part.state)) for part in result.agent_runs] == [
        ("flight", "book", "succeeded"), ("hotel", "book", "succeeded"), ("sold", "sold", "failed"),
        ("undo_hotel", "unbook", "succeeded"), ("undo_flight", "unbook", "succeeded"),
    ]  # fmt: skip
    assert (result.state, result.ending, result.warnings) == (RunState.FAILED, RunState.FAILED, ())
    assert [part.undoes for part in result.agent_runs] == [None, None, None, "hotel", "flight"]
    assert result.error is not None
    assert result.error.task == "sold"
    with pytest.raises(RunStateConflict, match="has been undone"):
        run.retry()


def test_a_compensation_has_its_own_input_and_is_tried_again(nf: Orchestrator, bookings: Path) -> None:
    undo = Compensation(agent="tired", input={"id": "${flight.id}", "who": "${input.who}"})
    result = nf.submit(sequential(book("flight", undo), "sold"), {"who": "ada"}).wait(60)
    assert lines(bookings) == ["book flight", "unbook FLIGHT ada"]
    assert result.agent_runs[-1].failures == 1


def test_what_cannot_be_undone_is_told_and_keeps_the_rest_from_nothing(nf: Orchestrator, bookings: Path) -> None:
    result = nf.submit(sequential(book("flight"), book("hotel", "never"), "sold")).wait(60)
    assert lines(bookings)[-1] == "unbook FLIGHT"
    assert result.state is RunState.FAILED
    assert result.error is not None
    assert result.error.message == "ValueError: sold out"
    dead = {each.task: each.id for each in nf.dead()}
    assert dead.keys() == {"sold", "undo_hotel"}
    [warning] = result.warnings
    assert warning == "what task 'hotel' did is not undone: undo_hotel failed: ValueError: no refunds"


def test_a_cancelled_run_is_undone_and_a_second_cancel_changes_nothing(nf: Orchestrator, bookings: Path) -> None:
    run = nf.submit(sequential(book("flight"), "busy"))
    for event in run.events():
        if (event.task, event.state) == ("busy", "queued") and event.error is not None:
            break
    assert run.cancel()
    assert not run.cancel()
    result = run.wait(60)
    assert (result.state, result.ending, result.error) == (RunState.CANCELLED, RunState.CANCELLED, None)
    assert lines(bookings) == ["book flight", "unbook FLIGHT"]
    assert not run.cancel()


def test_a_condition_that_cannot_be_decided_has_the_run_undone(nf: Orchestrator, bookings: Path) -> None:
    result = nf.submit(
        sequential(book("flight"), TaskDefinition(id="sold", agent="sold", when="flight.price > 1"))
    ).wait(60)
    assert result.state is RunState.FAILED
    assert result.error is not None
    assert "cannot be decided" in result.error.message
    assert lines(bookings) == ["book flight", "unbook FLIGHT"]


def test_a_worker_that_is_killed_while_it_undoes_repeats_nothing_that_is_recorded(
    tmp_path: Path, agents: str, bookings: Path
) -> None:
    with fleet(tmp_path, "redis", agents_path=agents, lease_ttl=8, heartbeat=0.5) as installation:
        first = installation.start_worker(BOOKINGS=str(bookings))
        run = installation.orchestrator.submit(sequential(book("flight"), book("hotel", "killed"), "sold"))
        installation.until(lambda: first.poll() is not None, "the worker has died")
        installation.start_worker(BOOKINGS=str(bookings))
        result = run.wait(60)
    assert result.state is RunState.FAILED
    told = lines(bookings)
    assert told == ["book flight", "book hotel", "unbook HOTEL", "told HOTEL", "unbook FLIGHT"]
    assert json.loads(result.model_dump_json())["ending"] == "failed"
