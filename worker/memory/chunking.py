"""Documents in parts that are small enough to be found, and large enough to be understood: pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: A part is closed before it has more characters than this; a heading closes one that has at least the second number.
MOST_CHARACTERS = 1_200
_ENOUGH_CHARACTERS = 300

_HEADING = re.compile(r"#{1,6} +(?P<title>\S.*)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document; `line` is that of its first character, from 1. `heading` is the last one before it, if any."""

    text: str
    line: int
    heading: str | None = None

    @property
    def told(self) -> str:
        """The text, under the heading where it stands: what it is found by, and what is read of it."""
        return self.text if self.heading is None or self.heading in self.text else f"{self.heading}\n\n{self.text}"


def chunks(text: str, most: int = MOST_CHARACTERS) -> list[Chunk]:
    """Give the parts of plain text or Markdown, in order: whole paragraphs where they fit, and nothing left out."""
    found: list[Chunk] = []
    held: list[_Block] = []
    heading: str | None = None
    above: str | None = None
    for block in _blocks(text, most):
        size = sum(len(each.text) + 2 for each in held)
        if held and (size + len(block.text) > most or (block.heading is not None and size >= _ENOUGH_CHARACTERS)):
            found.append(_joined(held, above))
            held = []
        if not held:
            above = None if block.heading else heading
        held.append(block)
        heading = block.heading or heading
    if held:
        found.append(_joined(held, above))
    return found


@dataclass(frozen=True, slots=True)
class _Block:
    text: str
    line: int
    heading: str | None = None


def _joined(blocks: list[_Block], heading: str | None) -> Chunk:
    return Chunk("\n\n".join(block.text for block in blocks), blocks[0].line, heading)


def _blocks(text: str, most: int) -> Iterator[_Block]:
    """Give headings, paragraphs and fenced blocks; those that are too long in pieces."""
    for line, lines in _paragraphs(text):
        title = _HEADING.fullmatch(lines[0].strip()) if len(lines) == 1 else None
        body = "\n".join(lines).strip("\n")
        if len(body) <= most:
            yield _Block(body, line, title["title"] if title else None)
        else:
            yield from _pieces(lines, line, most)


def _paragraphs(text: str) -> Iterator[tuple[int, list[str]]]:
    """Give the number of the first line and the lines of what stands between blank lines; a fence and a heading stand alone."""
    held: list[str] = []
    begins, fence = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = _FENCE.match(line)
        if fence:
            held.append(line)
            if mark and mark[1].startswith(fence):
                yield begins, held
                held, fence = [], ""
            continue
        alone = _HEADING.fullmatch(line.strip()) is not None
        if held and (not line.strip() or mark or alone):
            yield begins, held
            held = []
        if line.strip():
            begins = begins if held else number
            held.append(line)
            fence = mark[1] if mark else ""
        if alone:
            yield begins, held
            held = []
    if held:
        yield begins, held


def _pieces(lines: list[str], first: int, most: int) -> Iterator[_Block]:
    """Give a long paragraph in pieces: between lines where that is possible, else between words."""
    held, begins = "", first
    for number, line in enumerate(lines, first):
        for part in _cut(line, most):
            if held and len(held) + len(part) + 1 > most:
                yield _Block(held, begins)
                held = ""
            begins = begins if held else number
            held = f"{held}\n{part}" if held else part
    if held:
        yield _Block(held, begins)


def _cut(line: str, most: int) -> Iterator[str]:
    while len(line) > most:
        at = line.rfind(" ", 1, most + 1)
        at = at if at > 0 else most
        yield line[:at]
        line = line[at:].lstrip(" ")
    yield line
