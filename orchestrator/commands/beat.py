"""`beat`: submits workflows at the times that the file of schedules names."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import render
from orchestrator.commands.place import NO_FLEET, Place, json_option, place_options, set_up_process_logging
from orchestrator.errors import SettingsInvalid, UsageError

if TYPE_CHECKING:
    from orchestrator.kernel import Kernel
    from orchestrator.observability.endpoint import Endpoint
    from orchestrator.planning.capabilities import Able
    from orchestrator.schedules.beat import Beat
    from orchestrator.schedules.file import Schedule
    from orchestrator.settings import Settings


@click.command()
@place_options(embedded=False)
@click.option("--schedules", type=click.Path(path_type=Path), metavar="FILE", help="The file of schedules.")
@click.option("--list", "listed", is_flag=True, help="Print the schedules with their next times, and stop.")
@json_option
def beat(place: Place, *, schedules: Path | None, listed: bool, as_json: bool) -> None:
    """Submit workflows at their times until told to stop; any number of these may run, each firing is one run."""
    settings = place.settings({"schedules": schedules})
    if as_json and not listed:
        raise UsageError("--json goes with --list")
    if listed:
        _print(_load(settings), as_json=as_json)
        return
    if settings.embedded:
        raise SettingsInvalid(f"beat submits to a fleet: {NO_FLEET}")
    found = _load(settings)
    set_up_process_logging(settings)
    _serve(settings, found)


def _load(settings: Settings) -> tuple[Schedule, ...]:
    """Give the schedules; none where nobody has named a file and the default one is not there."""
    from orchestrator.schedules.file import load_schedules

    if "schedules" not in settings.model_fields_set and not settings.schedules.exists():
        return ()
    return load_schedules(settings.schedules)


def _print(schedules: tuple[Schedule, ...], *, as_json: bool) -> None:
    from orchestrator.clock import system_clock

    now = system_clock.now()
    found = [(schedule, schedule.times.after(now)) for schedule in schedules]
    if as_json:
        click.echo(render.as_json([_summary(schedule, due) for schedule, due in found]))
        return
    if not found:
        click.echo("no schedules", err=True)
        return
    rows = [
        (each.name, each.when, "" if due is None else f"{due:%Y-%m-%d %H:%M:%SZ}", each.project, each.workflow.name)
        for each, due in found
    ]
    click.echo(render.table(("schedule", "when", "next", "project", "workflow"), rows))


def _summary(schedule: Schedule, due: datetime | None) -> dict[str, Any]:
    from orchestrator.contracts.answer import ScheduleSummary

    return ScheduleSummary(
        name=schedule.name,
        when=schedule.when,
        next=due,
        project=schedule.project,
        workflow=schedule.workflow.name,
        catch_up_seconds=None if schedule.catch_up is None else schedule.catch_up.total_seconds(),
        input=schedule.input,
    ).model_dump(mode="json")


def _serve(settings: Settings, schedules: tuple[Schedule, ...]) -> None:
    from orchestrator.failpoints import arm
    from orchestrator.kernel import Kernel
    from orchestrator.schedules.beat import Beat
    from orchestrator.service import Service
    from orchestrator.signals import told_to_stop
    from orchestrator.store import schema
    from orchestrator.store.firings import Firings

    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    with ExitStack() as stack:
        stopping = stack.enter_context(told_to_stop())
        kernel = Kernel.build(settings)
        stack.callback(kernel.close)
        schema.check(kernel.store.database)
        kernel.publisher.ensure()
        service = Service(kernel)
        made = Beat(schedules, service.submit, Firings(kernel.store.database))
        endpoint = _serve_metrics(kernel, made)
        if endpoint is not None:
            stack.callback(endpoint.close)
        _announce(settings, made, service.known_agents(), service.able())
        made.run(stopping)


def _announce(settings: Settings, made: Beat, known: frozenset[str], able: Able) -> None:
    from orchestrator.contracts.kinds import NODE_KINDS
    from orchestrator.observability.logging import get_logger
    from orchestrator.planning.steps import agents_named, capabilities_named

    log = get_logger("nightfleet.beat")
    log.info("beat starts", pid=os.getpid(), file=str(settings.schedules), schedules=len(made.schedules))
    if not made.schedules:
        log.warning("nothing to submit: write schedules and start it again", file=str(settings.schedules))
    for schedule in made.schedules:
        due = made.next_of(schedule)
        log.info("schedule", schedule=schedule.name, when=schedule.when, next=None if due is None else due.isoformat())
        tasks = schedule.workflow.tasks
        if missing := sorted(agents_named(tasks) - known - {*NODE_KINDS}):
            log.warning("no worker has announced its agents yet", schedule=schedule.name, agents=json.dumps(missing))
        if lacking := sorted(capabilities_named(tasks) - able.keys()):
            log.warning(
                "no worker has announced an agent that can", schedule=schedule.name, capabilities=json.dumps(lacking)
            )


def _serve_metrics(kernel: Kernel, made: Beat) -> Endpoint | None:
    if kernel.settings.metrics_port is None:
        return None
    from orchestrator.observability.endpoint import require_client

    require_client()
    from orchestrator.schedules.metrics import serve_beat_metrics

    return serve_beat_metrics(kernel, made)
