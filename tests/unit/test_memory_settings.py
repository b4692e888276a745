"""Which store and which model an installation's memory has, and what is said where one of them is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fleet import settings_of

from orchestrator.contracts.memory import MemoryScope
from orchestrator.errors import MemoryUnavailable, SettingsInvalid
from orchestrator.store.memories import Memories
from orchestrator.store.store import Store
from worker.memory.chosen import memory_of
from worker.memory.qdrant import QdrantStore

SCOPE = MemoryScope.of_agent("tenant", "project", "agent")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_settings(settings_of(home=tmp_path))


def test_memories_are_in_the_database_and_vectors_are_made_offline_unless_the_settings_say_otherwise(
    store: Store,
) -> None:
    usual = memory_of(settings_of(), store)
    assert isinstance(usual.store, Memories)
    assert (usual.model, usual.session_messages) == ("offline", 1000)
    other = memory_of(
        settings_of(embedding_model="openai:x", session_messages=5, qdrant_url="http://localhost:1"), store
    )
    assert isinstance(other.store, QdrantStore)
    assert (other.model, other.session_messages) == ("openai:x", 5)


def test_a_qdrant_that_is_away_is_a_service_that_is_missing(store: Store, refusing_port: int) -> None:
    url = f"http://127.0.0.1:{refusing_port}"
    memory = memory_of(settings_of(qdrant_url=url, qdrant_api_key="a-secret-key"), store)
    with pytest.raises(MemoryUnavailable, match="NIGHTFLEET_QDRANT_URL") as raised:
        memory.store.list(SCOPE)
    assert raised.value.retryable
    assert "a-secret-key" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_client_that_is_not_installed_is_named_with_its_cure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(SettingsInvalid, match=r"pip install 'nightfleet\[qdrant\]'"):
        memory_of(settings_of(qdrant_url="http://localhost:6333"), store)
