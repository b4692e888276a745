"""Which runs a command is about: the options that filter, and the ages that people write."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from orchestrator.clock import system_clock
from orchestrator.commands.place import Command, run_id
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.run import RunFilter

#: Written out, so that `--help` needs no model; a test compares them.
STATES = ("pending", "running", "succeeded", "failed", "cancelled")

_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Selection:
    """Runs as they were selected on the command line; false without any filter."""

    project: str | None = None
    states: tuple[str, ...] = ()
    workflow: str | None = None
    error: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    variant: str | None = None

    def __bool__(self) -> bool:
        return self != Selection()

    def filter(self) -> RunFilter:
        """Give the filter."""
        from orchestrator.contracts.run import RunFilter

        return RunFilter.model_validate({field.name: getattr(self, field.name) for field in fields(self)})


def selection_options(command: Command) -> Command:
    """Add the options that filter runs; the command gets them as `selection`."""

    @click.option("--project", metavar="NAME", help="Only runs of this project.")
    @click.option(
        "--state", "states", type=click.Choice(STATES), multiple=True, help="Only runs in this state; may be repeated."
    )
    @click.option("--workflow", metavar="NAME", help="Only runs of workflows of this name.")
    @click.option("--variant", metavar="NAME", help="Only runs of this variant, such as titles/terse.")
    @click.option("--error", metavar="CODE", help="Only runs that this error has failed, such as agent_timeout.")
    @click.option(
        "--since", metavar="AGE", callback=moment_option, help="Only runs created since: 90s, 15m, 2h, 3d, a time."
    )
    @click.option(
        "--before", metavar="AGE", callback=moment_option, help="Only runs created before: 90s, 15m, 2h, 3d, a time."
    )
    @functools.wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        values = {field.name: given.pop(field.name) for field in fields(Selection)}
        return command(*args, selection=Selection(**values), **given)

    return gathered


@dataclass(frozen=True, slots=True)
class Page:
    """How much of a listing, and from where on; false without a beginning of its own."""

    limit: int
    after: str | None

    def __bool__(self) -> bool:
        return self.after is not None

    def hint(self, run_ids: Sequence[str]) -> None:
        """Say how to go on behind the runs of a full page."""
        if len(run_ids) == self.limit:
            click.echo(f"perhaps there are more: --after {run_ids[-1]}", err=True)


def page_options(command: Command) -> Command:
    """Add the options of listings of runs; the command gets them as `page`."""

    @click.option(
        "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many runs."
    )
    @click.option("--after", metavar="ID", callback=optional_run_id, help="Go on behind this run, which was the last.")
    @functools.wraps(command)
    def gathered(*args: Any, limit: int, after: str | None, **given: Any) -> Any:
        return command(*args, page=Page(limit, after), **given)

    return gathered


def moment_of(text: str, now: datetime) -> datetime:
    """Give the moment that an age (`2h`) or an ISO time means, UTC unless it says otherwise; raises `UsageError`."""
    age = _AGE.fullmatch(text.strip().lower())
    try:
        if age is not None:
            return now - timedelta(seconds=float(age[1]) * _SECONDS[age[2]])
        at = datetime.fromisoformat(text.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is neither an age such as 90s, 15m, 2h, 3d or 1w nor a time such as 2026-05-01T22:00Z"
        ) from None


def moment_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Give the moment that the value of an option means."""
    return None if value is None else moment_of(value, system_clock.now())


def run_ids(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Check the ids of runs, and leave out those that are named again."""
    return tuple(dict.fromkeys(run_id(context, parameter, value) for value in values))


def optional_run_id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check the id of a run if one is given."""
    return None if value is None else run_id(context, parameter, value)
