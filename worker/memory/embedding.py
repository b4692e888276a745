"""Vectors of texts outside of an agent run: offline, or by a provider that a command asks."""

from __future__ import annotations

from collections.abc import Sequence

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from orchestrator.clock import system_clock
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelError
from worker.llm.base import embedding_of
from worker.llm.features import vector_of
from worker.llm.prices import priced
from worker.llm.providers import Providers
from worker.memory.base import Embed, Embedded
from worker.memory.manager import OFFLINE


def embed_offline(texts: Sequence[str]) -> Embedded:
    """Give vectors that are made here, without a model."""
    return Embedded(tuple(vector_of(text) for text in texts), OFFLINE, Usage())


def embed_by(providers: Providers, model: str, most_tries: int) -> Embed:
    """Give what asks a model for vectors on behalf of nobody's agent run: without limits, budgets and the ledger.

    What fails for no fault of the texts is tried again.
    """
    provider = providers.provider_for(model)
    trying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, ModelError) and error.retryable),
        stop=stop_after_attempt(most_tries),
        wait=wait_random_exponential(multiplier=0.5, max=30),
        reraise=True,
    )

    def embed(texts: Sequence[str]) -> Embedded:
        response = trying(provider.embed, embedding_of(model, texts))
        price = providers.catalogue.price_of(model, system_clock.now()) if provider.metered else None
        usage = priced(response.usage, price) if provider.metered else response.usage
        return Embedded(response.vectors, model, usage)

    return embed
