"""Starts an installation in this process: the use cases, and beside them a worker where it is embedded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import SettingsInvalid

if TYPE_CHECKING:
    from orchestrator.service import Service
    from orchestrator.settings import Settings


class EmbeddedWorker(Protocol):
    """What an embedded instance has running beside it."""

    def stop(self) -> None: ...


def started(given: Settings | None, overrides: dict[str, Any] | None) -> tuple[Service, EmbeddedWorker | None]:
    """Give the use cases of the installation that the settings describe, with a worker of its own if it is embedded.

    `overrides` are those of an installation that is asked for as embedded, by name.
    """
    from orchestrator.imports import require_ours
    from orchestrator.kernel import Kernel
    from orchestrator.service import Service
    from orchestrator.settings import Settings
    from orchestrator.store import schema

    settings = given or Settings.load()
    if overrides is not None:
        changes: dict[str, Any] = {"broker_url": None, "database_url": None, "home": settings.home, **overrides}
        settings = settings.model_copy(update={**changes, "home": Path(changes["home"])})
    elif settings.embedded:
        raise SettingsInvalid(
            "no fleet is configured: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL, or ask for agents inside "
            "this process by name with Orchestrator.embedded()"
        )
    if settings.embedded:
        require_ours("worker")  # before anything is made
    kernel = Kernel.build(settings)
    if not settings.embedded:
        schema.check(kernel.store.database)
        return Service(kernel), None
    schema.upgrade(kernel.store.database)
    return Service(kernel), _start_worker(kernel)


def _start_worker(kernel: Any) -> EmbeddedWorker:
    # By name: the control plane never imports the data plane.
    from orchestrator.imports import require_ours

    return require_ours("worker.embedded").start(kernel)
