"""The whole workflow: in this process, with an emulated model and a budget; and in processes that are killed."""

from decimal import Decimal
from pathlib import Path

import pytest
from orchestrator import Budget, Orchestrator, RunFailed
from orchestrator.testing import run_workflow
from worker.emulator import Answer, Emulator, Match

WORKFLOW = str(Path(__file__).parents[1] / "quote.yaml")
ORDER = {"text": "What do three tins of Sencha cost?"}


@pytest.fixture
def emulator(monkeypatch):
    with Emulator() as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        running.reply_to(
            Match(text="order|tins of Sencha"), [Answer(text='{"tea": "Sencha", "tins": 3, "euros": "18.60"}')]
        )
        yield running


def test_a_letter_is_posted_and_has_cost_something(emulator, tmp_path):
    with Orchestrator.embedded(tmp_path / "home") as nf:
        done = nf.submit(WORKFLOW, ORDER, budget=Decimal("0.10")).wait(timeout=60)
    assert done.state == "succeeded"
    assert "18.60 euros" in Path("outbox.txt").read_text()
    assert len(emulator.calls) == 2
    assert 0 < Decimal(done.usage.usd) < Decimal("0.10")


def test_a_budget_that_is_too_small_ends_the_run_before_a_model_is_asked(emulator, tmp_path):
    with Orchestrator.embedded(tmp_path / "home") as nf:
        run = nf.submit(WORKFLOW, ORDER, budget=Budget(usd=Decimal("0.000001"), on_cap="fail"))
        with pytest.raises(RunFailed, match="budget"):
            run.result(timeout=60)
    assert emulator.calls == ()


def test_a_letter_that_is_recorded_as_posted_is_not_posted_again():
    report = run_workflow(WORKFLOW, ORDER, kill_at="before_completion:2")
    assert report.result.state == "succeeded"
    assert report.kills == ("before_completion",)
    assert not report.repeated_though_recorded
    assert len(Path("outbox.txt").read_text().splitlines()) == 1
