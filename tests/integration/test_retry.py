"""A retry goes on from what the failed tasks have recorded, unless it is told to begin anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import settings_of
from sqlalchemy import update
from steps import change, stored

from orchestrator import Orchestrator, RunFailed, RunState
from orchestrator.clock import agent_run_id
from orchestrator.errors import AgentFailed
from orchestrator.store import tables

AGENTS = """
import os
from pathlib import Path
from worker.agent import BaseAgent, Context, RetryableError

HERE = Path(os.environ["NOTED"])

def note(word):
    with HERE.open("a") as file:
        file.write(word + "\\n")

def deliver():
    note("deliver")
    if not HERE.with_suffix(".open").exists():
        raise ValueError("closed")

class Shop(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, "pack")
        ctx.step(deliver)
        return {}

class Busy(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        raise RetryableError("closed", retry_after=3600, details={"until": "Monday"})

class Pay(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, "pay", at_most_once=True)
        return {}
"""


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "noted"
    path.touch()
    monkeypatch.setenv("NOTED", str(path))
    return path


@pytest.fixture
def nf(tmp_path: Path, noted: Path) -> Iterator[Orchestrator]:
    del noted
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "shop.py").write_text(AGENTS)
    settings = settings_of(home=tmp_path / "home", agents_path=str(folder), sweep_interval=0.05)
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(folder), settings=settings) as made:
        yield made


@pytest.mark.parametrize("restart", [False, True])
def test_a_retry_repeats_what_failed_and_with_restart_everything(nf: Orchestrator, noted: Path, restart: bool) -> None:
    run = nf.submit("shop")
    with pytest.raises(RunFailed, match="task 'shop': ValueError: closed") as raised:
        run.result(60)
    cause = raised.value.__cause__
    assert isinstance(cause, AgentFailed)
    assert cause.details["type"] == "builtins.ValueError"
    assert re.search(r"agents/shop\.py:\d+$", cause.details["at"])
    assert noted.read_text().split() == ["pack", "deliver"]
    noted.with_suffix(".open").touch()
    run.retry(restart=restart)
    assert run.wait(60).state is RunState.SUCCEEDED
    assert noted.read_text().split()[2:] == (["pack", "deliver"] if restart else ["deliver"])


def test_the_next_try_is_not_before_what_the_error_asks_for_and_the_error_is_told_whole(nf: Orchestrator) -> None:
    run = nf.submit("busy")
    error = next(event.error for event in run.events() if event.error is not None)
    assert (error.code, error.retry_after, error.details) == ("retryable", 3600, {"until": "Monday"})
    row = stored(nf.service.kernel.store.database, tables.agent_run, agent_run_id(run.id, 0))
    assert (row["due_at"] - row["queued_at"]).total_seconds() >= 3600
    run.cancel()


def test_what_may_have_happened_is_repeated_when_somebody_says_so(nf: Orchestrator, noted: Path) -> None:
    run = nf.submit("pay")
    assert run.wait(60).state is RunState.SUCCEEDED
    database, identity = nf.service.kernel.store.database, agent_run_id(run.id, 0)
    # What a worker leaves that dies between the effect and its record.
    change(database, tables.run, run.id, state="failed")
    change(database, tables.agent_run, identity, state="failed")
    with database.connect() as connection:
        row = update(tables.journal).where(tables.journal.c.agent_run_id == identity)
        connection.execute(row.values(state="begun", outcome=None))

    run.retry()
    result = run.wait(60)
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("effect_uncertain", False)
    assert noted.read_text().split() == ["pay"]
    run.retry(repeat_uncertain=True)
    assert run.wait(60).state is RunState.SUCCEEDED
    assert noted.read_text().split() == ["pay", "pay"]
