"""What an evaluation shows: trials as scores, variants side by side, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from orchestrator.contracts.evaluation import (
    Comparison,
    EvaluationReport,
    EvaluationSummary,
    Interval,
    Trial,
    VariantScore,
)
from orchestrator.contracts.money import plain_usd
from orchestrator.errors import UsageError
from orchestrator.evaluation.statistics import FEWEST, bootstrap, mcnemar, percentile, wilson
from orchestrator.store.evaluations import EvaluationHead, Evaluations, StoredTrial

_SLOW = 0.95
_PLACES = 4


def report_of(store: Evaluations, evaluation_id: str, *, stopped_by: str | None = None) -> EvaluationReport:
    """Give an evaluation and what came of it so far; raises `UsageError` where there is none."""
    head = head_of(store, evaluation_id)
    stored = store.trials(evaluation_id)
    names = tuple(head.definition["variants"])
    graders = _graders(head)
    by_variant = {name: [trial for trial in stored if trial.variant == name] for name in names}
    first, *others = names
    return EvaluationReport(
        id=head.id,
        name=head.name,
        project=head.project,
        state="finished" if head.state == "finished" else "running",
        workflow=head.definition["workflow"],
        cases=head.cases,
        created_at=head.created_at,
        finished_at=head.finished_at,
        variants=tuple(_scored(name, by_variant[name], head.cases, graders) for name in names),
        comparisons=tuple(compared((first, by_variant[first]), (name, by_variant[name]), graders) for name in others),
        trials=tuple(_told(trial, graders) for trial in stored),
        stopped_by=stopped_by,
    )


def summaries(store: Evaluations, *, limit: int) -> list[EvaluationSummary]:
    """Give evaluations as lines of a list, the newest first."""
    return [
        EvaluationSummary(
            id=head.id,
            name=head.name,
            project=head.project,
            state="finished" if head.state == "finished" else "running",
            cases=head.cases,
            variants=tuple(head.definition["variants"]),
            created_at=head.created_at,
            finished_at=head.finished_at,
        )
        for head in store.newest(limit=limit)
    ]


def compare(store: Evaluations, baseline: str, variant: str) -> Comparison:
    """Give two variants side by side, each as `ID`, or `ID/VARIANT` where it has several.

    They are paired by the ids of their cases; a case that was changed between them is left out. Raises `UsageError` for
    evaluations that are not there, or were graded differently.
    """
    before, name_before = _named(store, baseline)
    after, name_after = _named(store, variant)
    if before.definition["graders"] != after.definition["graders"]:
        raise UsageError(
            f"evaluations {before.id} and {after.id} have different graders, so their scores mean different things: run "
            "one of them again with the graders of the other"
        )
    return compared(
        (baseline, [trial for trial in store.trials(before.id) if trial.variant == name_before]),
        (variant, [trial for trial in store.trials(after.id) if trial.variant == name_after]),
        _graders(before),
    )


def compared(
    baseline: tuple[str, Sequence[StoredTrial]], variant: tuple[str, Sequence[StoredTrial]], graders: Sequence[str]
) -> Comparison:
    """Give two variants, each with its name, on the cases that both have a score for."""
    before = {(trial.case_id, trial.case_digest): trial for trial in baseline[1]}
    after = {(trial.case_id, trial.case_digest): trial for trial in variant[1]}
    pairs: list[tuple[float, float]] = []
    gained = lost = 0
    for key in before.keys() & after.keys():
        one, two = score_of(before[key], graders), score_of(after[key], graders)
        if one is None or two is None:
            continue
        pairs.append((one, two))
        passed = passed_of(before[key], graders), passed_of(after[key], graders)
        gained += passed == (False, True)
        lost += passed == (True, False)
    # In an order of their own: a set has another one in each process, and the resamples would differ.
    differences = sorted(two - one for one, two in pairs)
    interval = bootstrap(differences)
    return Comparison(
        baseline=baseline[0],
        variant=variant[0],
        cases=len(pairs),
        unpaired=len(before.keys() | after.keys()) - len(pairs),
        difference=round(fmean(differences), _PLACES) if pairs else None,
        interval=interval,
        better=sum(each > 0 for each in differences),
        worse=sum(each < 0 for each in differences),
        gained=gained,
        lost=lost,
        p_value=None if (found := mcnemar(gained, lost)) is None else round(found, _PLACES),
        verdict=_verdict(len(pairs), interval),
    )


def score_of(trial: StoredTrial, graders: Sequence[str]) -> float | None:
    """Give a trial's score; None while a grade is missing."""
    if not trial.succeeded:
        return 0.0
    grades = [trial.grades.get(name) for name in graders]
    known = [grade.score for grade in grades if grade is not None and grade.error is None]
    return fmean(known) if len(known) == len(graders) else None


