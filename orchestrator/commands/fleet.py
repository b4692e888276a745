"""`agents`, `worker`, `db` and `emulator`: what an installation consists of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import render
from orchestrator.commands.place import NO_FLEET, Listing, Place, json_option, looking, place_options, set_up_logging
from orchestrator.errors import SettingsInvalid, UnknownAgent

if TYPE_CHECKING:
    from orchestrator.contracts.agent import AgentCard
    from orchestrator.settings import Settings


@click.group(cls=Listing)
def agents() -> None:
    """List and show agents; alone it lists them."""


@agents.command("list")
@place_options()
@json_option
def list_agents(place: Place, *, as_json: bool) -> None:
    """List the agents that a fleet has announced and those of this machine."""
    settings = place.settings()
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


@agents.command()
@click.argument("name")
@place_options()
@json_option
def show(name: str, place: Place, *, as_json: bool) -> None:
    """Show an agent: what it does, takes and gives."""
    from orchestrator.planning.hints import did_you_mean

    found = _found(place.settings())
    if name not in found:
        raise UnknownAgent(
            f"there is no agent {name!r}{did_you_mean(name, found) or ':'} `nightfleet agents list` shows what there is"
        )
    card, workers = found[name]
    click.echo(render.as_json(_data(card, workers)) if as_json else render.agent_page(card, workers))


def _found(settings: Settings) -> dict[str, tuple[AgentCard, int]]:
    """Give every agent with the number of live workers that serve it; what the fleet has announced comes first."""
    from orchestrator.imports import require_ours

    set_up_logging(settings)
    loaded = require_ours("worker.loader").AgentLoader(settings.agents_path, base=Path.cwd()).load()
    for problem in loaded.problems:
        click.echo(render.problem_line(problem.origin, problem.message), err=True)
    here: dict[str, tuple[AgentCard, int]] = {card.name: (card, 0) for card in loaded.cards}
    if settings.embedded:
        return dict(sorted(here.items()))
    with looking(settings) as service:
        ttl = settings.lease_ttl.total_seconds()
        announced = service.kernel.store.fleet.agents(lease_ttl_seconds=ttl)
    return dict(sorted((here | {card.name: (card, workers) for card, workers in announced}).items()))


def _data(card: AgentCard, workers: int) -> dict[str, Any]:
    return {**card.model_dump(mode="json"), "workers": workers}


@click.command()
@place_options(embedded=False)
@click.option("--concurrency", type=click.IntRange(1, 5000), metavar="N", help="Agents at a time in one process.")
@click.option("--processes", type=click.IntRange(1, 256), metavar="N", help="So many processes, kept alive.")
@click.option("--name", metavar="NAME", help="What the worker is called in listings.")
@click.option("--supervised", is_flag=True, hidden=True)
def worker(place: Place, *, concurrency: int | None, processes: int | None, name: str | None, supervised: bool) -> int:
    """Run agents for the fleet until told to stop (SIGTERM and Ctrl-C let running agents end)."""
    from orchestrator.imports import require_ours
    from orchestrator.observability.logging import setup_logging

    settings = place.settings({"concurrency": concurrency})
    setup_logging(settings.log_level, settings.log_format)
    if settings.embedded:
        raise SettingsInvalid(f"a worker serves a fleet: {NO_FLEET}; without a fleet `nightfleet run` needs no worker")
    if supervised:
        require_ours("worker.supervisor").drain_when_orphaned()
    if processes is not None:
        commands = [
            _worker_command(place, concurrency, None if name is None else f"{name}-{number}")
            for number in range(1, processes + 1)
        ]
        return require_ours("worker.supervisor").supervise(commands)
    return require_ours("worker.command").run_worker(settings, name=name)


def _worker_command(place: Place, concurrency: int | None, name: str | None) -> list[str]:
    """Give the command of one supervised worker; `-P` keeps the working folder from shadowing what it imports."""
    given = (
        ("--config", place.config),
        ("--agents-path", place.agents_path),
        ("--concurrency", concurrency),
        ("--name", name),
    )
    options = [part for option, value in given if value is not None for part in (option, str(value))]
    return [sys.executable, "-P", "-m", "orchestrator.cli", "worker", "--supervised", *options]


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
