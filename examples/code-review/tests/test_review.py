"""The whole review of a real branch of a real repository."""

import subprocess
import sys

import pytest
from orchestrator import Orchestrator, RunFailed
from orchestrator.testing import run_workflow


@pytest.fixture
def repository(tmp_path):
    subprocess.run([sys.executable, "make_repository.py", str(tmp_path / "shop")], check=True)
    return {"repository": str(tmp_path / "shop")}


def test_a_branch_is_reviewed_file_by_file(repository):
    with Orchestrator.embedded() as nf:
        run = nf.submit("review.yaml", repository)
        summary = run.result(timeout=120)
        reviews = next(part.output for part in run.snapshot().agent_runs if part.task == "reviews")
    assert summary["verdict"] == "mend"
    assert [(each["answer"], each["rounds"]) for each in reviews] == [("merge", 1), ("mend", 2), ("merge", 1)]
    for finding in (
        "- line 6: a mutable default is shared by all calls: make it None (correctness)",
        "- line 10: this catches everything, also what nobody expects: name the errors (correctness)",
        "- line 16: a shell reads what it is given as commands: give a list of arguments (security)",
    ):
        assert finding in summary["text"]
    assert "## shop/prices.py: merge, agreed at once" in summary["text"]


def test_lines_that_were_there_before_are_nobodys_fault(repository):
    with Orchestrator.embedded() as nf:
        summary = nf.submit("review.yaml", {**repository, "base": "receipts~0"}).result(timeout=120)
    assert summary == {"verdict": "merge", "text": "# Merge\n\n"}


def test_what_is_no_repository_is_told_as_git_tells_it(tmp_path):
    with Orchestrator.embedded() as nf, pytest.raises(RunFailed, match=r"(?i)not a git repository"):
        nf.submit("review.yaml", {"repository": str(tmp_path)}).result(timeout=120)


def test_a_review_that_is_killed_goes_on_where_it_was(repository):
    report = run_workflow("review.yaml", repository, kill_at="before_completion:5", timeout=240)
    assert (report.result.state, report.result.output["verdict"]) == ("succeeded", "mend")
    assert not report.repeated_though_recorded
