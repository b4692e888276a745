"""Memories for tests that hold documents, as `nightfleet memory ingest` puts them there."""

from __future__ import annotations

from pathlib import Path

from orchestrator.contracts.memory import MemoryScope
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from worker.memory.embedding import embed_offline
from worker.memory.ingest import Ingestion
from worker.testing import MemoryManager


def _nobody(source: str, count: int) -> None:
    """Stand for whoever is told of each document."""


def memory_with(folder: Path, corpus: str, **documents: str) -> MemoryManager:
    """Give a memory whose corpus holds these documents by name, put there through a folder."""
    memory = MemoryManager.in_process()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        (folder / f"{name}.md").write_text(text)
    scope = MemoryScope.of_corpus(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, corpus)
    Ingestion(memory.store, scope, embed_offline, memory.model, _nobody).run(folder)
    return memory
