"""What every process of an installation is built from: store, Celery app, publisher, advancer. Lazy: nothing connects here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.advance import Advancer
from orchestrator.broker.app import FleetApp, make_app
from orchestrator.broker.publisher import Publisher
from orchestrator.contracts.dispatch import Dispatch, agent_run_id_of
from orchestrator.errors import NightfleetError
from orchestrator.own_runs import OwnRuns
from orchestrator.settings import Settings
from orchestrator.store.backend import StoreBackend
from orchestrator.store.store import Store

log = logging.getLogger("nightfleet.kernel")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One installation as seen by one process; two kernels of equal settings share nothing but the services."""

    settings: Settings
    store: Store
    app: FleetApp
    publisher: Publisher
    advancer: Advancer
    #: The runs that this process moves, where each embedded process moves its own; None in a fleet.
    own_runs: OwnRuns | None
    #: Who in this process looks for mail of a run and task when told to: its workers.
    mail_listeners: list[Callable[[str, str], None]] = field(default_factory=list[Callable[[str, str], None]])

    @classmethod
    def build(cls, settings: Settings) -> Kernel:
        """Put the pieces together."""
        store = Store.from_settings(settings)
        app = make_app(settings, lambda made: StoreBackend(made, store.agent_runs))
        publisher = app.publisher(lambda task_ids: _note_lost(store, task_ids))
        advancer = Advancer(store, publisher, limit_bytes=settings.max_value_bytes)
        own_runs = OwnRuns(store, advancer, settings.lease_ttl.total_seconds()) if settings.embedded else None
        return cls(settings, store, app, publisher, advancer, own_runs)

    def forked(self) -> None:
        """Forget the parent's connections; call it in the child after a fork."""
        self.store.forked()

    def close(self) -> None:
        """Close connections; the next use opens new ones."""
        self.publisher.close()
        self.store.close()


def _note_lost(store: Store, task_ids: list[str]) -> None:
    """Mark publications that did not arrive; if that fails too, the sweep finds out later that they are lost."""
    dispatches = [Dispatch(agent_run_id_of(task_id), int(task_id.rpartition(".")[2]), "", 0) for task_id in task_ids]
    log.warning("%d publications did not arrive; the sweep sends them again", len(dispatches))
    try:
        store.agent_runs.unpublished(dispatches)
    except NightfleetError as error:
        log.warning("could not note that either: %s", error.message)
