"""A folder of documents becomes a corpus: read, cut into passages, given vectors, and kept in place of what was there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.contracts.jsonvalue import storable
from orchestrator.contracts.memory import Ingested, MemoryItem, MemoryScope
from orchestrator.contracts.usage import Usage
from orchestrator.errors import InputInvalid
from worker.memory.base import Embed, Embedded, MemoryStore, is_of
from worker.memory.chunking import Chunk, chunks
from worker.memory.manager import derived_id

PATTERNS = ("*.md", "*.markdown", "*.txt", "*.rst")
#: How many texts a model is asked for at once, and the size of the largest document.
BATCH = 64
MOST_BYTES = 10_000_000
#: Changes when documents are cut in another way: then all of them are read anew.
_FORM = "1"


@dataclass(frozen=True, slots=True)
class Document:
    """A file of a folder by its path in there, with `/` on every system; `text` is None where it is left out."""

    source: str
    text: str | None
    reason: str = ""

    @property
    def digest(self) -> str:
        """What stands for its content."""
        return hashlib.sha256(f"{_FORM}:{self.text}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Ingestion:
    """Puts folders into one corpus; `model` is the one that `embed` asks. `seen` is told of each document."""

    store: MemoryStore
    scope: MemoryScope
    embed: Embed
    model: str
    seen: Callable[[str, int], None]

    def run(self, folder: Path, patterns: Sequence[str] = PATTERNS) -> Ingested:
        """Keep the documents of a folder and forget those of the corpus that it has no more; the same ones are left alone.

        Each document is kept as a whole, so this can be cut off at any moment and run again. Raises `InputInvalid`.
        """
        found = list(documents(folder, patterns))
        known = self.store.documents(self.scope)
        kept = {document.source for document in found if document.text is not None}
        if not kept:
            raise InputInvalid(f"{folder} holds no document ({', '.join(patterns)}): the corpus is left as it is")
        changed = [each for each in found if each.text is not None and not self._is_known(each, known)]
        usage, passages, embedder = Usage(), 0, next((who for _, who in known.values()), None)
        for group in _groups(changed):
            made = self._keep(group)
            usage, passages, embedder = usage + made.usage, passages + len(made.vectors), made.embedder
        gone = sorted(known.keys() - kept)
        for source in gone:
            self.store.put_document(self.scope, source, [])
        return Ingested(
            corpus=self.scope.corpus or "",
            documents=len(kept),
            passages=passages,
            unchanged=len(kept) - len(changed),
            removed=len(gone),
            skipped={each.source: each.reason for each in found if each.text is None},
            embedder=embedder,
            usage=usage,
        )

    def _is_known(self, document: Document, known: dict[str, tuple[str, str]]) -> bool:
        digest, embedder = known.get(document.source, ("", ""))
        return digest == document.digest and is_of(embedder, self.model)

    def _keep(self, group: Sequence[tuple[Document, list[Chunk]]]) -> Embedded:
        """Keep documents whose vectors are made together."""
        made = embedded_in_batches([part.told for _, parts in group for part in parts], self.embed)
        vectors = iter(made.vectors)
        for document, parts in group:
            items = [
                self._item(document, number, part, made.embedder, next(vectors)) for number, part in enumerate(parts)
            ]
            self.store.put_document(self.scope, document.source, items)
            self.seen(document.source, len(items))
        return made

    def _item(self, document: Document, number: int, part: Chunk, embedder: str, vector: bytes) -> MemoryItem:
        return MemoryItem(
            id=derived_id(f"{'/'.join(self.scope)}:{document.source}:{document.digest}:{number}"),
            scope=self.scope,
            text=part.told,
            embedder=embedder,
            vector=vector,
            source=document.source,
            line=part.line,
            digest=document.digest,
        )


def _groups(changed: Sequence[Document]) -> Iterator[list[tuple[Document, list[Chunk]]]]:
    """Give documents in parts, so many together as one question to a model may be about."""
    held: list[tuple[Document, list[Chunk]]] = []
    for document in changed:
        parts = chunks(document.text or "")
        if held and sum(len(each) for _, each in held) + len(parts) > BATCH:
            yield held
            held = []
        held.append((document, parts))
    if held:
        yield held


def embedded_in_batches(texts: Sequence[str], embed: Embed) -> Embedded:
    """Give the vectors of any number of texts, at least one, and what all of them have used."""
    made = [embed(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    vectors = tuple(vector for each in made for vector in each.vectors)
    return Embedded(vectors, made[0].model, sum((each.usage for each in made), Usage()))


def documents(folder: Path, patterns: Sequence[str]) -> Iterator[Document]:
    """Give every document of a folder, in the order of their paths; what begins with a dot is left alone.

    Links are followed to what lies in the folder, and not out of it. Raises `InputInvalid` where there is no such folder.
    """
    if not folder.is_dir():
        raise InputInvalid(f"{folder} is no folder: give one that holds documents ({', '.join(patterns)})")
    root = folder.resolve()
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern)}):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or path.is_dir():
            continue
        yield _read(path, inside.as_posix(), root)


def _read(path: Path, source: str, root: Path) -> Document:
    try:
        if not path.resolve().is_relative_to(root):
            return Document(source, None, "a link that leads out of the folder")
        if path.stat().st_size > MOST_BYTES:
            return Document(source, None, f"larger than {MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        return Document(source, None, error.strerror or type(error).__name__)
    except UnicodeDecodeError:
        return Document(source, None, "no UTF-8")
    if not text.strip():
        return Document(source, None, "empty")
    return Document(source, storable(text))
