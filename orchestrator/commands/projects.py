"""`projects`: every project, and how long it keeps its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.commands import render
from orchestrator.commands.place import Listing, Place, changing, json_option, looking, place_options, set_up_logging
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.policy import Retention
    from orchestrator.contracts.project import ProjectSummary

_DAYS = click.IntRange(0, 36_500)


@click.group(cls=Listing)
def projects() -> None:
    """List projects, and say how long they keep their runs; alone it lists them."""


@projects.command("list")
@place_options(agents=False)
@json_option
def list_projects(place: Place, *, as_json: bool) -> None:
    """List every project with how long it keeps its runs."""
    from orchestrator.purging import projects as all_projects

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        found = all_projects(service)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(render.table(("project", "created", "keeps runs", "effects", "at most"), map(_row, found)))
    else:
        click.echo("no projects; the first run of one makes it", err=True)


@projects.command("set")
@click.argument("name")
@click.option("--keep-days", "days", type=_DAYS, metavar="DAYS", help="So long after their end runs are kept.")
@click.option("--keep-journal-days", "journal_days", type=_DAYS, metavar="DAYS", help="... and their recorded effects.")
@click.option("--keep-runs", "runs", type=click.IntRange(0, 10_000_000), metavar="N", help="So many ended runs.")
@click.option("--usual", is_flag=True, help="As the settings say, but for what is given here.")
@place_options(agents=False)
@json_option
def set_project(name: str, place: Place, *, usual: bool, as_json: bool, **kept: int | None) -> None:
    """Say how long the project NAME keeps runs that have ended; 0 is no limit. What is not given stays as it is."""
    from orchestrator.contracts.policy import Retention
    from orchestrator.purging import projects as all_projects
    from orchestrator.purging import set_retention

    given = {key: value for key, value in kept.items() if value is not None}
    if not given and not usual:
        raise UsageError("say what is to be kept: --keep-days, --keep-journal-days, --keep-runs, or --usual")
    settings = place.settings()
    set_up_logging(settings)
    with changing(settings) as service:
        known = {each.name: each.retention for each in all_projects(service)}
        before = Retention() if usual else known.get(name, Retention())
        set_retention(service, name, before.model_copy(update=given))
        [changed] = [each for each in all_projects(service) if each.name == name]
    if as_json:
        click.echo(render.as_json(changed.model_dump(mode="json")))
    else:
        click.echo(f"project {name}: {_told(changed.in_force)}")


def _row(project: ProjectSummary) -> tuple[str, ...]:
    kept = project.in_force
    journal = _days(kept.journal_days) if _effects_go_first(kept) else "as the run"
    return (
        project.name,
        render.moment(project.created_at),
        _days(kept.days),
        journal,
        f"{kept.runs:,} runs" if kept.runs else "any number",
    )


def _told(kept: Retention) -> str:
    runs = f"at most {kept.runs:,} ended runs" if kept.runs else "ended runs"
    journal = f", their effects {_days(kept.journal_days)}" if _effects_go_first(kept) else ""
    return f"keeps {runs} {_days(kept.days)}{journal}"


def _effects_go_first(kept: Retention) -> bool:
    """Tell whether recorded effects are deleted before their run is: with it they go in any case."""
    return bool(kept.journal_days) and not (kept.days and kept.days <= kept.journal_days)


def _days(days: int | None) -> str:
    return "for ever" if not days else f"{days} {'day' if days == 1 else 'days'}"
