"""A step that happens at most once dies with its process, and a person says what has come of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import settings_of

from orchestrator import AnswerRefused, Orchestrator, RunHandle
from orchestrator.clock import system_clock
from orchestrator.contracts.question import Question
from orchestrator.contracts.replay import Verdict
from orchestrator.contracts.run import RunState
from worker.testing import replay

AGENTS = """
import os
from pathlib import Path
from worker.agent import BaseAgent, Context


def pay(folder: str) -> str:
    calls = Path(folder) / "calls"
    with calls.open("a") as file:
        file.write("called\\n")
    if calls.read_text().count("called") == 1:
        os._exit(3)
    return "receipt 2"


class Payer(BaseAgent):
    isolation = "process"

    def execute(self, data: dict, ctx: Context) -> dict:
        before = ctx.step(len, "before")
        return {"receipt": ctx.step(pay, data["folder"], at_most_once=True, uncertain="ask"), "before": before}
"""


@pytest.fixture
def nf(tmp_path: Path) -> Iterator[Orchestrator]:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "payer.py").write_text(AGENTS)
    with Orchestrator.embedded(settings=settings_of(home=tmp_path / "home", agents_path=str(folder))) as made:
        yield made


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline, pause = system_clock.monotonic() + 60, threading.Event()
    while not (found := condition()):
        assert system_clock.monotonic() < deadline, what
        pause.wait(0.05)
    return found


def asked(nf: Orchestrator, tmp_path: Path) -> tuple[RunHandle, Question]:
    run = nf.submit("payer", {"folder": str(tmp_path)})
    [question] = until(lambda: nf.questions(run.id), "it asks")
    return run, question


def test_what_a_person_tells_is_the_outcome(nf: Orchestrator, tmp_path: Path) -> None:
    run, question = asked(nf, tmp_path)
    assert question.about["step"].startswith("payer.pay(")
    with pytest.raises(AnswerRefused, match="must be"):
        nf.answer(run.id, "yes")
    nf.answer(run.id, {"outcome": "receipt 1"}, digest=question.digest)
    assert run.result(60) == {"receipt": "receipt 1", "before": 6}
    assert (tmp_path / "calls").read_text() == "called\n"
    again = replay(run.id, settings=nf.service.kernel.settings)
    assert (again.verdict, [effect.slot for effect in again.effects]) == (Verdict.SAME, ["0", "1"])


def test_what_a_person_knows_not_to_have_happened_happens(nf: Orchestrator, tmp_path: Path) -> None:
    run, _ = asked(nf, tmp_path)
    nf.answer(run.id, "repeat")
    assert run.result(60) == {"receipt": "receipt 2", "before": 6}
    assert (tmp_path / "calls").read_text() == "called\n" * 2


def test_what_nobody_can_say_fails_the_run_until_it_is_retried(nf: Orchestrator, tmp_path: Path) -> None:
    run, first = asked(nf, tmp_path)
    nf.answer(run.id, "fail")
    result = run.wait(60)
    assert result.error is not None
    assert (result.state, result.error.code) == (RunState.FAILED, "effect_uncertain")
    again = replay(run.id, settings=nf.service.kernel.settings)
    assert (again.verdict, [effect.slot for effect in again.effects]) == (Verdict.SAME, ["0", "1.-1.1"])
    run.retry()
    [second] = until(lambda: nf.questions(run.id), "it asks again")
    assert second.id != first.id
    run.cancel()
    run.retry(repeat_uncertain=True)
    assert run.result(60) == {"receipt": "receipt 2", "before": 6}
    assert nf.questions(run.id) == []
