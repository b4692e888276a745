"""`runs purge`: runs that have ended, deleted before retention does it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from orchestrator.commands import attend
from orchestrator.commands.place import Place, json_option, looking, place_options, set_up_logging
from orchestrator.commands.selection import moment_option
from orchestrator.commands.targets import PURGE, Targets, target_options
from orchestrator.errors import RunStateConflict, UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.answer import Purge
    from orchestrator.contracts.run import RunFilter
    from orchestrator.service import Service


@click.command()
@target_options
@click.option(
    "--older-than", metavar="AGE", callback=moment_option, help="Only runs that ended so long ago: 12h, 30d, a time."
)
@click.option("--dry-run", is_flag=True, help="Count them, and delete nothing.")
@place_options(agents=False)
@json_option
def purge(targets: Targets, place: Place, *, older_than: datetime | None, dry_run: bool, as_json: bool) -> None:
    """Delete runs that have ended, with all that is theirs, for good; open ones are left alone."""
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    which = _which(targets, older_than)
    with looking(settings) as service:
        if which is None:
            answer = _purge_named(service, targets.ids, dry_run=dry_run)
        elif dry_run:
            answer = _answer(service.count(which))
        else:
            count = targets.confirmed(service, which, PURGE)
            answer = _answer(count, _purge_selected(service, which, count, screen) if count else 0)
    if as_json:
        click.echo(answer.model_dump_json())
    elif dry_run:
        click.echo(f"{answer.runs:,} {_runs(answer.runs)} would be deleted")
    elif answer.runs:
        left = f" of {answer.runs:,}" if answer.deleted != answer.runs else ""
        click.echo(f"deleted {answer.deleted:,}{left} {_runs(answer.runs)}")


def _which(targets: Targets, older_than: datetime | None) -> RunFilter | None:
    """Give the filter, None for ids; an age alone says which runs are meant, too."""
    from orchestrator.contracts.run import RunFilter

    if older_than is None:
        return targets.which(PURGE)
    if targets.ids:
        raise UsageError("ids and --older-than both say which runs are meant: leave one out")
    which = targets.which(PURGE) if targets.selection else RunFilter.model_validate({"states": PURGE.usual})
    return None if which is None else which.model_copy(update={"ended_before": older_than})


def _purge_named(service: Service, run_ids: tuple[str, ...], *, dry_run: bool) -> Purge:
    """Delete runs by their ids; raises before anything is deleted if one of them is not there, or is open."""
    for run_id in run_ids:
        if not (state := service.state(run_id)).final:
            raise RunStateConflict(f"run {run_id} is {state}: it can be deleted when it has ended; cancel it, or wait")
    deleted = 0 if dry_run else service.kernel.store.deletions.delete_ended(run_ids)
    return _answer(len(run_ids), deleted)


def _purge_selected(service: Service, which: RunFilter, total: int, screen: attend.Screen) -> int:
    from orchestrator.purging import purge

    deleted = 0
    try:
        for count in purge(service, which):
            deleted += count
            if screen.isatty():
                screen.draw([f"deleted {deleted:,} of {total:,}"])
    finally:
        screen.draw([])
    return deleted


def _answer(runs: int, deleted: int = 0) -> Purge:
    from orchestrator.contracts.answer import Purge

    return Purge(runs=runs, deleted=deleted)


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"
