"""`runs`: every run, to look at; what changes runs is in `changes.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.commands import attend, journal, mail, render, shared
from orchestrator.commands.answer import answer, questions
from orchestrator.commands.asking import Asker
from orchestrator.commands.changes import cancel, resume, retry
from orchestrator.commands.dead import dead
from orchestrator.commands.fork import fork
from orchestrator.commands.place import (
    Listing,
    Place,
    json_option,
    looking,
    place_options,
    run_id,
    set_up_logging,
    timeout_option,
)
from orchestrator.commands.purge import purge
from orchestrator.commands.replay import replay
from orchestrator.commands.selection import Page, Selection, page_options, selection_options
from orchestrator.commands.session import watching

if TYPE_CHECKING:
    from orchestrator.settings import Settings

_run_argument = click.argument("run", metavar="ID", callback=run_id)


@click.group(cls=Listing)
def runs() -> None:
    """List, show and change runs; alone it lists them."""


@runs.command("list")
@selection_options
@page_options
@place_options(agents=False)
@json_option
def list_runs(selection: Selection, page: Page, place: Place, *, as_json: bool) -> None:
    """List the newest runs first."""
    with looking(_settings(place)) as service:
        rows = service.list(selection.filter(), limit=page.limit, after=page.after)
    if as_json:
        click.echo(render.as_json([row.model_dump(mode="json") for row in rows]))
    elif rows:
        click.echo(render.runs_table(rows))
        page.hint([row.id for row in rows])
    elif selection or page:
        click.echo("no such runs", err=True)
    else:
        click.echo("no runs; `nightfleet run` makes one", err=True)


@runs.command()
@_run_argument
@click.option("--journal", "with_journal", is_flag=True, help="What its agents have done: every recorded effect.")
@click.option("--messages", "with_messages", is_flag=True, help="What its agents have told each other, as a diagram.")
@click.option("--mermaid", is_flag=True, help="With --messages: as a diagram of Mermaid's.")
@click.option("--shared", "with_shared", is_flag=True, help="What its agents share: every value that there is now.")
@place_options(agents=False)
@json_option
def show(  # noqa: PLR0913 - a page each, by its name
    run: str,
    place: Place,
    *,
    with_journal: bool,
    with_messages: bool,
    mermaid: bool,
    with_shared: bool,
    as_json: bool,
) -> None:
    """Show a run as it is now; --json with its input and every output."""
    if with_journal + (with_messages or mermaid) + with_shared > 1:
        raise click.UsageError("--journal, --messages and --shared are pages of their own: leave all but one out")
    settings = _settings(place)
    with looking(settings) as service:
        if with_shared:
            values = service.shared(run)
            click.echo(values.model_dump_json(indent=2) if as_json else shared.page(values))
            return
        result = service.snapshot(run)
        made = journal.recorded(service.kernel, result) if with_journal else None
        told = list(service.messages.history(run)) if with_messages or mermaid else None
    if told is not None:
        listed = [record.model_dump(mode="json") for record in told]
        click.echo(render.as_json(listed) if as_json else mail.page(told, mermaid=mermaid))
        return
    if made is not None:
        click.echo(made.model_dump_json(indent=2) if as_json else journal.page(made))
        return
    page = render.run_page(result, workers=not settings.embedded)
    click.echo(result.model_dump_json(indent=2) if as_json else page)


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
    with looking(settings) as service, watching(place, run):
        try:
            if as_json:
                for events in attend.follow(service, run, timeout=timeout):
                    for event in events:
                        click.echo(event.model_dump_json())
                return attend.exit_code(service.snapshot(run))
            asker = Asker(service, screen, flags=place.flags, prompts=False)
            result = attend.attend(service, run, screen, timeout=timeout, asker=asker)
        except attend.TimeIsUp as error:
            click.echo(f"Error: {error}; it goes on, and can be watched again", err=True)
            return 1
    return attend.conclude(result, flags=place.flags, as_json=False)


def _settings(place: Place) -> Settings:
    """Load the settings of a command that does not wait."""
    settings = place.settings()
    set_up_logging(settings)
    return settings


for command in (cancel, retry, resume, fork, purge, questions, answer, mail.send, dead, replay):
    runs.add_command(command)
