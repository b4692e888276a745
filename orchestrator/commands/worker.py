"""`worker`: runs agents for a fleet. The options have the names and letters of Celery's own worker."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import click

from orchestrator.commands.place import NO_FLEET, Place, place_options, set_up_process_logging
from orchestrator.errors import SettingsInvalid, UsageError

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

#: Pools of Celery's that cannot work here, and why.
_REFUSED = dict.fromkeys(
    ("gevent", "eventlet"),
    "greenlets take over the standard library of the whole process, and the database, limits and heartbeats here rely on "
    "real threads; async agents get thousands of slots in one process of the default pool: --pool threads --concurrency 1000",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many processes with how many slots each; None is what the settings say, and one process unsupervised."""

    processes: int | None
    concurrency: int | None


def shape_of(pool: str, *, processes: int | None, concurrency: int | None) -> Shape:
    """Give what a pool of Celery's means here; raises `UsageError` for what cannot be, with the reason."""
    if pool in _REFUSED:
        raise UsageError(f"--pool {pool} is not possible: {_REFUSED[pool]}")
    if pool == "solo":
        if concurrency not in {None, 1}:
            raise UsageError(
                f"--pool solo has one slot, so --concurrency {concurrency} contradicts it: leave one of them out"
            )
        return Shape(processes, 1)
    if pool == "prefork":
        if processes is not None:
            raise UsageError("with --pool prefork, --concurrency is the number of processes: leave --processes out")
        return Shape(concurrency or os.cpu_count() or 1, 1)
    return Shape(processes, concurrency)


@click.command()
@place_options(embedded=False)
@click.option("-c", "--concurrency", type=click.IntRange(1, 5000), metavar="N", help="Agents at a time in one process.")
@click.option("--processes", type=click.IntRange(1, 256), metavar="N", help="So many processes, kept alive.")
@click.option("-Q", "--queues", metavar="AGENT,...", help="Serve these agents only.")
@click.option("-n", "--hostname", "--name", "name", metavar="NAME", help="What it is called; %h %n %d %i as in Celery.")
@click.option("-l", "--loglevel", type=click.Choice(_LEVELS, case_sensitive=False), help="What to log.")
@click.option(
    "-P",
    "--pool",
    type=click.Choice(("threads", "solo", "prefork", *_REFUSED)),
    default="threads",
    help="prefork: processes of one slot each, as many as --concurrency says.",
)
@click.option("--reload", is_flag=True, help="Use plugins that change, come or go, without a restart.")
@click.option("--supervised", type=int, metavar="NUMBER", hidden=True)
def worker(place: Place, **given: Any) -> int:
    """Run agents for the fleet until told to stop (SIGTERM and Ctrl-C let running agents end)."""
    from importlib.util import find_spec

    from orchestrator.imports import require_ours

    shape = shape_of(given["pool"], processes=given["processes"], concurrency=given["concurrency"])
    level: str | None = given["loglevel"]
    settings = place.settings(
        {
            "concurrency": shape.concurrency,
            "queues": given["queues"],
            "log_level": None if level is None else level.upper(),
        }
    )
    set_up_process_logging(settings)
    if settings.embedded:
        raise SettingsInvalid(f"a worker serves a fleet: {NO_FLEET}; without a fleet `nightfleet run` needs no worker")
    if given["reload"] and find_spec("watchfiles") is None:
        raise UsageError("--reload needs watchfiles, which tells of changed files: pip install watchfiles")
    number: int | None = given["supervised"]
    if number is not None:
        require_ours("worker.supervisor").drain_when_orphaned()
    elif shape.processes is not None:
        options = _options(place, given, shape)
        commands = [_command(options, number) for number in range(1, shape.processes + 1)]
        return require_ours("worker.supervisor").supervise(commands)
    return require_ours("worker.command").run_worker(
        settings, name=given["name"], number=number or 0, reload=given["reload"]
    )


def _options(place: Place, given: dict[str, Any], shape: Shape) -> list[str]:
    """Give the options of one supervised worker."""
    said = (
        ("--config", place.config),
        ("--agents-path", place.agents_path),
        ("--concurrency", shape.concurrency),
        ("--queues", given["queues"]),
        ("--hostname", given["name"]),
        ("--loglevel", given["loglevel"]),
    )
    options = [part for option, value in said if value is not None for part in (option, str(value))]
    return [*options, "--reload"] if given["reload"] else options


def _command(options: list[str], number: int) -> list[str]:
    """Give the command of a supervised worker; `-P` keeps the working folder from shadowing what it imports."""
    return [sys.executable, "-P", "-m", "orchestrator.cli", "worker", "--supervised", str(number), *options]
