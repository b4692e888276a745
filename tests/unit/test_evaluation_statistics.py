"""Figures of uncertainty, against published values and by what they have to be."""

from __future__ import annotations

import pytest

from orchestrator.contracts.evaluation import Grade, Interval
from orchestrator.evaluation.report import compared, score_of, verdict_of
from orchestrator.evaluation.statistics import bootstrap, mcnemar, newcombe, percentile, wilson
from orchestrator.store.evaluations import Facts, StoredTrial


def test_wilson_is_as_published() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == Interval(low=0.2553, high=0.3662)
    assert wilson(0, 20) == Interval(low=0.0, high=0.1611)
    assert wilson(0, 0) is None


def test_newcombes_difference_is_as_published() -> None:
    # Newcombe (1998), method 10: 56/70 less 48/80.
    found = newcombe((48, 80), (56, 70))
    assert found == Interval(low=0.0524, high=0.3339)


def test_mcnemar_is_the_binomial_test_of_what_changed() -> None:
    assert mcnemar(0, 0) is None
    assert mcnemar(5, 5) == 1
    assert mcnemar(10, 0) == pytest.approx(2 / 1024)
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(2 * 9 / 256)


def test_a_bootstrap_is_the_same_each_time_and_lies_about_the_mean() -> None:
    values = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] * 5
    found = bootstrap(values)
    assert found == bootstrap(values)
    assert found is not None
    assert 0.3 < found.low < 0.5 < found.high < 0.7
    assert bootstrap([1.0] * 4) is None
    assert bootstrap([1.0] * 5) == Interval(low=1, high=1)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert percentile([], 0.95) is None
    assert percentile([3.0], 0.95) == 3
    assert percentile([float(value) for value in range(1, 101)], 0.95) == 95


def test_a_verdict_claims_no_more_than_the_interval() -> None:
    assert "higher" in verdict_of(Interval(low=0.01, high=0.2))
    assert "lower" in verdict_of(Interval(low=-0.2, high=-0.01))
    assert verdict_of(Interval(low=-0.1, high=0.2)) == "no difference that chance would not make"
    assert "too few" in verdict_of(None)


def trial(
    number: int, *, score: float = 1.0, succeeded: bool = True, digest: str = "d", error: str | None = None
) -> StoredTrial:
    grades = {"exact": Grade(score=score, passed=score == 1, error=error)} if succeeded else {}
    return StoredTrial(
        number, "v", f"case{number}", digest, (), None, succeeded, None, None, grades, Facts(), judge_nanousd=0
    )


def test_a_failed_run_scores_nothing_and_a_missing_grade_has_no_score() -> None:
    assert score_of(trial(1, succeeded=False), ["exact"]) == 0
    assert score_of(trial(1, error="no verdict"), ["exact"]) is None
    assert score_of(trial(1), ["exact", "judge"]) is None


def test_variants_are_compared_on_the_cases_that_both_have_as_they_are() -> None:
    before = [trial(1, score=0), trial(2), trial(3), trial(4), trial(5, digest="old")]
    after = [trial(1), trial(2, score=0.5), trial(3), trial(4, error="no verdict"), trial(5), trial(6)]
    found = compared(("a", before), ("b", after), ["exact"])
    assert (found.cases, found.unpaired) == (3, 4)
    assert (found.better, found.worse, found.gained, found.lost) == (1, 1, 1, 1)
    assert found.difference == pytest.approx(0.1667)
    assert found.verdict == "3 cases are too few to tell a difference from chance"
