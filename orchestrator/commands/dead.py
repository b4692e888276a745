"""`runs dead`: agent runs that failed for good, to look at and to put on their way again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import attend, render
from orchestrator.commands.place import (
    Listing,
    Place,
    json_option,
    looking,
    place_options,
    run_id,
    set_up_logging,
)
from orchestrator.commands.selection import Page, Selection, page_options, selection_options
from orchestrator.commands.session import working
from orchestrator.commands.work import parse_json, read_text
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.dead import DeadAgentRun, DeadAgentRunDetails

_argument = click.argument("identity", metavar="ID", callback=run_id)


@click.group(cls=Listing)
def dead() -> None:
    """List, show and redrive agent runs that failed for good; alone it lists them."""


@dead.command("list")
@selection_options
@click.option("--quarantined", is_flag=True, help="Only those that ended their process each time they ran alone.")
@page_options
@place_options(agents=False)
@json_option
def list_dead(selection: Selection, page: Page, place: Place, *, quarantined: bool, as_json: bool) -> None:
    """List those of the newest failed runs, and why they failed."""
    from orchestrator.dead import DeadLetters

    if set(selection.states) - {"failed"}:
        raise UsageError("an agent run fails for good only in a run that failed: leave out --state")
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        letters = DeadLetters(service.kernel)
        found = letters.list(selection.filter(), quarantined=quarantined, limit=page.limit, after=page.after)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(_table(found))
        page.hint(list(dict.fromkeys(each.run_id for each in found)))
    else:
        click.echo("no agent run has failed for good", err=True)


@dead.command()
@_argument
@place_options(agents=False)
@json_option
def show(identity: str, place: Place, *, as_json: bool) -> None:
    """Show why one failed and what it was given, by its ID or its run's."""
    from orchestrator.dead import DeadLetters

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        found = DeadLetters(service.kernel).show(identity)
    click.echo(found.model_dump_json(indent=2) if as_json else _page(found, place.flags))


@dead.command()
@_argument
@click.option("--input", "given", metavar="JSON|@FILE|-", help="What its agent gets from now on; it begins anew.")
@place_options()
@json_option
def redrive(identity: str, place: Place, *, given: str | None, as_json: bool) -> int:
    """Put one on its way again, by its ID or its run's, with all that failed in its run.

    What is recorded of it is not repeated. Without a fleet, wait for the result.

    \b
      nightfleet runs dead redrive ID
      nightfleet runs dead redrive ID --input '{"text": "shorter"}'
    """
    from orchestrator.contracts.answer import RunReference

    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    limit = settings.max_value_bytes
    value: Any = ... if given is None else parse_json("--input", read_text("--input", given, limit))
    with working(place, settings) as session:
        handle = session.nf.redrive(identity, input=value)
        if not settings.embedded:
            line = f"run {handle.id}: it is open again; `nightfleet runs watch {handle.id}{place.flags}` shows it"
            click.echo(RunReference(id=handle.id).model_dump_json(exclude_none=True) if as_json else line)
            return 0
        session.run_id = handle.id
        result = attend.attend(session.nf.service, handle.id, screen)
    return attend.conclude(result, flags=place.flags, as_json=as_json)


def _table(found: list[DeadAgentRun]) -> str:
    headers = ("agent run", "failed", "project", "workflow", "task", "agent", ">crashes", "reason")
    return render.table(
        headers,
        [
            (
                each.id,
                "-" if each.finished_at is None else render.moment(each.finished_at),
                each.project,
                render.one_line(each.workflow, 40),
                each.task,
                each.agent,
                str(each.crashes),
                "" if each.error is None else render.one_line(f"{each.error.code}: {each.error.message}", 70),
            )
            for each in found
        ],
    )


def _page(found: DeadAgentRunDetails, flags: str) -> str:
    facts = [
        ("agent run", found.id),
        ("run", found.run_id),
        ("workflow", found.workflow),
        ("project", found.project),
        ("task", found.task),
        ("agent", found.agent),
        ("worker", found.worker or "-"),
        ("tried", f"{found.failures + found.crashes} times, {found.crashes} of them ended its process"),
        ("recorded", f"{found.recorded:,} effect{'s' if found.recorded != 1 else ''}"),
    ]
    lines = [f"{name:<11}{render.one_line(value)}" for name, value in facts]
    if found.error is not None:
        lines += ["", render.printable(f"{found.error.code}: {found.error.message}")]
    lines += ["", "input", render.printable(render.as_json(found.input))]
    lines += ["", f"nightfleet runs dead redrive {found.id}{flags} tries it again"]
    return "\n".join(lines)
