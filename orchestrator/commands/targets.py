"""The runs that a command changes: named by their ids, or by filters, then counted, asked about and taken in pages."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.place import Command
from orchestrator.commands.selection import Selection, run_ids, selection_options
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.run import RunFilter
    from orchestrator.service import Service

#: So many ids are in memory at a time, however many runs are meant.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Change:
    """What can be done to runs: in which states, and to which of those when a filter names no state."""

    verb: str
    participle: str
    possible: tuple[str, ...]
    usual: tuple[str, ...]


CANCEL = Change("cancel", "cancelled", ("pending", "running"), ("pending", "running"))
PURGE = Change("delete", "deleted", ("succeeded", "failed", "cancelled"), ("succeeded", "failed", "cancelled"))
RETRY = Change("retry", "retried", ("failed", "cancelled"), ("failed",))


@dataclass(frozen=True, slots=True)
class Targets:
    """Ids or a selection, as they were written on the command line."""

    ids: tuple[str, ...]
    selection: Selection
    yes: bool

    def which(self, change: Change) -> RunFilter | None:
        """Give the filter, None for ids; raises `UsageError` for what cannot be meant."""
        if self.ids and self.selection:
            raise UsageError("ids and filters both say which runs are meant: leave one out")
        if self.ids:
            return None
        if not self.selection:
            raise UsageError(
                f"say which runs to {change.verb}: their ids, or filters such as --project press --since 1d"
            )
        wrong = [state for state in self.selection.states if state not in change.possible]
        if wrong:
            raise UsageError(
                f"only {' or '.join(change.possible)} runs can be {change.participle}: not {wrong[0]} ones"
            )
        if self.selection.error is not None and "failed" not in change.possible:
            raise UsageError(f"a run that an error has failed has ended: it cannot be {change.participle}")
        if self.selection.error is not None and self.selection.states and "failed" not in self.selection.states:
            raise UsageError(
                f"no run that an error has failed is {self.selection.states[0]}: leave out --state or --error"
            )
        return replace(self.selection, states=self.selection.states or change.usual).filter()

    def confirmed(self, service: Service, which: RunFilter, change: Change) -> int:
        """Give the number of runs that are meant and may be changed, 0 if there are none or somebody said no.

        Raises `UsageError` where nobody can be asked.
        """
        count = service.count(which)
        if not count:
            click.echo("no such runs", err=True)
            return 0
        runs = f"{count:,} run{'s' if count != 1 else ''}"
        if self.yes:
            return count
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{runs} would be {change.participle}, and nobody is there to be asked: add --yes")
        if click.confirm(f"{change.verb} {runs}?", err=True):
            return count
        click.echo("nothing is changed", err=True)
        return 0


def target_options(command: Command) -> Command:
    """Add ids, the options that filter runs, and `--yes`; the command gets them as `targets`."""

    @click.argument("ids", metavar="[ID]...", nargs=-1, callback=run_ids)
    @selection_options
    @click.option("--yes", is_flag=True, help="Do not ask before runs are changed that filters have selected.")
    @functools.wraps(command)
    def gathered(*args: Any, ids: tuple[str, ...], selection: Selection, yes: bool, **others: Any) -> Any:
        return command(*args, targets=Targets(ids, selection, yes), **others)

    return gathered


def pages(service: Service, which: RunFilter) -> Iterator[list[str]]:
    """Give the ids of all that are meant, newest first; what changes or is created meanwhile is neither missed nor met again."""
    after: str | None = None
    while rows := service.list(which, limit=_PAGE, after=after):
        yield [row.id for row in rows]
        after = rows[-1].id
