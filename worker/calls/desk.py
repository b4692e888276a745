"""What all model calls of a process share."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.errors import LimiterUnavailable
from orchestrator.observability.logging import get_logger
from orchestrator.settings import Settings
from orchestrator.store.ledger import Ledger
from orchestrator.store.model_answers import ModelAnswers
from worker.calls.breaker import Breakers
from worker.calls.keys import RefusedKeys
from worker.calls.sharing import QuestionKeeper, Shelf
from worker.calls.tallies import Tallies
from worker.calls.turns import Turns
from worker.limits.base import Limiter
from worker.limits.chosen import limiter_of
from worker.limits.lease import LeaseKeeper
from worker.llm.providers import Providers

log = get_logger("nightfleet.worker")

#: A wait that is longer than a moment by so much is no wait in the process, however quickly that is decided.
_LONGER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Desk:
    """Providers, limits, budgets and the health of what is in between; thread-safe."""

    providers: Providers
    limiter: Limiter
    ledger: Ledger
    leases: LeaseKeeper
    turns: Turns
    #: How often one model is asked for one answer, before its failure is that of the agent's call.
    most_tries: int
    #: How long a call may wait for its turn in this process.
    moment_seconds: float
    #: The answers that are shared, if any are.
    shelf: Shelf | None = None
    breakers: Breakers = field(default_factory=Breakers)
    keys: RefusedKeys = field(default_factory=RefusedKeys)
    tallies: Tallies = field(default_factory=Tallies)

    @classmethod
    def of(cls, settings: Settings, providers: Providers, ledger: Ledger, answers: ModelAnswers) -> Desk:
        """Make that of a process; nothing is connected by it."""
        limiter = limiter_of(settings)
        moment, kept = settings.suspend_after.total_seconds(), settings.model_cache_ttl.total_seconds()
        return cls(
            providers,
            limiter,
            ledger,
            LeaseKeeper(limiter),
            Turns(settings.model_calls),
            settings.model_tries,
            moment,
            Shelf(answers, QuestionKeeper(answers), kept, moment, settings.lease_ttl.total_seconds()) if kept else None,
        )

    @property
    def longer_than_a_moment(self) -> float:
        """How long to wait, so that no slot is held for it, for what may be there again soon."""
        return self.moment_seconds + _LONGER_SECONDS

    def begin(self) -> None:
        """Let limits begin to be counted, if they are not."""
        try:
            self.limiter.begin()
        except LimiterUnavailable as error:
            log.warning("models are not called before the limits can be asked", error=error.message)

    async def aclose(self) -> None:
        """Let go of the connections of the running loop; for before `close`."""
        await self.providers.aclose()
        await self.limiter.aclose()

    def close(self) -> None:
        """Let go of connections; leases that are still held end by themselves."""
        self.leases.close()
        if self.shelf is not None:
            self.shelf.questions.close()
        self.limiter.close()
        self.providers.close()
