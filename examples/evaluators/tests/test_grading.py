"""The graders alone, their agreement, and a batch of essays."""

import json
from pathlib import Path

from orchestrator import Orchestrator
from orchestrator.testing import run_workflow
from worker.testing import MockLLM, run_agent

ESSAYS = [json.loads(line) for line in Path("essays.jsonl").read_text().splitlines()]


def test_each_grader_grades_by_its_own_measure():
    turn = {"task": ESSAYS[2]}
    grades = {name: run_agent(name, turn).answer for name in ("language", "substance", "structure")}
    assert grades["language"] == 1
    assert grades["structure"] == 1
    assert grades["substance"] > 3


def test_a_grader_moves_toward_the_others():
    opinions = [{"member": "language", "answer": 1}, {"member": "b", "answer": 4}, {"member": "c", "answer": 5}]
    turn = {"task": ESSAYS[2], "member": "language", "round": 2, "opinions": opinions}
    assert run_agent("language", turn).answer == 2


def test_a_model_can_give_nothing_but_a_grade():
    model = MockLLM('{"answer": 11}', '{"answer": 4, "reason": "clear"}')
    assert run_agent("language", {"task": ESSAYS[0]}, model=model).answer == 4


def test_essays_are_graded_and_where_graders_differ_the_chief_decides():
    with Orchestrator.embedded() as nf:
        runs = [nf.submit("grade.yaml", essay) for essay in ESSAYS]
        grades = {run.result(timeout=120)["title"]: run.result()["grade"] for run in runs}
    assert grades["Harbours"] > grades["Infrastructure"] >= 1
    assert grades["Harbours"] > grades["Tea"]


def test_a_batch_of_essays_is_graded(tmp_path):
    with Orchestrator.embedded() as nf:
        done = nf.batch("essays.jsonl", "grade.yaml", out=tmp_path / "grades.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "grades.jsonl").read_text().splitlines()]
    assert len(lines) == len(ESSAYS), done


def test_grading_that_is_killed_goes_on_where_it_was():
    report = run_workflow("grade.yaml", ESSAYS[1], kill_at="after_claim:4", timeout=240)
    assert report.result.state == "succeeded"
    assert not report.repeated_though_recorded
