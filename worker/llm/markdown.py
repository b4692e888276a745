"""The prose of a Markdown text: paragraphs without code, tables, links' targets and markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"\s*(?:[-=_*]\s*){3,}")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+(?:\[[ xX]\]\s+)?")
_QUOTE = re.compile(r"^\s{0,3}>\s?")
_IMAGE = re.compile(r"!\[[^\[\]\n]*\]\([^()\s]*(?:\s\"[^\"\n]*\")?\)")
_LINK = re.compile(r"\[([^\[\]\n]*)\](?:\([^()\s]*(?:\s\"[^\"\n]*\")?\)|\[[^\[\]\n]*\])")
_TAG = re.compile(r"<(?:/?[A-Za-z][^<>\n]*|!--[^<>\n]*--)>")
_EMPHASIS = re.compile(r"(?<![\w*_])[*_]{1,3}(?=[^\s*_])|(?<=[^\s*_])[*_]{1,3}(?![\w*_])")
_CODE = re.compile(r"`+([^`]*)`+")


def paragraphs(text: str) -> Iterator[str]:
    """Give each paragraph, heading and list item as one line of plain text."""
    lines: list[str] = []
    for line in _prose_lines(text):
        starts = _HEADING.match(line) or _ITEM.match(line)
        if lines and (starts or not line.strip()):
            yield _plain(" ".join(lines))
            lines = []
        if line.strip():
            lines.append((line[starts.end() :] if starts else line).strip())
        if lines and _HEADING.match(line):
            yield _plain(lines.pop())
    if lines:
        yield _plain(" ".join(lines))


def _prose_lines(text: str) -> Iterator[str]:
    """Give the lines that hold prose; what else there was becomes an empty line, which separates paragraphs."""
    fence = ""
    for raw in text.splitlines():
        if not raw or raw.isspace():
            yield ""
            continue
        line = _QUOTE.sub("", raw, count=1)
        found = _FENCE.match(line)
        if found and (not fence or (found[1].startswith(fence) and line.strip() == found[1])):
            fence = "" if fence else found[1]
            yield ""
        elif fence or _is_table_row(line) or _RULE.fullmatch(line):
            yield ""
        else:
            yield line


def _is_table_row(line: str) -> bool:
    row = line.strip()
    return row.startswith("|") and row.count("|") > 1


def _plain(line: str) -> str:
    # Every other piece is inline code, which is no markup whatever it looks like.
    pieces = _CODE.split(line)
    pieces[::2] = map(_without_markup, pieces[::2])
    return " ".join("".join(pieces).split())


def _without_markup(text: str) -> str:
    return _EMPHASIS.sub("", _TAG.sub("", _LINK.sub(r"\1", _IMAGE.sub("", text))))
