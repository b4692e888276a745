"""What people decide of retention: how long a project keeps its runs, and runs that are to go at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

from orchestrator.clock import system_clock
from orchestrator.contracts.policy import Retention
from orchestrator.contracts.project import ProjectSummary
from orchestrator.contracts.run import RunFilter
from orchestrator.errors import UsageError
from orchestrator.retention import in_force
from orchestrator.service import Service
from orchestrator.store.creation import database_now
from orchestrator.store.database import moment
from orchestrator.store.retention import ENDED

#: Runs that one transaction deletes.
_AT_ONCE = 200
#: The least difference of two times in the database.
_MOMENT = timedelta(microseconds=1)


def ended_of(which: RunFilter) -> RunFilter:
    """Give the filter for those of the runs that have ended; raises `UsageError` for states that are no ends."""
    wrong = [state for state in which.states if not state.final]
    if wrong:
        raise UsageError(f"only runs that have ended can be deleted, not {wrong[0]} ones: cancel them first")
    return which if which.states else which.model_copy(update={"states": ENDED})


def purge(service: Service, which: RunFilter) -> Iterator[int]:
    """Delete the runs that are meant and have ended by now, newest first, a part at a time; gives the number of each part.

    A run that somebody opens again meanwhile stays, and so does one that somebody is at in that very moment.
    """
    store = service.kernel.store
    meant = ended_of(which)
    if meant.ended_before is None:
        meant = meant.model_copy(update={"ended_before": store.database.execute(database_now)})
    held: str | None = None
    pausing = threading.Event()
    while rows := service.list(meant, limit=_AT_ONCE, after=held):
        began, found = system_clock.monotonic(), [row.id for row in rows]
        yield store.deletions.delete_ended(found)
        if len(found) < _AT_ONCE:
            return
        # Half of the time is for those who work: back to back, a purge takes more of the database from them.
        pausing.wait(system_clock.monotonic() - began)
        # Not from the newest on again: what was deleted would have to be passed over there, and what others hold.
        there = service.states(found)
        held = next((run_id for run_id in reversed(found) if run_id in there), None)
        meant = meant.model_copy(update={"before": rows[-1].created_at + _MOMENT})


def projects(service: Service) -> list[ProjectSummary]:
    """Give every project, by name, and how long it keeps its runs."""
    settings = service.kernel.settings
    return [
        ProjectSummary(
            name=row.name,
            created_at=moment(row.created_at),
            retention=row.retention,
            in_force=in_force(row.retention, settings),
        )
        for row in service.kernel.store.deletions.projects()
    ]


def set_retention(service: Service, project: str, retention: Retention) -> None:
    """Say how long a project keeps the runs that have ended; one that is not there yet is made."""
    store = service.kernel.store
    store.runs.make_project(project)
    store.deletions.set_retention(project, retention)
