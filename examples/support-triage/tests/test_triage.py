"""The whole triage: where messages go, what people are asked, and that nobody is paid twice."""

from pathlib import Path

import pytest
from orchestrator import Orchestrator
from orchestrator.testing import run_workflow


def agents_of(run) -> list[str]:
    return [part.agent for part in run.snapshot().agent_runs if part.called_by]


@pytest.mark.parametrize(
    ("text", "agents", "told"),
    [
        ("My kettle does not switch off.", ["chooser", "handoff", "repairs"], "vinegar"),
        ("Where is the parcel of order 1003?", ["chooser", "handoff", "orders"], "is on its way"),
        ("I return order 1001, refund my money.", ["chooser", "handoff", "orders", "refunds"], "39.00 euros"),
        ("Thanks, I like your shop.", ["chooser", "reception"], "tomorrow"),
        (
            "Order 1001 is broken and leaks, does not work: money back!",
            ["chooser", "handoff", "repairs", "orders", "refunds"],
            "39.00 euros",
        ),
    ],
)
def test_messages_go_to_who_can_answer_them(text, agents, told):
    with Orchestrator.embedded() as nf:
        run = nf.submit("triage.yaml", {"text": text})
        assert told in run.result(timeout=60)["text"]
        assert agents_of(run) == agents


def test_a_large_refund_waits_for_a_person():
    with Orchestrator.embedded() as nf:
        run = nf.submit("triage.yaml", {"text": "Refund order 1002, please."})
        question = next(event for event in run.events() if "asks: " in (event.message or ""))
        assert "Refund 480.00 euros" in question.message
        assert not Path("refunds.txt").exists()
        nf.answer(run.id, "yes")
        assert "480.00 euros" in run.result(timeout=60)["text"]
    assert Path("refunds.txt").read_text() == "1002 480.00\n"


def test_a_refund_that_is_recorded_is_not_paid_again():
    text = {"text": "Refund order 1001, please."}
    report = run_workflow("triage.yaml", text, kill_at="before_completion:3", timeout=240)
    assert report.result.state == "succeeded"
    assert not report.repeated_though_recorded
    assert Path("refunds.txt").read_text() == "1001 39.00\n"
