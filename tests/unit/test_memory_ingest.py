"""A folder becomes a corpus: what is read and what is left out, what is kept when it changes, and where a kill leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.contracts.memory import Ingested, MemoryScope
from orchestrator.errors import InputInvalid
from worker.memory.base import Embedded
from worker.memory.embedding import embed_offline
from worker.memory.ingest import BATCH, PATTERNS, Ingestion
from worker.memory.inmemory import InMemoryStore
from worker.memory.manager import MemoryManager

SCOPE = MemoryScope.of_corpus("tenant", "project", "manual")


class Corpus:
    """A folder and the corpus that is made of it; `asked` holds how many texts each question to the model was about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = InMemoryStore()
        self.asked: list[int] = []
        self.seen: list[tuple[str, int]] = []

    def embed(self, texts: Sequence[str]) -> Embedded:
        self.asked.append(len(texts))
        return embed_offline(texts)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def ingest(self, *patterns: str, model: str = "offline") -> Ingested:
        self.asked.clear()
        ingestion = Ingestion(
            self.store, SCOPE, self.embed, model, lambda source, count: self.seen.append((source, count))
        )
        return ingestion.run(self.folder, patterns or PATTERNS)

    @property
    def sources(self) -> list[str]:
        return sorted(self.store.documents(SCOPE))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "docs").mkdir()
    return Corpus(tmp_path / "docs")


def test_documents_become_passages_with_their_source_and_line(corpus: Corpus) -> None:
    corpus.write("guide/tea.md", f"# Tea\n\n{'Tea is brewed. ' * 60}\n\n# Pots\n\n{'Pots are glazed. ' * 60}\n")
    corpus.write("salt.txt", "Salt is traded.")
    made = corpus.ingest()
    assert (made.corpus, made.documents, made.passages, made.unchanged) == ("manual", 2, 3, 0)
    assert corpus.seen == [("guide/tea.md", 2), ("salt.txt", 1)]
    query = embed_offline(["glazed pots"])
    [best] = MemoryManager(corpus.store, None).nearest([SCOPE], query, limit=1)  # pyright: ignore[reportArgumentType]
    assert best.source == "guide/tea.md"
    assert best.model_dump()["line"] == 5
    assert best.text.startswith("# Pots")


def test_what_is_no_document_is_left_out_and_said_so(corpus: Corpus, tmp_path: Path) -> None:
    corpus.write("good.md", "good")
    corpus.write("empty.md", " \n")
    corpus.write("latin.txt", "Grüße".encode("latin-1"))
    corpus.write(".git/hidden.md", "hidden")
    corpus.write("picture.png", b"\x89PNG")
    corpus.write("large.txt", b"x" * 10_000_001)
    secret = tmp_path / "secret.md"
    secret.write_text("a secret")
    (corpus.folder / "link.md").symlink_to(secret)
    (corpus.folder / "inside.md").symlink_to(corpus.folder / "good.md")
    (corpus.folder / "gone.md").symlink_to(corpus.folder / "nothing")
    made = corpus.ingest()
    assert corpus.sources == ["good.md", "inside.md"]
    assert made.skipped == {
        "empty.md": "empty",
        "latin.txt": "no UTF-8",
        "large.txt": "larger than 10,000,000 bytes",
        "link.md": "a link that leads out of the folder",
        "gone.md": "No such file or directory",
    }


def test_what_has_not_changed_is_left_alone_and_what_is_gone_is_forgotten(corpus: Corpus) -> None:
    for name in ("a.md", "b.md", "c.md"):
        corpus.write(name, f"document {name}")
    corpus.ingest()
    corpus.write("b.md", "another document")
    (corpus.folder / "c.md").unlink()
    made = corpus.ingest()
    assert (made.documents, made.passages, made.unchanged, made.removed) == (2, 1, 1, 1)
    assert corpus.asked == [1]
    assert {item.text for item in corpus.store.list(SCOPE)} == {"document a.md", "another document"}
    assert corpus.ingest().passages == 0
    assert corpus.asked == []


def test_another_model_makes_all_vectors_anew(corpus: Corpus) -> None:
    corpus.write("a.md", "a document")
    corpus.ingest()
    assert corpus.ingest(model="openai:other").unchanged == 0


def test_equal_pieces_of_one_document_are_kept_each(corpus: Corpus) -> None:
    corpus.write("a.txt", "same " * 1000)
    made = corpus.ingest()
    assert made.passages > 3
    assert len(corpus.store.list(SCOPE, limit=100)) == made.passages


def test_small_documents_are_asked_for_together_and_large_ones_in_parts(corpus: Corpus) -> None:
    for number in range(100):
        corpus.write(f"{number:03}.txt", f"document {number}")
    corpus.write("large.md", "\n\n".join("word " * 200 for _ in range(150)))
    made = corpus.ingest()
    assert max(corpus.asked) <= BATCH
    assert sum(corpus.asked) == made.passages == 250
    assert len(corpus.asked) <= 6


def test_an_ingestion_that_was_cut_off_goes_on_where_it_was(corpus: Corpus) -> None:
    for number in range(3):
        corpus.write(f"{number}.md", "\n\n".join("word " * 200 for _ in range(40)))
    before, corpus.embed = corpus.embed, failing_at(corpus, 3)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt):
        corpus.ingest()
    assert corpus.sources == ["0.md", "1.md"]
    corpus.embed = before  # pyright: ignore[reportAttributeAccessIssue]
    assert corpus.ingest().unchanged == 2
    assert corpus.sources == ["0.md", "1.md", "2.md"]


def failing_at(corpus: Corpus, call: int) -> object:
    embed = corpus.embed

    def failing(texts: Sequence[str]) -> Embedded:
        if len(corpus.asked) + 1 == call:
            raise KeyboardInterrupt
        return embed(texts)

    return failing


def test_other_files_are_read_when_they_are_asked_for(corpus: Corpus) -> None:
    corpus.write("a.py", "print('ships')")
    corpus.write("b.md", "ships")
    assert corpus.ingest("*.py").documents == 1
    assert corpus.sources == ["a.py"]


def test_a_folder_without_documents_changes_nothing(corpus: Corpus) -> None:
    corpus.write("a.md", "a document")
    corpus.ingest()
    (corpus.folder / "a.md").unlink()
    with pytest.raises(InputInvalid, match="holds no document"):
        corpus.ingest()
    assert corpus.sources == ["a.md"]


def test_what_is_no_folder_is_an_error(corpus: Corpus) -> None:
    corpus.folder = corpus.folder / "nowhere"
    with pytest.raises(InputInvalid, match="is no folder"):
        corpus.ingest()
