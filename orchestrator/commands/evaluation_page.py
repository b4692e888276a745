"""What a terminal and a pull request show of evaluations and experiments, as text: no effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.evaluation import (
        Comparison,
        EvaluationReport,
        EvaluationSummary,
        Interval,
        Trial,
        VariantScore,
    )
    from orchestrator.contracts.experiment import ArmScore, Experiment, ExperimentReport


def page(report: EvaluationReport, *, markdown: bool = False, cases: bool = False) -> str:
    """Give an evaluation: its variants, how they compare, and with `cases` every case."""
    head = f"evaluation {report.id} ({report.name}) {report.state}: {report.cases:,} cases of {report.workflow}"
    parts = [head, _variants(report.variants, markdown=markdown)]
    if report.comparisons:
        parts.append(comparisons(report.comparisons, markdown=markdown))
    if cases:
        parts.append(_cases(report.trials, markdown=markdown))
    errors = [
        f"{each.case} ({each.variant}): {render.one_line(why)}" for each in report.trials for why in _errors(each)
    ]
    if errors and not cases:
        more = [f"and {len(errors) - _MOST_ERRORS:,} more: --cases shows all"] if len(errors) > _MOST_ERRORS else []
        parts.append("\n".join([*errors[:_MOST_ERRORS], *more]))
    return "\n\n".join(parts)


_MOST_ERRORS = 5


def comparisons(found: Sequence[Comparison], *, markdown: bool = False) -> str:
    """Give what differs between variants, and how sure that is."""
    headers = ("variant", "beside", ">cases", ">score", "95% interval", ">better", ">worse", ">gained", ">lost", ">p")
    rows = (
        (
            each.variant,
            each.baseline,
            f"{each.cases:,}",
            difference(each.difference),
            _interval(each.interval, signed=True),
            f"{each.better:,}",
            f"{each.worse:,}",
            f"{each.gained:,}",
            f"{each.lost:,}",
            "-" if each.p_value is None else f"{each.p_value:.3f}",
        )
        for each in found
    )
    said = [f"{each.variant}: {each.verdict}{_left_out(each)}" for each in found]
    return "\n".join([_table(headers, rows, markdown=markdown), "", *said])


def listing(rows: Sequence[EvaluationSummary]) -> str:
    """Give evaluations as lines of a table."""
    headers = ("evaluation", "created", "project", "name", "state", ">cases", "variants")
    return render.table(
        headers,
        (
            (
                row.id,
                render.moment(row.created_at),
                row.project,
                row.name,
                row.state,
                f"{row.cases:,}",
                ", ".join(row.variants),
            )
            for row in rows
        ),
    )


def experiments(rows: Sequence[Experiment]) -> str:
    """Give experiments as lines of a table."""
    headers = ("experiment", "about", "project", "changes", ">share", "by", "is")
    return render.table(
        headers,
        (
            (
                row.name,
                f"workflow {row.workflow}" if row.workflow else f"agent {row.agent}",
                row.project or "all",
                "; ".join(f"{name} {value}" for name, value in row.changes.model_dump(exclude_none=True).items()),
                f"{float(row.share):.2%}",
                row.by,
                "on" if row.active else "off",
            )
            for row in rows
        ),
    )


def experiment(report: ExperimentReport, *, markdown: bool = False) -> str:
    """Give an experiment and its arms side by side."""
    headers = (
        "arm",
        ">runs",
        ">ended",
        ">failed",
        ">succeeded",
        "95% interval",
        ">median",
        ">p95",
        ">cost",
        ">per run",
    )
    table = _table(headers, map(_arm, report.arms), markdown=markdown)
    interval = _interval(report.interval, signed=True)
    said = f"success rate {difference(report.difference)} ({interval}): {report.verdict}"
    return "\n\n".join([experiments([report.experiment]), table, said])


def score(value: float | None) -> str:
    """Give a score from 0 to 1, `-` for none."""
    return "-" if value is None else f"{value:.3f}"


def difference(value: float | None) -> str:
    """Give the difference of two scores, `-` for none."""
    return "-" if value is None else f"{value:+.3f}"


def _variants(found: Sequence[VariantScore], *, markdown: bool) -> str:
    headers = (
        "variant", ">score", "95% interval", ">passed", "95% interval", ">failed", ">ungraded", ">median", ">p95", ">cost",
        ">judging", ">tokens",
    )  # fmt: skip
    rows = (
        (
            each.variant,
            score(each.score),
            _interval(each.score_interval),
            "-" if each.pass_rate is None else f"{each.pass_rate:.0%}",
            _interval(each.pass_interval),
            f"{each.failed:,}",
            f"{each.ungraded:,}",
            render.duration(each.median_seconds),
            render.duration(each.p95_seconds),
            render.usd(each.usd),
            render.usd(each.judge_usd),
            f"{each.tokens:,}",
        )
        for each in found
    )
    return _table(headers, rows, markdown=markdown)


def _cases(trials: Sequence[Trial], *, markdown: bool) -> str:
    headers = ("case", "variant", ">score", "run", "because")
    rows = (
        (each.case, each.variant, score(each.score), each.run_id or "-", "; ".join(_reasons(each))) for each in trials
    )
    return _table(headers, rows, markdown=markdown)


def _reasons(trial: Trial) -> Iterable[str]:
    yield from _errors(trial)
    yield from (
        f"{name}: {grade.reason}" for name, grade in trial.grades.items() if grade.reason and grade.error is None
    )


def _errors(trial: Trial) -> Iterable[str]:
    if trial.error is not None:
        yield trial.error
    yield from (f"{name}: {grade.error}" for name, grade in trial.grades.items() if grade.error is not None)


def _arm(each: ArmScore) -> tuple[str, ...]:
    return (
        each.arm,
        f"{each.runs:,}",
        f"{each.ended:,}",
        f"{each.failed:,}",
        "-" if each.success_rate is None else f"{each.success_rate:.1%}",
        _interval(each.success_interval),
        render.duration(each.median_seconds),
        render.duration(each.p95_seconds),
        render.usd(each.usd),
        "-" if each.usd_per_run is None else f"${each.usd_per_run:.6f}",
    )


def _interval(found: Interval | None, *, signed: bool = False) -> str:
    if found is None:
        return "-"
    return f"{found.low:+.3f} to {found.high:+.3f}" if signed else f"{found.low:.3f} to {found.high:.3f}"


def _left_out(each: Comparison) -> str:
    if not each.unpaired:
        return ""
    return f" ({each.unpaired:,} cases are left out: in one of the two alone, changed, or without a score)"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool) -> str:
    if not markdown:
        return render.table(headers, rows)
    titles = [header.removeprefix(">") for header in headers]
    rule = ["---:" if header.startswith(">") else "---" for header in headers]
    cells = ([render.one_line(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *cells))
