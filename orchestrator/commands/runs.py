"""`runs`: every run, to look at and to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from orchestrator.commands import attend, render
from orchestrator.commands.place import (
    Listing,
    Place,
    json_option,
    looking,
    place_options,
    producing,
    run_id,
    set_up_logging,
    timeout_option,
)
from orchestrator.commands.work import leave
from orchestrator.errors import NightfleetError, UsageError

if TYPE_CHECKING:
    from orchestrator.settings import Settings

#: Written out, so that `--help` needs no model; a test compares them.
STATES = ("pending", "running", "succeeded", "failed", "cancelled")

_run_argument = click.argument("run", metavar="ID", callback=run_id)


@click.group(cls=Listing)
def runs() -> None:
    """List, show and change runs; alone it lists them."""


@runs.command("list")
@click.option("--project", help="Only runs of this project.")
@click.option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@click.option("--workflow", metavar="NAME", help="Only runs of workflows of this name.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@place_options(agents=False)
@json_option
def list_runs(
    place: Place, *, project: str | None, state: str | None, workflow: str | None, limit: int, as_json: bool
) -> None:
    """List the newest runs first."""
    from orchestrator.contracts.run import RunState

    wanted = None if state is None else RunState(state)
    with looking(_settings(place)) as service:
        rows = service.list(project=project, state=wanted, workflow=workflow, limit=limit)
    if as_json:
        click.echo(render.as_json([row.model_dump(mode="json") for row in rows]))
    elif rows:
        click.echo(render.runs_table(rows))
    else:
        click.echo("no runs; `nightfleet run` makes one", err=True)


@runs.command()
@_run_argument
@place_options(agents=False)
@json_option
def show(run: str, place: Place, *, as_json: bool) -> None:
    """Show a run as it is now; --json with its input and every output."""
    with looking(_settings(place)) as service:
        result = service.snapshot(run)
    click.echo(result.model_dump_json(indent=2) if as_json else render.run_page(result))


@runs.command()
@_run_argument
@place_options(agents=False)
@timeout_option
@json_option
def watch(run: str, place: Place, *, timeout: float | None, as_json: bool) -> int:
    """Show what happens in a run until it is final, from its beginning; --json as one event a line."""
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    with looking(settings) as service:
        try:
            if as_json:
                for events in attend.follow(service, run, timeout=timeout):
                    for event in events:
                        click.echo(event.model_dump_json())
                return 0 if service.state(run) == "succeeded" else 1
            result = attend.attend(service, run, screen, timeout=timeout)
        except attend.TimeIsUp as error:
            click.echo(f"Error: {error}; it goes on, and can be watched again", err=True)
            return 1
    return attend.conclude(result, flags=place.flags, as_json=False)


@runs.command()
@_run_argument
@place_options(agents=False)
@json_option
def cancel(run: str, place: Place, *, as_json: bool) -> None:
    """Cancel a run, at once and for good; one that has ended stays as it is."""
    with looking(_settings(place)) as service:
        cancelled = service.cancel(run)
        state = service.state(run)
    if as_json:
        click.echo(json.dumps({"id": run, "cancelled": cancelled, "state": state}))
    else:
        click.echo(f"run {run} is {state}" if cancelled else f"run {run} had ended before: it is {state}")


@runs.command()
@_run_argument
@place_options()
@json_option
def retry(run: str, place: Place, *, as_json: bool) -> int:
    """Open a failed or cancelled run again; what succeeded in it is kept. Without a fleet, wait for the result."""
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    if not settings.embedded:
        with looking(settings) as service:
            service.retry(run)
        follow = f"it is open again; `nightfleet runs watch {run}{place.flags}` shows it"
        click.echo(json.dumps({"id": run}) if as_json else f"run {run}: {follow}")
        return 0
    return _work_on(place, screen, as_json=as_json, run=run)


@runs.command()
@place_options()
@json_option
def resume(place: Place, *, as_json: bool) -> int:
    """Take up what earlier processes without a fleet left unfinished, and wait for it; --json as one result a line."""
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    if not settings.embedded:
        raise UsageError("a fleet takes up its runs by itself: start a worker (`nightfleet worker`), or use --embedded")
    return _work_on(place, screen, as_json=as_json, run=None)


def _work_on(place: Place, screen: attend.Screen, *, as_json: bool, run: str | None) -> int:
    """Run one run again in this process, or all that are unfinished if none is named."""
    settings = place.settings()
    nf = producing(settings)
    try:
        service = nf.service
        if run is not None:
            service.retry(run)
        found = service.resume() if run is None else [run]
        results = [attend.attend(service, each, screen) for each in found]
    except KeyboardInterrupt:
        leave(nf, None, settings, place)
        raise
    except NightfleetError:
        nf.close()
        raise
    nf.close()
    if not found:
        click.echo("nothing is unfinished", err=True)
    if as_json and run is None:
        for result in results:
            click.echo(result.model_dump_json())
        return max((0 if result.state == "succeeded" else 1 for result in results), default=0)
    return max((attend.conclude(result, flags=place.flags, as_json=as_json) for result in results), default=0)


def _settings(place: Place) -> Settings:
    """Load the settings of a command that does not wait."""
    settings = place.settings()
    set_up_logging(settings)
    return settings
