"""The memory as one execution asks it: on its behalf, with vectors that are made by its model calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.contracts.effect import Slot
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.store.agent_runs import Claim
from worker.calls.models import Models, Patience
from worker.effects.progress import Progress
from worker.llm.base import EmbeddingResponse, embedding_of
from worker.memory.base import Asker, Embedded
from worker.memory.manager import MemoryManager


@dataclass(frozen=True, slots=True)
class Remembering:
    """Answers the questions of one execution; thread-safe."""

    manager: MemoryManager
    claim: Claim
    models: Models
    database: Patience

    def perform(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        """Do what is asked at a slot; raises `NotYet` where vectors have to be waited for."""
        made: Embedded | None = None

        def embed(texts: Sequence[str]) -> Embedded:
            nonlocal made
            if made is None:  # the database may be asked again, the model is not
                response = self.models.call(embedding_of(self.manager.model, texts), slot, progress)
                assert isinstance(response, EmbeddingResponse)
                made = Embedded(response.vectors, self.manager.model, response.usage)
            return made

        return self.database.patiently(lambda: self.manager.perform(request, asker_of(self.claim, slot), embed))


def asker_of(claim: Claim, slot: Slot) -> Asker:
    """Give on whose behalf an effect of a claim asks."""
    source = f"{claim.run_id}/{claim.task}"
    return Asker(claim.tenant_id, claim.project_id, claim.agent, source, f"{claim.id}:{slot}")
