"""The store: one database, one repository for each aggregate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cached_property import cached_property
from orchestrator.planning import condition
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import AgentRuns
from orchestrator.store.batches import Batches
from orchestrator.store.database import Database
from orchestrator.store.fleet import Fleet
from orchestrator.store.repairs import Repairs
from orchestrator.store.runs import Runs

if TYPE_CHECKING:
    from orchestrator.bus.database import DatabaseMail
    from orchestrator.context.database import DatabaseShared
    from orchestrator.context.deciding import Bounds
    from orchestrator.journal.database import DatabaseJournal
    from orchestrator.store.census import Census
    from orchestrator.store.evaluations import Evaluations
    from orchestrator.store.experiments import Experiments
    from orchestrator.store.ledger import Ledger
    from orchestrator.store.memories import Memories
    from orchestrator.store.model_answers import ModelAnswers
    from orchestrator.store.pools import Pools
    from orchestrator.store.receipts import Receipts
    from orchestrator.store.retention import Deletions
    from orchestrator.store.sessions import Sessions
    from orchestrator.store.streams import Streams
    from orchestrator.store.subwork import Subworks
    from orchestrator.store.waits import Waits
    from orchestrator.store.webhooks import Webhooks
    from orchestrator.store.workflows import Workflows


class Store:
    """Everything that is remembered; thread-safe and lazy: the first statement connects."""

    def __init__(
        self,
        database: Database,
        *,
        max_value_bytes: int = 8_000_000,
        mailbox_size: int = 1000,
        shared_bounds: Bounds | None = None,
    ) -> None:
        self.database = database
        self._mailbox_size = mailbox_size
        self._max_value_bytes = max_value_bytes
        self._shared_bounds = shared_bounds
        self.runs = Runs(database)
        self.agent_runs = AgentRuns(database)
        self.batches = Batches(database)
        self.fleet = Fleet(database)
        self.repairs = Repairs(database, self.runs)

    @classmethod
    def from_settings(cls, settings: Settings) -> Store:
        """Give the store that the settings name."""
        from orchestrator.context.deciding import Bounds

        return cls(
            Database.from_settings(settings),
            max_value_bytes=settings.max_value_bytes,
            mailbox_size=settings.mailbox_size,
            shared_bounds=Bounds(settings.shared_value_bytes, settings.shared_keys, settings.shared_bytes),
        )

    # What producers have no use for is imported with its first use: two megabytes of theirs.

    @cached_property
    def journal(self) -> DatabaseJournal:
        """What agents have recorded."""
        from orchestrator.journal.database import DatabaseJournal

        return DatabaseJournal(self.database, max_value_bytes=self._max_value_bytes)

    @cached_property
    def mail(self) -> DatabaseMail:
        """What agents tell each other."""
        from orchestrator.bus.database import DatabaseMail

        return DatabaseMail(self.database, self.journal, mailbox_size=self._mailbox_size)

    @cached_property
    def shared(self) -> DatabaseShared:
        """What the agents of each run share."""
        from orchestrator.context.database import DatabaseShared
        from orchestrator.context.deciding import Bounds

        bounds = self._shared_bounds or Bounds()
        return DatabaseShared(self.database, bounds=bounds, max_value_bytes=self._max_value_bytes)

    @cached_property
    def waits(self) -> Waits:
        """What suspended agent runs wait for."""
        from orchestrator.store.waits import Waits

        return Waits(self.database)

    @cached_property
    def subwork(self) -> Subworks:
        """What agents ask other agents for."""
        from orchestrator.store.subwork import Subworks

        return Subworks(self.database)

    @cached_property
    def ledger(self) -> Ledger:
        """What was spent, and what may be."""
        from orchestrator.store.ledger import Ledger

        return Ledger(self.database)

    @cached_property
    def answers(self) -> ModelAnswers:
        """What models have answered."""
        from orchestrator.store.model_answers import ModelAnswers

        return ModelAnswers(self.database)

    @cached_property
    def evaluations(self) -> Evaluations:
        """Evaluations, and what came of their cases."""
        from orchestrator.store.evaluations import Evaluations

        return Evaluations(self.database)

    @cached_property
    def experiments(self) -> Experiments:
        """Which share of live runs gets a variant."""
        from orchestrator.store.experiments import Experiments

        return Experiments(self.database)

    @cached_property
    def memories(self) -> Memories:
        """What agents remember, and passages of documents."""
        from orchestrator.store.memories import Memories

        return Memories(self.database)

    @cached_property
    def pools(self) -> Pools:
        """How many agent runs of an agent may run at a time."""
        from orchestrator.store.pools import Pools

        return Pools(self.database, self.agent_runs)

    @cached_property
    def census(self) -> Census:
        """The fleet as it is now."""
        from orchestrator.store.census import Census

        return Census(self.database)

    @cached_property
    def sessions(self) -> Sessions:
        """The conversations of agents."""
        from orchestrator.store.sessions import Sessions

        return Sessions(self.database)

    @cached_property
    def streams(self) -> Streams:
        """What watchers were shown of models' answers."""
        from orchestrator.store.streams import Streams

        return Streams(self.database)

    @cached_property
    def webhooks(self) -> Webhooks:
        """Who is told of what happens, and what is on its way to them."""
        from orchestrator.store.webhooks import Webhooks

        return Webhooks(self.database)

    @cached_property
    def receipts(self) -> Receipts:
        """What has come in from outside."""
        from orchestrator.store.receipts import Receipts

        return Receipts(self.database)

    @cached_property
    def workflows(self) -> Workflows:
        """Definitions, and how much they are used."""
        from orchestrator.store.workflows import Workflows

        return Workflows(self.database)

    @cached_property
    def deletions(self) -> Deletions:
        """What goes in time."""
        from orchestrator.store.retention import Deletions

        return Deletions(self.database)

    def shed(self) -> None:
        """Let go of what can be read again: plans of workflows, compiled conditions, what the journal has stored."""
        self.runs.shed()
        if "journal" in vars(self):
            self.journal.shed()
        condition.forget()

    def forked(self) -> None:
        """Forget the parent's connections and threads; call it in the child after a fork."""
        self.database.forked()
        self.agent_runs.forked()
        if "journal" in vars(self):
            self.journal.forked()
        for name in ("streams", "mail", "subwork", "shared"):
            if name in vars(self):
                getattr(self, name).forked()

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.database.close()
