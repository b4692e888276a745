"""The store: one database, one repository for each aggregate."""

from __future__ import annotations

from orchestrator.settings import Settings
from orchestrator.store.agent_runs import AgentRuns
from orchestrator.store.batches import Batches
from orchestrator.store.database import Database
from orchestrator.store.fleet import Fleet
from orchestrator.store.repairs import Repairs
from orchestrator.store.runs import Runs


class Store:
    """Everything that is remembered; thread-safe and lazy: the first statement connects."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = Runs(database)
        self.agent_runs = AgentRuns(database)
        self.batches = Batches(database)
        self.fleet = Fleet(database)
        self.repairs = Repairs(database)

    @classmethod
    def from_settings(cls, settings: Settings) -> Store:
        """Give the store that the settings name."""
        return cls(Database.from_settings(settings))

    def forked(self) -> None:
        """Forget the parent's connections and threads; call it in the child after a fork."""
        self.database.forked()
        self.agent_runs.forked()

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.database.close()
