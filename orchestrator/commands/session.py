"""An orchestrator for as long as a command works and waits: closed in good order, however the wait ends."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from orchestrator.commands import render
from orchestrator.commands.attend import TimeIsUp
from orchestrator.commands.interrupts import exit_code_of_interrupt
from orchestrator.commands.place import Place, producing
from orchestrator.errors import ServiceUnavailable

if TYPE_CHECKING:
    from orchestrator.client import Orchestrator
    from orchestrator.settings import Settings


@dataclass(slots=True)
class Session:
    """An orchestrator, and the run that is waited for: whoever stops waiting is told where it goes on."""

    nf: Orchestrator
    run_id: str | None = None


@contextmanager
def working(place: Place, settings: Settings) -> Generator[Session]:
    """Give an orchestrator that can run work, and close it: when a wait ends before its run, say what becomes of the run."""
    session = Session(producing(settings))
    try:
        yield session
    except (KeyboardInterrupt, ServiceUnavailable, TimeIsUp):
        _leave(session, settings, place)
        raise
    except BaseException:
        session.nf.close()
        raise
    session.nf.close()


@contextmanager
def watching(place: Place, run_id: str) -> Generator[None]:
    """Look at a run that others work on: when the look ends before it, say that it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        tell_that_it_goes_on(run_id, place)
        raise


def tell_that_it_goes_on(run_id: str, place: Place) -> None:
    """Say how to watch a run that nobody waits for, and how to end it."""
    click.echo(
        f"run {run_id} goes on: `nightfleet runs watch {run_id}{place.flags}` shows it, "
        f"`nightfleet runs cancel {run_id}{place.flags}` ends it",
        err=True,
    )


def _leave(session: Session, settings: Settings, place: Place) -> None:
    if not settings.embedded:
        if session.run_id is not None:
            tell_that_it_goes_on(session.run_id, place)
        return
    drain = render.duration(settings.drain_timeout.total_seconds())
    try:
        click.echo(f"stopping: agents that run have {drain} to end; Ctrl-C again stops at once", err=True)
        session.nf.close()
    except KeyboardInterrupt as error:
        _tell_of_the_rest(place)
        # Threads of agents would hold up an orderly exit; what they had is in the database.
        os._exit(exit_code_of_interrupt(error))
    _tell_of_the_rest(place)


def _tell_of_the_rest(place: Place) -> None:
    click.echo(f"what is unfinished goes on with `nightfleet runs resume{place.flags}`", err=True)
