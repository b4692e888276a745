"""`batch`: a data set through a workflow, with a bar while it runs and a summary at the end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import attend, render
from orchestrator.commands.interrupts import exit_code_of_interrupt
from orchestrator.commands.meter import Meter
from orchestrator.commands.place import (
    Place,
    charge_options,
    deadline_option,
    json_option,
    place_options,
    producing,
    set_up_logging,
)
from orchestrator.errors import NightfleetError, UsageError
from orchestrator.failpoints import arm

if TYPE_CHECKING:
    from orchestrator.client import Orchestrator
    from orchestrator.contracts.batch import BatchOptions, BatchResult
    from orchestrator.settings import Settings

_STOPPED = 4
_MOST_FAILURES = 5


@click.group()
def batch() -> None:
    """Put data sets through workflows."""


@batch.command("run")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--workflow", required=True, metavar="WORKFLOW", help="An expression, or the path of a file.")
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The file of results.")
@click.option("--project", default="default", show_default=True, help="The project that the runs belong to.")
@click.option("--format", type=click.Choice(["jsonl", "csv"]), help="What DATA is, where its name does not tell.")
@click.option("--window", type=click.IntRange(1, 100_000), metavar="N", help="At most so many open runs (1000).")
@click.option("--max-failures", metavar="N|P%", help="Create no more runs once more rows than that have failed.")
@click.option("--retry-failed", is_flag=True, help="Run the rows that have failed again.")
@deadline_option
@charge_options
@place_options()
@json_option
def run(data: Path, workflow: str, out: Path, project: str, place: Place, *, as_json: bool, **options: object) -> int:
    """Run a workflow on each row of DATA, with one line in FILE for each.

    DATA is JSONL, or CSV with a header, perhaps in gzip (.gz). The same command goes on after a kill, Ctrl-C or an
    outage: what is in FILE is not computed again.

    \b
      nightfleet batch run reviews.jsonl --workflow "reader | critic" --out results.jsonl
    """
    from orchestrator.planning.files import resolve_workflow

    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    chosen = _options(options)
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    if place.agents_path is not None and not settings.embedded:
        raise UsageError("--agents-path is for agents in this process: add --embedded, or give it to the workers")
    definition = resolve_workflow(workflow)
    meter = Meter(screen)
    nf = producing(settings)
    try:
        result = nf.batch(data, definition, out=out, project=project, options=chosen, on_progress=meter.show)
    except KeyboardInterrupt:
        meter.end()
        _leave(nf, settings, meter)
        raise
    except NightfleetError:
        meter.end()
        nf.close()
        raise
    meter.end()
    nf.close()
    _conclude(result, out, place, as_json=as_json)
    return _exit_code(result)


def _options(given: dict[str, object]) -> BatchOptions:
    from pydantic import ValidationError

    from orchestrator.contracts.batch import BatchOptions

    if given["budget"] is not None:
        given = {**given, "budget": {"usd": given["budget"]}}
    try:
        return BatchOptions.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][0]).replace("_", "-")
        raise UsageError(f"--{name}: {fault['msg'].removeprefix('Value error, ')}") from None


def _exit_code(result: BatchResult) -> int:
    if result.state == "stopped" or result.stopped_by is not None:
        return _STOPPED
    return 1 if result.failed else 0


def _conclude(result: BatchResult, out: Path, place: Place, *, as_json: bool) -> None:
    """Print what came of a batch."""
    if as_json:
        click.echo(result.model_dump_json(indent=2))
    for failure in result.failures[:_MOST_FAILURES]:
        click.echo(f"{_rows(failure.count)} failed with {failure.code}, the first on line {failure.line}:", err=True)
        click.echo(f"  {render.one_line(failure.message)}", err=True)
        if failure.run_id is not None:
            click.echo(f"  nightfleet runs show {failure.run_id}{place.flags}", err=True)
    more = len(result.failures) - _MOST_FAILURES
    if more > 0:
        click.echo(f"and {more} more kind{'s' if more != 1 else ''} of failure: see {out}", err=True)
    click.echo(_headline(result, out), err=True)
    if result.stopped_by is not None:
        click.echo(
            f"Error: stopped{f' with {_rows(result.remaining)} left' if result.remaining else ''}, since no call can succeed: "
            f"{result.stopped_by}. When that is mended, the same command with --retry-failed goes on",
            err=True,
        )
    elif result.state == "stopped":
        click.echo(
            f"Error: stopped with {_rows(result.remaining)} left, since {result.failed:,} have failed; the same command "
            "with a higher --max-failures goes on",
            err=True,
        )


def _headline(result: BatchResult, out: Path) -> str:
    malformed = f" ({result.malformed:,} malformed)" if result.malformed else ""
    earlier = f", {result.earlier:,} of them earlier" if result.earlier else ""
    return (
        f"{out}: {_rows(result.rows)}: {result.succeeded:,} succeeded, {result.failed:,} failed{malformed}{earlier}, in "
        f"{render.duration(result.seconds)}, {result.rows_per_second:,.0f} rows/s"
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count != 1 else ''}"


def _leave(nf: Orchestrator, settings: Settings, meter: Meter) -> None:
    """Go away from a batch that has not ended, and say what becomes of it."""
    click.echo(f"stopped at {meter.standing}; the same command goes on from there", err=True)
    if not settings.embedded:
        click.echo("runs that are open go on in the fleet", err=True)
        nf.close()
        return
    drain = render.duration(settings.drain_timeout.total_seconds())
    click.echo(f"agents that run have {drain} to end; Ctrl-C again stops at once", err=True)
    try:
        nf.close()
    except KeyboardInterrupt as error:
        # Threads of agents would hold up an orderly exit; what they had is in the database.
        os._exit(exit_code_of_interrupt(error))
