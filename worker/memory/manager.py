"""What becomes of a question to the memory: which scope is meant, which vectors are needed, what is kept and given back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from orchestrator.clock import chance, uuid_from
from orchestrator.contracts.jsonvalue import JsonValue, storable
from orchestrator.contracts.memory import (
    MOST_MESSAGES,
    AppendToSession,
    ClearSession,
    Forget,
    Memory,
    MemoryItem,
    MemoryOutcome,
    MemoryRequest,
    MemoryScope,
    Passage,
    ReadSession,
    Recall,
    Remember,
    Search,
    SessionRef,
    StoredMessage,
    Wanted,
    shown,
)
from orchestrator.errors import EmbedderChanged, InputInvalid
from orchestrator.failpoints import failpoint
from worker.memory.base import Asker, Embed, Embedded, MemoryStore, SessionStore
from worker.memory.inmemory import InMemorySessions, InMemoryStore

OFFLINE = "offline"
#: Of what is nearest to a question: what has nothing in common with it is no answer.
_NOTHING = 0.0


@dataclass(frozen=True, slots=True)
class MemoryManager:
    """Remembers and recalls on behalf of agents; thread-safe. Memories by their nearness, conversations by their order."""

    store: MemoryStore
    sessions: SessionStore
    #: How many messages a conversation keeps.
    session_messages: int = MOST_MESSAGES
    #: What makes vectors for agents: a model, or `offline`, which is deterministic and no model.
    model: str = OFFLINE

    @classmethod
    def in_process(cls) -> Self:
        """Give one that is gone with this process: for tests, which may share it between runs of agents."""
        return cls(InMemoryStore(), InMemorySessions())

    def perform(self, request: MemoryRequest, asker: Asker, embed: Embed) -> MemoryOutcome:
        """Do what is asked; raises `EmbedderChanged`, and what `embed` raises. May be repeated: nothing is kept twice."""
        match request:
            case Remember():
                return self._remember(request, asker, embed)
            case Recall():
                return self._recall(request, asker, embed)
            case Search():
                return self._search(request, asker, embed)
            case Forget():
                return MemoryOutcome(value=self._forget(request, asker))
            case _:
                return MemoryOutcome(value=self._converse(request, asker))

    def _remember(self, request: Remember, asker: Asker, embed: Embed) -> MemoryOutcome:
        text = _told(request.text)
        made = embed([text])
        item = MemoryItem(
            id=derived_id(asker.key),
            scope=_scope(asker, shared=request.shared),
            text=text,
            embedder=made.embedder,
            vector=made.vectors[0],
            kind=request.kind,
            about=request.about,
            source=asker.source,
        )
        self.store.put([item])
        failpoint("after_remember", asker.key)
        return MemoryOutcome(value=item.id, usage=made.usage, model=made.model)

    def _recall(self, request: Recall, asker: Asker, embed: Embed) -> MemoryOutcome:
        scopes = [_scope(asker, shared=False), *([_scope(asker, shared=True)] if request.shared else [])]
        made = embed([_told(request.query)])
        found = self.nearest(scopes, made, limit=request.limit, kinds=request.kinds, about=request.about)
        return _outcome(found, made)

    def _search(self, request: Search, asker: Asker, embed: Embed) -> MemoryOutcome:
        scope = MemoryScope.of_corpus(asker.tenant_id, asker.project_id, request.corpus)
        made = embed([_told(request.query)])
        return _outcome(self.nearest([scope], made, limit=request.limit), made)

    def nearest(
        self,
        scopes: Sequence[MemoryScope],
        made: Embedded,
        *,
        limit: int,
        kinds: tuple[str, ...] = (),
        about: str | None = None,
    ) -> list[Memory | Passage]:
        """Give what is nearest to a text of which a vector was made, in memories and corpora of one project."""
        other = self.store.other_embedder(scopes, made.embedder)
        if other is not None:
            scope, embedder = other
            raise EmbedderChanged(
                f"{scope.told} holds vectors of {embedder}, and what is asked has one of {made.embedder}, which says nothing "
                "of their nearness: `nightfleet memory reembed` makes all vectors anew, or set NIGHTFLEET_EMBEDDING_MODEL "
                "back to what it was"
            )
        wanted = Wanted(made.embedder, made.vectors[0], limit, kinds, about)
        found = [each for each in self.store.search(scopes, wanted) if each.score > _NOTHING]
        return [shown(item, score) for item, score in found]

    def _forget(self, request: Forget, asker: Asker) -> int:
        scope = _scope(asker, shared=request.shared)
        if request.ids:
            return self.store.remove(scope, request.ids)
        return self.store.remove_all(scope, request.about) if request.about is not None else 0

    def _converse(self, request: ReadSession | AppendToSession | ClearSession, asker: Asker) -> JsonValue:
        ref = SessionRef(asker.tenant_id, asker.project_id, asker.agent, request.session)
        match request:
            case ReadSession():
                limit = min(request.limit or self.session_messages, self.session_messages)
                return [json.loads(body) for body in self.sessions.read(ref, limit=limit)]
            case AppendToSession():
                messages = [
                    StoredMessage(
                        derived_id(f"{asker.key}:{number}"), json.dumps(storable(message), separators=(",", ":"))
                    )
                    for number, message in enumerate(request.messages)
                ]
                count = self.sessions.append(ref, messages, keep=self.session_messages)
                failpoint("after_remember", asker.key)
                return count
            case ClearSession():
                return self.sessions.clear(ref)


def derived_id(key: str) -> str:
    """Give the id of what is written at a place: the same whenever it is written."""
    return uuid_from(chance(f"memory:{key}"))


def _scope(asker: Asker, *, shared: bool) -> MemoryScope:
    return MemoryScope.of_agent(asker.tenant_id, asker.project_id, "" if shared else asker.agent)


def _told(text: str) -> str:
    """Give a text as it may be stored; raises `InputInvalid` for one that says nothing."""
    given = storable(text)
    if not given.strip():
        raise InputInvalid("ctx.memory was given a text of blanks: there is nothing in it to remember or to look for")
    return given


def _outcome(found: Sequence[Memory | Passage], made: Embedded) -> MemoryOutcome:
    return MemoryOutcome(value=[each.model_dump(mode="json") for each in found], usage=made.usage, model=made.model)
