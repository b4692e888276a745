"""What `nightfleet memory` does: with the stores and the model of an installation, and without an agent run."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.contracts.memory import (
    Forgetting,
    Ingested,
    Memory,
    MemoryScope,
    MemorySummary,
    Passage,
    Reembedded,
    SessionRef,
    SessionSummary,
    shown,
)
from orchestrator.errors import UsageError
from orchestrator.kernel import Kernel
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from worker.llm.providers import Providers
from worker.memory.base import Embed
from worker.memory.chosen import memory_of
from worker.memory.embedding import embed_by
from worker.memory.ingest import BATCH, PATTERNS, Ingestion
from worker.memory.manager import MemoryManager


@dataclass(frozen=True, slots=True)
class MemoryDesk:
    """The memory of one project, for people."""

    manager: MemoryManager
    embed: Embed
    project_id: str

    def scope(self, whose: str) -> MemoryScope:
        """Give what `agent:NAME`, `project` or `corpus:NAME` means."""
        return MemoryScope.named(DEFAULT_TENANT_ID, self.project_id, whose)

    def ingest(
        self, folder: Path, corpus: str, patterns: tuple[str, ...], seen: Callable[[str, int], None]
    ) -> Ingested:
        """Put a folder of documents into a corpus."""
        ingestion = Ingestion(
            self.manager.store,
            MemoryScope.of_corpus(DEFAULT_TENANT_ID, self.project_id, corpus),
            self.embed,
            self.manager.model,
            seen,
        )
        return ingestion.run(folder, patterns or PATTERNS)

    def search(self, scope: MemoryScope, query: str, limit: int) -> list[Memory | Passage]:
        """Give what is nearest to a text."""
        return self.manager.nearest([scope], self.embed([query]), limit=limit)

    def summaries(self) -> list[MemorySummary]:
        """Give every memory and corpus."""
        return self.manager.store.summaries(DEFAULT_TENANT_ID, self.project_id)

    def items(self, scope: MemoryScope, limit: int) -> list[Memory | Passage]:
        """Give what one of them holds, the newest first."""
        return [shown(item) for item in self.manager.store.list(scope, limit=limit)]

    def sessions(self, agent: str | None) -> list[SessionSummary]:
        """Give the conversations of an agent, or of all."""
        return self.manager.sessions.list(DEFAULT_TENANT_ID, self.project_id, agent)

    def forget(self, scope: MemoryScope, ids: tuple[str, ...], rule: Forgetting | None) -> int:
        """Forget pieces, or what a rule does not keep, or all without either; gives how much that was."""
        store = self.manager.store
        if ids:
            return store.remove(scope, ids)
        return store.remove_all(scope) if rule is None else store.trim(scope, rule)

    def forget_session(self, agent: str, session: str) -> int:
        """Forget a conversation."""
        return self.manager.sessions.clear(SessionRef(DEFAULT_TENANT_ID, self.project_id, agent, session))

    def reembed(self) -> Reembedded:
        """Make all vectors anew that another model has made; may be cut off at any moment and run again."""
        store, count, scopes = self.manager.store, 0, [self.scope(each.whose) for each in self.summaries()]
        if not scopes:
            return Reembedded(items=0, embedder=None)
        made = self.embed(["its dimension is that of its vectors"])
        usage = made.usage
        for scope in scopes:
            while items := store.of_others(scope, made.embedder, limit=BATCH):
                new = self.embed([item.text for item in items])
                pairs = zip(items, new.vectors, strict=True)
                store.put([replace(item, embedder=made.embedder, vector=vector) for item, vector in pairs])
                count, usage = count + len(items), usage + new.usage
        return Reembedded(items=count, embedder=made.embedder, usage=usage)


@contextmanager
def opened(kernel: Kernel, project: str, *, make: bool = False) -> Generator[MemoryDesk]:
    """Give the memory of a project; raises `UsageError` for one that is not there, unless it is to be made."""
    if make:
        kernel.store.runs.make_project(project)
    project_id = _project_id(kernel, project)
    settings = kernel.settings
    manager, providers = memory_of(settings, kernel.store), Providers(dict(os.environ), settings.models_file)
    try:
        yield MemoryDesk(manager, embed_by(providers, manager.model, settings.model_tries), project_id)
    finally:
        providers.close()


def _project_id(kernel: Kernel, name: str) -> str:
    found = {row.name: row.id for row in kernel.store.deletions.projects()}
    if name not in found:
        raise UsageError(
            f"there is no project {name!r}; `nightfleet projects` lists them, and the first run of one makes it"
        )
    return found[name]
