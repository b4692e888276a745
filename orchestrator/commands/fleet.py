"""`agents`, `db` and `emulator`: what an installation consists of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import completion, fleet_page, render
from orchestrator.commands.init import new
from orchestrator.commands.place import Listing, Place, json_option, looking, place_options, set_up_logging
from orchestrator.commands.pools import pause, resume, scale
from orchestrator.errors import PluginInvalid, UnknownAgent

if TYPE_CHECKING:
    from orchestrator.contracts.agent import AgentCard
    from orchestrator.contracts.fleet import LiveAgent
    from orchestrator.settings import Settings


@click.group(cls=Listing)
def agents() -> None:
    """List, show, check and make agents, and say how many may run; alone it lists them."""


for command in (new, pause, resume, scale):
    agents.add_command(command)

_live_option = click.option(
    "--live", is_flag=True, help="As the fleet has them now: who serves them, in which version, and how busy they are."
)


@agents.command("list")
@_live_option
@place_options()
@json_option
def list_agents(place: Place, *, live: bool, as_json: bool) -> None:
    """List the agents that a fleet has announced and those of this machine."""
    settings = place.settings()
    if live:
        _list_live(settings, as_json=as_json)
        return
    found = _found(settings)
    if as_json:
        click.echo(render.as_json([_data(card, workers) for card, workers in found.values()]))
        return
    headers = ("agent", "can", *(() if settings.embedded else (">workers",)), "does")
    rows = [
        (card.name, ", ".join(card.capabilities), *(() if settings.embedded else (str(workers),)), card.description)
        for card, workers in found.values()
    ]
    click.echo(render.table(headers, rows))


def _list_live(settings: Settings, *, as_json: bool) -> None:
    set_up_logging(settings)
    found = _live(settings)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(fleet_page.agents(found))
    else:
        click.echo("no worker has announced an agent; `nightfleet worker` starts one", err=True)


def _live(settings: Settings) -> list[LiveAgent]:
    """Give the agents that some worker has announced, as they are now."""
    from orchestrator.agents import AgentRegistry

    with looking(settings) as service:
        return AgentRegistry(lambda: service).list()


@agents.command()
@click.argument("name", shell_complete=completion.agents)
@_live_option
@place_options()
@json_option
def show(name: str, place: Place, *, live: bool, as_json: bool) -> None:
    """Show an agent: what it does, may touch, takes and gives."""
    from orchestrator.planning.hints import did_you_mean

    settings = place.settings()
    there = {each.name: each for each in _live(settings)} if live else {}
    if name in there:
        shown = there[name]
        page = render.agent_page(shown, shown.workers, fleet_page.live_facts(shown))
        click.echo(shown.model_dump_json(indent=2) if as_json else page)
        return
    if live:
        raise UnknownAgent(
            f"no worker has announced an agent {name!r}{did_you_mean(name, there) or ':'} `nightfleet agents list` shows "
            "those of this machine too"
        )
    found = _found(settings)
    if name not in found:
        raise UnknownAgent(
            f"there is no agent {name!r}{did_you_mean(name, found) or ':'} `nightfleet agents list` shows what there is"
        )
    card, workers = found[name]
    click.echo(render.as_json(_data(card, workers)) if as_json else render.agent_page(card, workers))


@agents.command()
@place_options(embedded=False)
def validate(place: Place) -> None:
    """Check all agents of this machine; exit code 2 says that some cannot be used, and why."""
    from orchestrator.contracts.workflow import NODE_KINDS

    loaded = _loaded(place.settings())
    names = sorted(loaded.agents.keys() - set(NODE_KINDS))
    click.echo(f"{len(names)} agents can be used: {', '.join(names)}")
    if loaded.problems:
        count = len(loaded.problems)
        raise PluginInvalid(f"{count} plugin{'s' if count > 1 else ''} cannot be used: correct what is said above")


def _loaded(settings: Settings) -> Any:
    """Give the agents of this machine, with a line for each that cannot be used."""
    from orchestrator.imports import require_ours

    set_up_logging(settings)
    loaded = require_ours("worker.loader").AgentLoader(settings.agents_path, base=Path.cwd()).load()
    for problem in loaded.problems:
        click.echo(render.problem_line(problem.origin, problem.message), err=True)
    return loaded


def _found(settings: Settings) -> dict[str, tuple[AgentCard, int]]:
    """Give every agent with the number of live workers that serve it; what the fleet has announced comes first.

    Without `function` and `celery`, which every worker has and no workflow names as agents.
    """
    from orchestrator.contracts.workflow import NODE_KINDS

    loaded = _loaded(settings)
    found: dict[str, tuple[AgentCard, int]] = {card.name: (card, 0) for card in loaded.cards}
    if not settings.embedded:
        with looking(settings) as service:
            ttl = settings.lease_ttl.total_seconds()
            announced = service.kernel.store.fleet.agents(lease_ttl_seconds=ttl)
        found |= {card.name: (card, workers) for card, workers in announced}
    return {name: found[name] for name in sorted(found.keys() - set(NODE_KINDS))}


def _data(card: AgentCard, workers: int) -> dict[str, Any]:
    return {**card.model_dump(mode="json"), "workers": workers}


@click.group()
def db() -> None:
    """Look after the database schema."""


@db.command()
@place_options(agents=False)
def upgrade(place: Place) -> None:
    """Bring the schema to the version that this code needs; does nothing when it is there."""
    from orchestrator.store import schema
    from orchestrator.store.store import Store

    settings = place.settings()
    set_up_logging(settings)
    database = Store.from_settings(settings).database
    schema.upgrade(database)
    click.echo(f"database {database.masked_url} is at revision {schema.current(database)}")
    database.close()


@db.command()
@place_options(agents=False)
def check(place: Place) -> None:
    """Tell whether the database can be reached and has the schema that this code needs."""
    from orchestrator.store import schema

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        database = service.kernel.store.database
        click.echo(f"database {database.masked_url} is at revision {schema.current(database)}, as this code needs it")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulator(arguments: tuple[str, ...]) -> int:
    """Serve a local stand-in for the APIs of OpenAI and Anthropic."""
    from orchestrator.imports import require_ours

    return require_ours("worker.emulator").main(arguments)
