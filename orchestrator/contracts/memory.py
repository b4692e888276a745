"""What agents remember: pieces of text with a vector each, conversations, and what is asked of both. Frozen values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, TypeAdapter

from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage
from orchestrator.errors import InputInvalid

#: The most characters of one piece: what every embedding model takes.
MOST_CHARACTERS = 20_000
#: The most that one question gives back, and that one conversation is given at once.
MOST_FOUND = 100
MOST_MESSAGES = 1_000
#: The most pieces that `Forget` names.
_MOST_NAMED = 1_000
_SHARED = "project"
_CORPUS = "corpus:"
_AGENT = "agent:"
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class _Late(Value):
    """A value whose validator is made when it is first needed: most workers and producers remember nothing."""

    model_config = ConfigDict(defer_build=True)


class MemoryKind(StrEnum):
    """`semantic`: what is so. `episodic`: what has happened. `procedural`: how something is done."""

    SEMANTIC = "semantic"
    EPISODIC = "episodic"
    PROCEDURAL = "procedural"


Kind = Literal["semantic", "episodic", "procedural"]


class MemoryScope(NamedTuple):
    """Whose memory: of an agent, shared by a project, or a corpus of documents. Nothing is ever found in another one."""

    tenant_id: str
    project_id: str
    name: str

    @classmethod
    def of_agent(cls, tenant_id: str, project_id: str, agent: str) -> Self:
        """Give that of an agent, or the one that agents of a project share where the name is empty."""
        return cls(tenant_id, project_id, f"{_AGENT}{agent}" if agent else _SHARED)

    @classmethod
    def of_corpus(cls, tenant_id: str, project_id: str, corpus: str) -> Self:
        """Give that of a corpus; raises `InputInvalid` for a name that is none."""
        return cls(tenant_id, project_id, f"{_CORPUS}{checked_name(corpus, 'a corpus')}")

    @classmethod
    def named(cls, tenant_id: str, project_id: str, name: str) -> Self:
        """Give that of a name as it is shown; raises `InputInvalid` for one that is none."""
        kind, colon, rest = name.partition(":")
        if name != _SHARED and (kind not in {"agent", "corpus"} or not colon):
            raise InputInvalid(f"{name[:50]!r} is nobody's memory: write agent:NAME, corpus:NAME or project")
        if name != _SHARED:
            checked_name(rest, f"an {kind}" if kind == "agent" else f"a {kind}")
        return cls(tenant_id, project_id, name)

    @property
    def corpus(self) -> str | None:
        """The name of the corpus; None for memory."""
        return self.name.removeprefix(_CORPUS) if self.name.startswith(_CORPUS) else None

    @property
    def told(self) -> str:
        """Whose it is, for people."""
        if self.name == _SHARED:
            return "what agents of the project share"
        kind, _, name = self.name.partition(":")
        return f"the corpus {name!r}" if kind == "corpus" else f"the memory of agent {name!r}"


@dataclass(frozen=True, slots=True)
class MemoryItem:
    """One piece: a memory, or a passage of a document, which has no `kind`.

    `vector` is packed as `orchestrator.contracts.vector` says, and `embedder` who made it, with its dimension. `source` is
    where it comes from: the run and task that remembered it, or the document, whose content `digest` stands for, and whose
    `line` it begins at. The store sets `created_at`.
    """

    id: str
    scope: MemoryScope
    text: str
    embedder: str
    vector: bytes = field(repr=False)
    kind: str = ""
    about: str | None = None
    source: str | None = None
    line: int | None = None
    digest: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search is for: what is nearest to `vector` of all that the same embedder has made."""

    embedder: str
    vector: bytes = field(repr=False)
    limit: int = 5
    kinds: tuple[str, ...] = ()
    about: str | None = None


class FoundItem(NamedTuple):
    """A piece and how near it is: 1 for the same direction, 0 for nothing in common. Its vector is left out."""

    item: MemoryItem
    score: float


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What is forgotten in time: what is older, what is more; None is no limit. Corpora are left alone by both."""

    age_seconds: float | None = None
    keep: int | None = None


class SessionRef(NamedTuple):
    """A conversation, by an id of the author's choice, of one agent in one project."""

    tenant_id: str
    project_id: str
    agent: str
    name: str


class StoredMessage(NamedTuple):
    """A message of a conversation as JSON text; its id lets it be kept once, however often that is asked for."""

    id: str
    body: str


# What people and agents are given ---------------------------------------------------------------------------------------


class Memory(_Late):
    """Something remembered. `score` is 0..1 for how near it is to what was asked, None where nothing was."""

    id: str
    text: str
    kind: Kind
    about: str | None = None
    #: Where it was remembered: `run id/task`.
    source: str | None = None
    created_at: datetime
    score: float | None = None


class Passage(_Late):
    """A part of a document: `source` is its path in the folder that was ingested, `line` where the part begins."""

    id: str
    corpus: str
    source: str
    line: int
    text: str
    created_at: datetime
    score: float | None = None


