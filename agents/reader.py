"""Takes plain text, Markdown or HTML apart: title, sections, statistics. It reads structure, so it asks no model."""

import re
from html.parser import HTMLParser
from typing import Literal

from pydantic import BaseModel

from worker.agent import BaseAgent, Context, offline

_HTML = re.compile(r"<(?:!doctype\s+html|html|body|article|section|div|p|h[1-6]|ul|ol|table)\b", re.IGNORECASE)
_HEADING = re.compile(r"\s{0,3}(#{1,6})\s+(.*)")
_CLOSING = re.compile(r"\s#+$")


class Document(BaseModel):
    text: str
    format: Literal["auto", "text", "markdown", "html"] = "auto"


class Section(BaseModel):
    """What stands under one heading; the text before the first one has no title."""

    title: str
    level: int
    text: str
    words: int


class Reading(BaseModel):
    text: str
    model: str
    title: str
    sections: list[Section]
    statistics: offline.Statistics


class Reader(BaseAgent):
    """Read a text, Markdown or HTML document: its plain content, sections and statistics."""

    CAPABILITIES = ("read",)

    def execute(self, data: Document, ctx: Context) -> Reading:  # noqa: ARG002 - no effect is needed
        is_html = data.format == "html" or (data.format == "auto" and _HTML.search(data.text[:2000]) is not None)
        text = tidy(html_to_markdown(data.text) if is_html else data.text)
        sections = split(text, headings=data.format != "text")
        return Reading(
            text=text,
            model="offline",
            title=next((section.title for section in sections if section.title), ""),
            sections=sections,
            statistics=offline.statistics(text),
        )


def tidy(text: str) -> str:
    lines = (line.rstrip() for line in text.replace("\ufeff", "").splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def split(text: str, *, headings: bool) -> list[Section]:
    """Split Markdown at its headings; a `#` inside a code fence is none."""
    found: list[tuple[str, int, list[str]]] = [("", 0, [])]
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        heading = _HEADING.match(line) if headings and not fenced else None
        if heading:
            found.append((_CLOSING.sub("", heading[2].strip()), len(heading[1]), []))
        else:
            found[-1][2].append(line)
    bodies = ((title, level, "\n".join(lines).strip()) for title, level, lines in found)
    return [
        Section(title=title, level=level, text=body, words=len(offline.words(body)))
        for title, level, body in bodies
        if title or body
    ]


def html_to_markdown(html: str) -> str:
    parser = _Content()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)


class _Content(HTMLParser):
    """Keeps what a reader sees, with headings and list items in Markdown's form."""

    _HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "title"})
    _BLOCKS = frozenset(
        {"p", "div", "section", "article", "header", "footer", "ul", "ol", "table", "blockquote", "pre"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the signature is HTMLParser's
        if tag in self._HIDDEN:
            self._hidden += 1
        elif re.fullmatch("h[1-6]", tag):
            self.parts.append(f"\n\n{'#' * int(tag[1])} ")
        elif tag in self._BLOCKS:
            self.parts.append("\n\n")
        elif tag in {"br", "tr", "li"}:
            self.parts.append("\n- " if tag == "li" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in self._BLOCKS or re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n")
        elif tag in {"td", "th"}:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data))
