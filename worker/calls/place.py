"""Where model calls are made: on whose behalf."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.contracts.budget import Call
from orchestrator.contracts.effect import Slot
from orchestrator.store.agent_runs import Claim
from worker.limits.configured import Caller
from worker.llm.base import BaseLLMProvider

#: What the ledger keeps of the alias of a key: ours are shorter, those of other distributions' providers may not be.
_LONGEST_ALIAS = 16


@dataclass(frozen=True, slots=True)
class Place:
    """One execution, and the names of its tenant and its project: limits are configured by them."""

    claim: Claim
    tenant: str
    project: str

    def caller(self, model: str, provider: BaseLLMProvider) -> Caller:
        """Give what limits go by."""
        return Caller(model, provider.credential, provider.host, self.tenant, self.project)

    def call(self, slot: Slot, attempt: int, model: str, provider: BaseLLMProvider) -> Call:
        """Give what the ledger knows a try by."""
        claim = self.claim
        return Call(
            claim.tenant_id,
            claim.run_id,
            claim.id,
            claim.epoch,
            slot,
            attempt,
            claim.agent,
            model,
            provider.credential[:_LONGEST_ALIAS] or None,
        )

    def ticket(self, slot: Slot, attempt: int) -> str:
        """Give the name of a try in the lines of limits."""
        return f"{self.claim.id}:{slot}:{self.claim.epoch}:{attempt}"
