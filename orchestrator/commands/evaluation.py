"""`eval`: run labelled cases, show what came of them, compare, and tell a build whether that is good enough."""

from __future__ import annotations

import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import attend, evaluation_page, render
from orchestrator.commands.meter import Meter
from orchestrator.commands.place import (
    Command,
    Listing,
    Place,
    Usd,
    as_id,
    json_option,
    looking,
    place_options,
    producing,
    set_up_logging,
)
from orchestrator.errors import UsageError
from orchestrator.failpoints import arm

if TYPE_CHECKING:
    from orchestrator.contracts.evaluation import Comparison, EvaluationReport

_STOPPED = 4
_min_score = click.option(
    "--min-score", type=click.FloatRange(0, 1), metavar="X", help="Exit with 1 if a variant's mean score is lower."
)
_max_drop = click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Exit with 1 if a score is lower than the baseline's by more.",
)


def _format_options(command: Command) -> Command:
    """Add `--markdown` and `--json`."""
    markdown = click.option("--markdown", is_flag=True, help="Print tables in Markdown, for a pull request.")
    return markdown(json_option(command))


@click.group(name="eval", cls=Listing)
def evaluation() -> None:
    """Put labelled cases through variants of a workflow, and grade them; alone it lists evaluations."""


@evaluation.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--project", default="default", show_default=True, help="The project that the runs belong to.")
@click.option(
    "--window", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many open runs."
)
@click.option("--user", metavar="NAME", help="Whom the costs are charged to, in words of your own.")
@click.option("--budget", type=Usd(), metavar="USD", help="What it may cost at most, judges included; then it stops.")
@_min_score
@_max_drop
@place_options()
@_format_options
def run(
    file: Path, place: Place, *, markdown: bool, as_json: bool, min_score: float | None, max_drop: float | None,
    **options: object,
) -> int:  # fmt: skip
    """Run the evaluation that FILE describes, in YAML or JSON.

    After a kill, Ctrl-C or an outage the same command goes on, and pays for nothing twice; so it does after a stop by
    its budget.

    \b
      nightfleet eval run titles.yaml --min-score 0.8
    """
    from orchestrator.evaluation.written import load_evaluation

    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    _check_format(markdown=markdown, as_json=as_json)
    settings = place.settings()
    given = load_evaluation(file, limit_bytes=settings.max_value_bytes)
    if max_drop is not None and len(given.variants) == 1:
        raise UsageError(
            "--max-drop compares variants, and there is only one: `nightfleet eval compare` takes two evaluations"
        )
    screen = attend.Screen()
    set_up_logging(settings, screen)
    if place.agents_path is not None and not settings.embedded:
        raise UsageError("--agents-path is for agents in this process: add --embedded, or give it to the workers")
    meter = Meter(screen)
    nf = producing(settings)
    try:
        budget = options.pop("budget")
        assert budget is None or isinstance(budget, Decimal)
        report = nf.evaluate(given, budget=budget, on_progress=meter.show, **options)  # pyright: ignore[reportArgumentType]
    finally:
        meter.end()
        nf.close()
    _print(report, markdown=markdown, as_json=as_json)
    if report.stopped_by is not None:
        click.echo(
            f"Error: stopped, since no call could be paid for: {report.stopped_by}. The same command goes on when that is "
            "mended",
            err=True,
        )
        return _STOPPED
    click.echo(f"nightfleet eval show {report.id}{place.flags}", err=True)
    return _exit_code(report, min_score, max_drop)


@evaluation.command()
@click.argument("evaluation_id", metavar="ID")
@click.option("--cases", is_flag=True, help="With every case: its scores, and what graders say of it.")
@place_options(agents=False)
@_format_options
def show(evaluation_id: str, place: Place, *, cases: bool, markdown: bool, as_json: bool) -> None:
    """Show what came of an evaluation; --json with every case and its output."""
    from orchestrator.evaluation.report import report_of

    _check_format(markdown=markdown, as_json=as_json)
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        report = report_of(service.kernel.store.evaluations, _id(evaluation_id))
    _print(report, markdown=markdown, as_json=as_json, cases=cases)


@evaluation.command()
@click.argument("baseline", metavar="BASELINE")
@click.argument("variant", metavar="VARIANT")
@_max_drop
@place_options(agents=False)
@_format_options
def compare(baseline: str, variant: str, place: Place, *, max_drop: float | None, markdown: bool, as_json: bool) -> int:
    """Compare two evaluations case by case: each an ID, or ID/NAME of one with several variants."""
    from orchestrator.evaluation import report

    _check_format(markdown=markdown, as_json=as_json)
    settings = place.settings()
    set_up_logging(settings)
    _id(baseline)
    _id(variant)
    with looking(settings) as service:
        found = report.compare(service.kernel.store.evaluations, baseline, variant)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        click.echo(evaluation_page.comparisons([found], markdown=markdown))
    return _missed(_drops([found], max_drop))


@evaluation.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@place_options(agents=False)
@json_option
def list_evaluations(place: Place, *, limit: int, as_json: bool) -> None:
    """List evaluations, the newest first."""
    from orchestrator.evaluation.report import summaries

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        rows = summaries(service.kernel.store.evaluations, limit=limit)
    if as_json:
        click.echo(render.as_json([row.model_dump(mode="json") for row in rows]))
    elif rows:
        click.echo(evaluation_page.listing(rows))
    else:
        click.echo("no evaluations; `nightfleet eval run FILE` makes one", err=True)


def _check_format(*, markdown: bool, as_json: bool) -> None:
    if as_json and markdown:
        raise UsageError("--markdown and --json are two forms of the same: leave one out")


def _print(report: EvaluationReport, *, markdown: bool, as_json: bool, cases: bool = False) -> None:
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        click.echo(evaluation_page.page(report, markdown=markdown, cases=cases))


def _exit_code(report: EvaluationReport, min_score: float | None, max_drop: float | None) -> int:
    """Tell a build: 1 where a threshold is missed, something could not be graded, or without one a run has failed."""
    missed = _drops(report.comparisons, max_drop)
    for each in report.variants:
        if each.ungraded:
            missed.append(f"{each.ungraded:,} of {each.cases:,} cases of {each.variant} could not be graded")
        if min_score is not None and (each.score is None or each.score < min_score):
            missed.append(f"{each.variant} scores {evaluation_page.score(each.score)}, which is below {min_score:g}")
        if min_score is None and max_drop is None and each.failed:
            missed.append(f"{each.failed:,} of {each.cases:,} runs of {each.variant} have failed")
    return _missed(missed)


def _drops(found: Sequence[Comparison], max_drop: float | None) -> list[str]:
    if max_drop is None:
        return []
    return [
        f"{each.variant} scores {evaluation_page.difference(each.difference)} beside {each.baseline}, and may lose {max_drop:g}"
        for each in found
        if each.difference is None or each.difference < -max_drop
    ]


def _missed(missed: Sequence[str]) -> int:
    for each in missed:
        click.echo(f"Error: {each}", err=True)
    return 1 if missed else 0


def _id(text: str) -> str:
    """Check the id of an evaluation, perhaps with a variant."""
    found = as_id(text.partition("/")[0])
    if found is None:
        raise UsageError(f"{text!r} is the id of no evaluation; `nightfleet eval list` lists them")
    return found


eval = evaluation  # noqa: A001 - commands are found by the name that is typed
