"""`runs fork`: a new run that shares the past of another one."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.commands import attend
from orchestrator.commands.place import Place, deadline_option, json_option, place_options, run_id, set_up_logging
from orchestrator.commands.session import working
from orchestrator.commands.work import parse_json, read_text


@click.command()
@click.argument("run", metavar="ID", callback=run_id)
@click.option("--from", "from_task", metavar="TASK", required=True, help="This task and all after it run anew.")
@click.option("--input", "given", metavar="JSON|@FILE|-", help="What that task gets, written as in a workflow.")
@deadline_option
@place_options()
@json_option
def fork(run: str, place: Place, *, from_task: str, given: str | None, deadline: float | None, as_json: bool) -> int:
    """Make a new run that keeps what a run has done before TASK, and runs anew from there.

    Prints the id of the new run. Without a fleet, wait for the result.

    \b
      nightfleet runs fork ID --from editor
      nightfleet runs fork ID --from critic --input '{"text": "${reader.text}", "tone": "harsh"}'
    """
    from orchestrator.contracts.answer import RunReference

    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    limit = settings.max_value_bytes
    value: Any = None if given is None else parse_json("--input", read_text("--input", given, limit))
    with working(place, settings) as session:
        handle = session.nf.fork(run, from_task=from_task, input=value, deadline=deadline)
        if not settings.embedded:
            click.echo(RunReference(id=handle.id).model_dump_json(exclude_none=True) if as_json else handle.id)
            return 0
        session.run_id = handle.id
        click.echo(f"run {handle.id}: a fork of {run} from {from_task}", err=True)
        result = attend.attend(session.nf.service, handle.id, screen)
    return attend.conclude(result, flags=place.flags, as_json=as_json)
