"""Every fenced block of the documentation is carried out, and every link leads somewhere. See `pages.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.pages import ROOT, Block, Page, assert_alike, blocks_of, documents

PAGES = {path.relative_to(ROOT).as_posix(): blocks_of(path) for path in documents()}
BLOCKS = [block for blocks in PAGES.values() for block in blocks]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.*)$", re.MULTILINE)
_FENCED = re.compile(r"^( *)(`{3,}).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Page]]:
    made: dict[str, Page] = {}

    class Pages(dict[str, Page]):
        def __missing__(self, name: str) -> Page:
            folder = tmp_path_factory.mktemp(re.sub(r"\W", "-", name)) / "project"
            made[name] = self[name] = Page(PAGES[name], folder)
            return self[name]

    yield Pages()
    for page in made.values():
        page.close()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_of_the_documentation_holds(block: Block, pages: dict[str, Page]) -> None:
    pages[block.page].carry_out(block)


def test_there_are_blocks_of_every_kind() -> None:
    assert {"python", "bash", "console", "yaml", "toml", "mermaid"} <= {block.language for block in BLOCKS}
    assert any(block.marks.get("run") == "fleet" for block in BLOCKS)


@pytest.mark.parametrize("language", ["", "text", "javascript", "sql"])
def test_an_unmarked_block_that_nobody_would_execute_is_an_error(language: str, tmp_path: Path) -> None:
    block = Block("page.md", 1, language, "x\n", {})
    with pytest.raises(AssertionError, match="nobody would execute"):
        Page([block], tmp_path / "project").carry_out(block)


def test_a_block_that_fails_is_an_error(tmp_path: Path) -> None:
    blocks = [
        Block("page.md", 1, "python", "raise SystemExit(1)\n", {}),
        Block("page.md", 2, "bash", "false\n", {}),
        Block("page.md", 3, "yaml", "tasks: {a: {after: [b]}}\n", {}),
        Block("page.md", 4, "console", "$ echo one\ntwo\n", {}),
    ]
    page = Page(blocks, tmp_path / "project")
    for block in blocks:
        with pytest.raises(Exception, match=r"page\.md|block-3\.yaml"):
            page.carry_out(block)


def test_output_is_compared_up_to_ids_times_and_ellipses() -> None:
    printed = "run 01a1f8e6-864b-7e4e-96ea-96962d400000: demo\n  0.02 s  reader succeeded\n\nend\n"
    assert_alike("run 01a1f8e6-0000-7e4e-96ea-000000000000: demo\n   1.50 s  reader ...\n...\nend\n", printed, "here")
    with pytest.raises(AssertionError, match="here says"):
        assert_alike("run ...\nend\n", printed, "here")


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = _FENCED.sub("", path.read_text())
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in _anchors(found), f"{path.name}: {target}: there is no such heading"


def test_every_document_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path in seen or path.suffix != ".md":
            continue
        seen.add(path)
        names = [target.partition("#")[0] for target in _LINK.findall(path.read_text())]
        for found in ((path.parent / name).resolve() for name in names if name and ":" not in name):
            todo += sorted(found.glob("*.md")) if found.is_dir() else [found]
    written = {path for path in documents() if path.name != "benchmarks.md"}
    assert written <= seen, sorted(str(path) for path in written - seen)


def _anchors(path: Path) -> set[str]:
    """Give the anchors of a page's headings as GitHub makes them."""
    plain = (
        re.sub(r"[`*]", "", heading).strip().lower() for heading in _HEADING.findall(_FENCED.sub("", path.read_text()))
    )
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}