class MemorySummary(_Late):
    """How much a memory or a corpus holds. `whose` is `agent:NAME`, `project` or `corpus:NAME`."""

    whose: str
    items: int
    #: Of a corpus: how many documents its passages are of.
    documents: int | None = None
    #: Who has made the vectors, each with its dimension.
    embedders: tuple[str, ...]
    newest_at: datetime | None = None


class SessionSummary(_Late):
    """A conversation that is kept."""

    agent: str
    session: str
    messages: int
    used_at: datetime


class Ingested(_Late):
    """What became of a folder. Documents that were there already and are the same are `unchanged`."""

    corpus: str
    documents: int
    passages: int
    unchanged: int
    removed: int
    #: Files that were left out, and why.
    skipped: dict[str, str]
    embedder: str | None
    usage: Usage = Usage()


class Forgotten(_Late):
    """How much was forgotten."""

    forgotten: int


class Reembedded(_Late):
    """How many pieces have new vectors, and who has made them."""

    items: int
    embedder: str | None
    usage: Usage = Usage()


# What agents ask --------------------------------------------------------------------------------------------------------

_Limit = Annotated[int, Field(ge=1, le=MOST_FOUND)]
_Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class Remember(_Late):
    """Keep a text."""

    op: Literal["remember"] = "remember"
    text: _Text
    kind: Kind = "semantic"
    about: _Name | None = None
    shared: bool = False


class Recall(_Late):
    """Find what is nearest to a text in the agent's own memory, and if `shared` in that of the project too."""

    op: Literal["recall"] = "recall"
    query: _Text
    limit: _Limit = 5
    kinds: tuple[Kind, ...] = ()
    about: _Name | None = None
    shared: bool = False


class Forget(_Late):
    """Forget what is named, or all that is about something."""

    op: Literal["forget"] = "forget"
    ids: tuple[_Id, ...] = Field(default=(), max_length=_MOST_NAMED)
    about: _Name | None = None
    shared: bool = False


class Search(_Late):
    """Find what is nearest to a text in a corpus of documents."""

    op: Literal["search"] = "search"
    corpus: _Name
    query: _Text
    limit: _Limit = 5


class ReadSession(_Late):
    """Give the last messages of a conversation."""

    op: Literal["read"] = "read"
    session: _Name
    limit: int | None = Field(default=None, ge=1)


class AppendToSession(_Late):
    """Add messages to a conversation."""

    op: Literal["append"] = "append"
    session: _Name
    messages: tuple[dict[str, Any], ...] = Field(max_length=MOST_MESSAGES)


class ClearSession(_Late):
    """Forget a conversation."""

    op: Literal["clear"] = "clear"
    session: _Name


MemoryRequest = Annotated[
    Remember | Recall | Forget | Search | ReadSession | AppendToSession | ClearSession, Field(discriminator="op")
]
memory_request: TypeAdapter[MemoryRequest] = TypeAdapter(MemoryRequest, config=ConfigDict(defer_build=True))


class MemoryOutcome(_Late):
    """What came of a request, as JSON, and what making vectors for it has used."""

    value: JsonValue
    usage: Usage = Usage()
    model: str | None = None


def checked_name(name: str, what: str) -> str:
    """Give a name that people and agents choose, if it is one; raises `InputInvalid`."""
    if not _NAME.fullmatch(name):
        raise InputInvalid(f"{name[:50]!r} is no name for {what}: give 1 to 200 characters in one line")
    return name


def shown(item: MemoryItem, score: float | None = None) -> Memory | Passage:
    """Give a piece as people and agents see it."""
    return _memory(item, score) if item.scope.corpus is None else _passage(item, score)


def _memory(item: MemoryItem, score: float | None) -> Memory:
    assert item.created_at is not None
    kind = MemoryKind(item.kind).value
    return Memory(
        id=item.id, text=item.text, kind=kind, about=item.about, source=item.source,
        created_at=item.created_at, score=score,
    )  # fmt: skip


def _passage(item: MemoryItem, score: float | None) -> Passage:
    assert item.created_at is not None
    return Passage(
        id=item.id, corpus=item.scope.corpus or "", source=item.source or "", line=item.line or 1, text=item.text,
        created_at=item.created_at, score=score,
    )  # fmt: skip


def shown_score(score: float) -> float:
    """Give a similarity as people and agents see it: 0..1, to four digits, the same on every store."""
    return round(min(1.0, max(0.0, score)), 4)


def summary_of(
    name: str, counts: Sequence[tuple[str, int]], documents: int, newest_at: datetime | None
) -> MemorySummary:
    """Sum up one memory of how many pieces each embedder has made there."""
    return MemorySummary(
        whose=name,
        items=sum(count for _, count in counts),
        documents=documents if name.startswith(_CORPUS) else None,
        embedders=tuple(sorted(embedder for embedder, _ in counts)),
        newest_at=newest_at,
    )
