"""The kit for searching: the best passages first, each with its source, from a folder or from whatever can search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from documents import memory_with

from orchestrator.errors import PluginInvalid
from worker.agent import AsyncContext, BaseAgent, Context, Search, ToolError
from worker.testing import MockLLM, call, run_agent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "harbours.md").write_text(
        "# Harbours\n\nShips need harbours. A harbour has a pilot, who knows its depths.\n"
    )
    (tmp_path / "bread.txt").write_text("Bread needs flour, water and time.\n" * 3)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "pilots.md").write_text("A pilot boards every ship that is longer than 80 metres.\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG pilot")
    return tmp_path


def test_the_best_passages_come_first_with_source_and_line(folder: Path) -> None:
    [search] = Search(str(folder)).tools
    told = search(query="Which ships need a pilot?")
    assert told.splitlines()[0] in ("harbours.md:1", "sub/pilots.md:1")
    assert "A pilot boards every ship" in told
    assert "Bread" not in search(query="pilot")
    assert search(query="harbour", limit=1).startswith("harbours.md:1\n")
    assert search.needs.folders == (str(folder),)


def test_nothing_found_is_told_to_the_model(folder: Path) -> None:
    [search] = Search(str(folder)).tools
    with pytest.raises(ToolError, match="nothing is found"):
        search(query="zeppelin")


def test_a_rare_word_counts_for_more_than_a_frequent_one(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.md").write_text("water " * 5 + ("glacier" if number == 7 else "river"))
    [search] = Search(str(tmp_path)).tools
    assert search(query="water of the glacier", limit=1).startswith("7.md:1\n")


def test_what_changes_is_found_the_next_time(folder: Path) -> None:
    [search] = Search(str(folder)).tools
    assert "boards" in search(query="boards")
    (folder / "sub" / "pilots.md").unlink()
    with pytest.raises(ToolError, match="nothing"):
        search(query="boards")
    (folder / "new.md").write_text("It boards again.")
    assert search(query="boards").startswith("new.md:1")


def test_no_link_leads_out_of_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "link.md").symlink_to(folder / "harbours.md")
    (inner / "own.md").write_text("Something else.")
    [search] = Search(str(inner)).tools
    with pytest.raises(ToolError, match="nothing"):
        search(query="harbours")


def test_a_long_document_is_cut_and_each_passage_says_its_line(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number} tells of things.\n" + "More words. " * 20 + "\n" for number in range(100)]
    paragraphs[60] = "Here stands the marzipan.\n"
    text = "\n".join(paragraphs)
    (tmp_path / "long.md").write_text(text)
    [search] = Search(str(tmp_path)).tools
    place, _, passage = search(query="marzipan", limit=1).partition("\n")
    begin = int(place.removeprefix("long.md:"))
    line = text[: text.index("marzipan")].count("\n") + 1
    assert "marzipan" in passage
    assert begin <= line <= begin + passage.count("\n")
    assert len(passage) < 2000


def test_a_line_without_an_end_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("word " * 20_000 + "needle")
    [search] = Search(str(tmp_path)).tools
    told = search(query="needle")
    assert "needle" in told
    assert len(told) < 2000


@dataclass(frozen=True)
class Found:
    source: str
    line: int
    text: str


class Library:
    def search(self, query: str, *, limit: int) -> Sequence[Found]:
        return [Found("shelf/3", 7, f"{query} x {limit}")]


def test_whatever_can_search_takes_the_place_of_a_folder() -> None:
    [search] = Search(searcher=Library(), name="library", about="the books of the library").tools
    assert search.name == "library"
    assert "Search the books of the library" in search.description
    assert search(query="tea", limit=2) == "shelf/3:7\ntea x 2"


def test_it_takes_a_folder_or_a_searcher() -> None:
    with pytest.raises(PluginInvalid, match="a folder of texts, a corpus or a searcher"):
        Search()
    with pytest.raises(PluginInvalid, match="a folder of texts, a corpus or a searcher"):
        Search("./docs", corpus="handbook")


class Clerk(BaseAgent):
    tools = (Search(corpus="handbook", about="the handbook"),)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"text": ctx.llm(data["text"])}


class AsyncClerk(BaseAgent):
    tools = Clerk.tools

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        return {"text": await ctx.llm(data["text"])}


@pytest.mark.parametrize("agent", [Clerk, AsyncClerk])
def test_a_corpus_that_was_ingested_takes_the_place_of_a_folder(tmp_path: Path, agent: type[BaseAgent]) -> None:
    memory = memory_with(tmp_path / "handbook", "handbook", ropes="Ships are moored with two ropes.")
    model = MockLLM([call("search", query="moored ships"), call("search", query="qqq")], "With two.")
    assert run_agent(agent, {"text": "How?"}, model=model, memory=memory) == {"text": "With two."}
    assert model.calls[0].tools[0].description.startswith("Search the handbook for a question")
    found, nothing = (message.text for message in model.calls[1].messages if message.role == "tool")
    assert found == "ropes.md:1\nShips are moored with two ropes."
    assert "nothing is found" in nothing
