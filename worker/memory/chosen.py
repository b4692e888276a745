"""Which store holds the memory of an installation, and which model makes its vectors."""

from __future__ import annotations

from orchestrator.settings import Settings
from orchestrator.store.store import Store
from worker.memory.base import MemoryStore
from worker.memory.manager import OFFLINE, MemoryManager


def memory_of(settings: Settings, store: Store) -> MemoryManager:
    """Give the memory that the settings ask for; nothing is connected by it."""
    model = settings.embedding_model or OFFLINE
    return MemoryManager(store_of(settings, store), store.sessions, settings.session_messages, model)


def store_of(settings: Settings, store: Store) -> MemoryStore:
    """Give where memories are kept: Qdrant where the settings name one, else the database."""
    if settings.qdrant_url is None:
        return store.memories
    from worker.memory.qdrant import QdrantStore

    return QdrantStore.at(settings.qdrant_url, settings.qdrant_api_key, prefix=settings.namespace)
