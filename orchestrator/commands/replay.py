"""`runs replay`: an agent run executed again on this machine, on what it has recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.commands import render
from orchestrator.commands.place import Place, json_option, looking, place_options, run_id, set_up_logging

if TYPE_CHECKING:
    from orchestrator.contracts.replay import Replay


@click.command()
@click.argument("run", metavar="ID", callback=run_id)
@click.option("--task", metavar="TASK", help="Which task of the run; by default the one that failed it.")
@place_options()
@json_option
def replay(run: str, place: Place, *, task: str | None, as_json: bool) -> int:
    """Execute a task again with the agent that is here, on what it has recorded, and show the first difference.

    No effect happens: no model is asked, no step is called. Exit code 0 if nothing differs, as far as it is recorded.
    """
    from orchestrator.contracts.replay import Verdict
    from orchestrator.imports import require_ours

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        made: Replay = require_ours("worker.replay").replay_run(service.kernel, run, task)
    click.echo(made.model_dump_json(indent=2) if as_json else page(made))
    return 1 if made.verdict is Verdict.DIFFERENT else 0


def page(made: Replay) -> str:
    """Give a replay for people: the effects in their order, and how it ended."""
    parts = [f"{made.task} (agent {made.agent}) of run {made.run_id}: recorded as {made.recorded_state}"]
    if made.effects:
        rows = ((each.slot, each.kind, each.request or "", each.state, each.outcome) for each in made.effects)
        cut = ([render.one_line(cell, 60) for cell in row] for row in rows)
        parts.append(render.table(("effect", "kind", "asked", "state", "given"), cut))
    if made.recorded_versions and made.version not in made.recorded_versions:
        recorded = ", ".join(version[:12] for version in made.recorded_versions)
        parts.append(f"the agent was changed: version {recorded} has recorded, {made.version[:12]} is here")
    if made.error is not None and made.error.message not in made.reason:
        parts.append(render.printable(f"error here: {made.error.code}: {made.error.message}"))
    parts.append(render.printable(f"{made.verdict}: {made.reason}"))
    return "\n\n".join(parts)
