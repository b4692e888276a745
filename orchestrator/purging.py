"""What people decide of retention: how long a project keeps its runs, and runs that are to go at once."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.contracts.policy import Retention
from orchestrator.contracts.project import ProjectSummary
from orchestrator.contracts.run import RunFilter
from orchestrator.errors import UsageError
from orchestrator.retention import in_force
from orchestrator.service import Service
from orchestrator.store.creation import database_now
from orchestrator.store.retention import ENDED
from orchestrator.stream import moment

#: Runs that one transaction deletes.
_AT_ONCE = 200


def ended_of(which: RunFilter) -> RunFilter:
    """Give the filter for those of the runs that have ended; raises `UsageError` for states that are no ends."""
    wrong = [state for state in which.states if not state.final]
    if wrong:
        raise UsageError(f"only runs that have ended can be deleted, not {wrong[0]} ones: cancel them first")
    return which if which.states else which.model_copy(update={"states": ENDED})


def purge(service: Service, which: RunFilter) -> Iterator[int]:
    """Delete the runs that are meant and have ended by now, newest first, a part at a time; gives the number of each part.

    A run that somebody opens again meanwhile stays.
    """
    store = service.kernel.store
    meant = ended_of(which)
    if meant.ended_before is None:
        meant = meant.model_copy(update={"ended_before": store.database.execute(database_now)})
    while rows := service.list(meant, limit=_AT_ONCE):
        count = store.deletions.delete_ended([row.id for row in rows])
        yield count
        if not count:
            return  # others hold them at this moment


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
