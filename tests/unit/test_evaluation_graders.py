"""What graders say of outputs, and what they refuse before anything is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import UsageError
from orchestrator.batch.result import RowResult
from orchestrator.contracts.evaluation import Case, Contains, Exact, Function, Grade, Judge, Normalized, Number, Schema
from orchestrator.contracts.run import ErrorInfo, RunState
from orchestrator.evaluation import functions
from orchestrator.evaluation.graders import check, graded
from orchestrator.evaluation.judging import verdict_of


@pytest.mark.parametrize(
    ("grader", "output", "expected", "score"),
    [
        (Exact(), {"a": 1}, {"a": 1.0}, 1),
        (Exact(), {"a": 1, "b": 2}, {"b": 2, "a": 1}, 1),
        (Exact(), [1, 2], [2, 1], 0),
        (Exact(), True, 1, 0),
        (Exact(), {"text": "Yes", "model": "m"}, "Yes", 1),
        (Exact(), {"text": "yes"}, "Yes", 0),
        (Exact(field="answer.0.total"), {"answer": [{"total": 3}]}, 3, 1),
        (Exact(field="answer"), {"other": 3}, 3, 0),
        (Normalized(), "  The CAFE\u0301,\n again! ", "the café again", 1),
        (Normalized(), "1.5", "15", 0),
        (Normalized(), "c++", "c", 0),
        (Contains(), {"text": "It is Paris, of course."}, "paris", 1),
        (Contains(), "comparison", "paris", 0),
        (Contains(), "red and green", ["red", "blue"], 0.5),
        (Number(), 0.1 + 0.2, 0.3, 1),
        (Number(tolerance=0.5), "3.4", 3, 1),
        (Number(tolerance=0.5), 3.6, 3, 0),
        (Number(relative=0.1), 109, 100, 1),
        (Number(), "three", 3, 0),
        (Number(), True, 1, 0),
        (Schema(schema={"type": "object", "required": ["id"]}), {"id": 1}, None, 1),
        (Schema(schema={"type": "object", "required": ["id"]}), {}, None, 0),
    ],
)
def test_a_grader_scores(grader: Any, output: Any, expected: Any, score: float) -> None:
    found = graded(grader, output, expected)
    assert found.score == score
    assert found.passed is (score == 1)
    assert found.passed or found.reason


def test_what_cannot_be_graded_is_refused_before_anything_is_run() -> None:
    with pytest.raises(UsageError, match="grader exact needs what is expected, and case 'a'"):
        check((Exact(),), (Case(id="a", input=1),))
    with pytest.raises(UsageError, match="needs numbers, and case 'a' expects many"):
        check((Number(),), (Case(id="a", input=1, expected="many"),))
    with pytest.raises(UsageError, match="has no JSON Schema"):
        check((Schema(schema={"type": "objekt"}),), (Case(id="a", input=1),))


@pytest.mark.parametrize(
    ("body", "grade"),
    [
        ("return output == expected", Grade(score=1, passed=True)),
        ("return 0.25", Grade(score=0.25, passed=False)),
        ("return 7", "gives True or False, a score from 0 to 1, or a Grade, and this gave 7"),
        ("raise KeyError('x')", "failed: KeyError: 'x'"),
    ],
)
def test_a_function_of_ones_own_grades(body: str, grade: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_graders.py").write_text(f"def mine(output, expected, input):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_graders", raising=False)
    grader = Function(function="own_graders:mine")
    found = functions.asked(grader, functions.load(grader), 3, Case(id="a", input=1, expected=3))
    if isinstance(grade, Grade):
        assert found == grade
    else:
        assert found.error is not None
        assert grade in found.error
    monkeypatch.delitem(sys.modules, "own_graders")


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="importing nowhere_at_all fails: ModuleNotFoundError"):
        functions.load(Function(function="nowhere_at_all:grade"))
    with pytest.raises(UsageError, match="json has no function 'lodas', did you mean 'loads'"):
        functions.load(Function(function="json:lodas"))


def _judged(output: Any, error: ErrorInfo | None = None) -> Grade:
    state = RunState.FAILED if error else RunState.SUCCEEDED
    return verdict_of(Judge(rubric="good", pass_at=0.7), RowResult(1, "run", state, output, error))


def test_a_verdict_is_a_score_with_a_reason() -> None:
    assert _judged({"score": 0.7, "reason": "fine"}) == Grade(score=0.7, passed=True, reason="fine")
    assert not _judged({"score": 0.6}).passed


@pytest.mark.parametrize(
    "output", [None, {}, {"score": "high"}, {"score": 7}, {"score": True}, "good", {"score": float("nan")}]
)
def test_a_judge_without_a_verdict_leaves_a_grade_that_is_missing(output: Any) -> None:
    assert "the judge gave no verdict" in (_judged(output).error or "")


def test_a_judge_that_fails_says_why() -> None:
    assert "output_invalid: no" in (_judged(None, ErrorInfo(code="output_invalid", message="no")).error or "")