def passed_of(trial: StoredTrial, graders: Sequence[str]) -> bool | None:
    """Tell whether all graders let a trial pass; None while a grade is missing."""
    if score_of(trial, graders) is None:
        return None
    return trial.succeeded and all(trial.grades[name].passed for name in graders)


def head_of(store: Evaluations, evaluation_id: str) -> EvaluationHead:
    """Give an evaluation's own row; raises `UsageError` where there is none."""
    head = store.head(evaluation_id)
    if head is None:
        raise UsageError(f"there is no evaluation {evaluation_id} in this database; `nightfleet eval list` lists them")
    return head


def verdict_of(interval: Interval | None, what: str = "score") -> str:
    """Say whether a difference is more than chance would make."""
    if interval is None:
        return "too few to tell a difference from chance"
    if interval.low > 0:
        return f"the {what} is higher, by more than chance would make it"
    if interval.high < 0:
        return f"the {what} is lower, by more than chance would make it"
    return "no difference that chance would not make"


def _verdict(cases: int, interval: Interval | None) -> str:
    if cases < FEWEST:
        return f"{cases} cases are too few to tell a difference from chance"
    return verdict_of(interval)


def _scored(name: str, trials: Sequence[StoredTrial], cases: int, graders: Sequence[str]) -> VariantScore:
    scores = [score for trial in trials if (score := score_of(trial, graders)) is not None]
    passed = sum(passed_of(trial, graders) is True for trial in trials)
    seconds = [
        trial.facts.milliseconds / 1000 for trial in trials if trial.succeeded and trial.facts.milliseconds is not None
    ]
    return VariantScore(
        variant=name,
        cases=cases,
        graded=len(scores),
        ungraded=cases - len(scores),
        failed=sum(not trial.succeeded for trial in trials),
        score=round(fmean(scores), _PLACES) if scores else None,
        score_interval=bootstrap(sorted(scores)),
        pass_rate=round(passed / len(scores), _PLACES) if scores else None,
        pass_interval=wilson(passed, len(scores)),
        median_seconds=median(seconds) if seconds else None,
        p95_seconds=percentile(seconds, _SLOW),
        usd=plain_usd(sum(trial.facts.cost_nanousd for trial in trials)),
        judge_usd=plain_usd(sum(trial.judge_nanousd for trial in trials)),
        tokens=sum(trial.facts.tokens for trial in trials),
    )


def _told(trial: StoredTrial, graders: Sequence[str]) -> Trial:
    score = score_of(trial, graders)
    return Trial(
        case=trial.case_id,
        variant=trial.variant,
        run_id=trial.run_id,
        succeeded=trial.succeeded,
        output=trial.output,
        error=trial.error,
        grades=dict(trial.grades),
        score=None if score is None else round(score, _PLACES),
        passed=passed_of(trial, graders),
        seconds=None if trial.facts.milliseconds is None else trial.facts.milliseconds / 1000,
        usd=plain_usd(trial.facts.cost_nanousd),
        judge_usd=plain_usd(trial.judge_nanousd),
        tokens=trial.facts.tokens,
        tags=trial.tags,
    )


def _graders(head: EvaluationHead) -> tuple[str, ...]:
    given: Sequence[Mapping[str, str]] = head.definition["graders"]
    return tuple(each.get("name") or each["kind"] for each in given)


def _named(store: Evaluations, text: str) -> tuple[EvaluationHead, str]:
    """Give the evaluation and the variant that are meant."""
    identity, _, name = text.partition("/")
    head = head_of(store, identity)
    names = list(head.definition["variants"])
    if not name and len(names) == 1:
        return head, names[0]
    if name not in names:
        raise UsageError(
            f"evaluation {identity} has the variants {', '.join(names)}: say which, as {identity}/{names[0]}"
        )
    return head, name
