"""Where memories and conversations are kept: two ports, and what both are asked through.

`orchestrator.store.memories` and `orchestrator.store.sessions` keep them in the database of the installation, with
pgvector, with sqlite-vec or without either. `worker.memory.inmemory` is the twin of both for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orchestrator.contracts.memory import (
    Forgetting,
    FoundItem,
    MemoryItem,
    MemoryScope,
    MemorySummary,
    SessionRef,
    SessionSummary,
    StoredMessage,
    Wanted,
)
from orchestrator.contracts.usage import Usage
from orchestrator.contracts.vector import dimensions


class MemoryStore(Protocol):
    """Keeps pieces of text with their vectors; thread-safe. No method ever touches another tenant, project or scope.

    Every write can be repeated: a piece takes the place of the one with its id, and keeps the time of that.
    """

    def put(self, items: Sequence[MemoryItem]) -> None:
        """Keep pieces."""
        ...

    def put_document(self, scope: MemoryScope, source: str, items: Sequence[MemoryItem]) -> None:
        """Keep the passages of a document, in place of those that it had; none of them forgets it."""
        ...

    def search(self, scopes: Sequence[MemoryScope], wanted: Wanted) -> list[FoundItem]:
        """Give what is nearest, the nearest first; scopes are of one project. What other embedders have made is left out."""
        ...

    def other_embedder(self, scopes: Sequence[MemoryScope], embedder: str) -> tuple[MemoryScope, str] | None:
        """Give another embedder than this one that has made vectors in one of the scopes, and in which."""
        ...

    def list(
        self, scope: MemoryScope, *, kinds: Sequence[str] = (), about: str | None = None, limit: int = 50
    ) -> list[MemoryItem]:
        """Give pieces without their vectors, the newest first."""
        ...

    def of_others(self, scope: MemoryScope, embedder: str, *, limit: int) -> list[MemoryItem]:
        """Give pieces whose vectors are not of this embedder."""
        ...

    def summaries(self, tenant_id: str, project_id: str) -> list[MemorySummary]:
        """Give every memory and corpus of a project, by name."""
        ...

    def documents(self, scope: MemoryScope) -> dict[str, tuple[str, str]]:
        """Give the documents of a corpus: for each source its digest, and who has made its vectors."""
        ...

    def remove(self, scope: MemoryScope, ids: Sequence[str]) -> int:
        """Forget some pieces; gives how many of them there were."""
        ...

    def remove_all(self, scope: MemoryScope, about: str | None = None) -> int:
        """Forget all, or all that is about something; gives how much that was."""
        ...

    def trim(self, scope: MemoryScope, rule: Forgetting) -> int:
        """Forget what a rule does not keep of one scope, a corpus too; gives how much that was."""
        ...

    def forget(self, rule: Forgetting, *, most: int) -> int:
        """Forget up to `most` memories, whosever they are, that a rule does not keep; never a passage."""
        ...


class SessionStore(Protocol):
    """Keeps the last messages of conversations; thread-safe. Appends to one conversation take turns."""

    def append(self, ref: SessionRef, messages: Sequence[StoredMessage], *, keep: int) -> int:
        """Add messages, and forget all but the last `keep`; gives how many there are then.

        One that is there stays where it is, and says what it is said to say now.
        """
        ...

    def read(self, ref: SessionRef, *, limit: int) -> list[str]:
        """Give the last messages, the oldest of them first."""
        ...

    def clear(self, ref: SessionRef) -> int:
        """Forget all messages; gives how many they were."""
        ...

    def list(self, tenant_id: str, project_id: str, agent: str | None = None) -> list[SessionSummary]:
        """Give the conversations of a project or of one agent in it, those used last first."""
        ...

    def forget(self, rule: Forgetting, *, most: int) -> int:
        """Forget up to `most` conversations that were not used for so long."""
        ...


class Embedded(NamedTuple):
    """Vectors of texts, who has made them, and what that has used."""

    vectors: tuple[bytes, ...]
    model: str
    usage: Usage

    @property
    def embedder(self) -> str:
        """The model with its dimension: what vectors have to have in common to be compared."""
        return label(self.model, self.vectors[0])


#: Makes vectors of texts, at least one; raises `NotYet` where that has to wait, or a `ModelError`.
Embed = Callable[[Sequence[str]], Embedded]


def label(model: str, vector: bytes) -> str:
    """Give what tells who has made a vector."""
    return f"{model}/{dimensions(vector)}"


def is_of(embedder: str, model: str) -> bool:
    """Tell whether vectors are of a model, whatever their dimension is."""
    return embedder.rpartition("/")[0] == model


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf the memory is asked: an agent run, and the place of an effect in it, from which ids follow."""

    tenant_id: str
    project_id: str
    agent: str
    source: str
    key: str
