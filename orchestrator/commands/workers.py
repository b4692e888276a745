"""`workers`: the processes of a fleet, where they are, and what they do."""

from __future__ import annotations

import click

from orchestrator.commands import fleet_page, render
from orchestrator.commands.place import Place, json_option, looking, place_options, set_up_logging


@click.command()
@place_options(agents=False)
@json_option
def workers(place: Place, *, as_json: bool) -> None:
    """List the workers of a fleet: whether they live, how busy they are, and what they serve."""
    from orchestrator.agents import AgentRegistry

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        found = AgentRegistry(lambda: service).workers()
        now = service.kernel.store.census.now()
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(fleet_page.workers(found, now))
    else:
        click.echo("no workers; `nightfleet worker` starts one", err=True)
