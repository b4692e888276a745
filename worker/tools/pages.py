"""Pages of the web as a model reads them: their text with its links, in one pass over whatever is there."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

#: What of a page is no text: from its tag to the end of it.
_SILENT = ("script", "style", "noscript", "template", "svg", "title", "head")
_BREAKS = re.compile(
    r"address|article|aside|blockquote|br|d[dlt]|div|figure|footer|form|h[1-6r]|header|li|main|nav|[ou]l|p|pre|section|t[dhr]|table"
)
_NAME = re.compile(r"</?([a-z][a-z0-9]{0,20})")
_HREF = re.compile(r"""\shref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,1000})", re.IGNORECASE)
_BLANKS = re.compile(r"[^\S\n]+")
_LONGEST_TAG = 1024
#: Other letters may become longer, and every place behind them another one.
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def readable(page: str) -> str:
    """Give the text of an HTML page, its title first; links stand behind their text in parentheses."""
    title = _TITLE.search(page)
    told = "".join(_told(page))
    lines = [_BLANKS.sub(" ", line).strip() for line in told.split("\n")]
    text = "\n".join(line for line in lines if line)
    return f"{_unescaped(title[1]).strip()}\n\n{text}" if title else text


def _told(page: str) -> Iterator[str]:
    low, at, link = page.translate(_LOWER), 0, ""
    while at < len(page):
        begin = page.find("<", at)
        yield _unescaped(page[at : begin if begin >= 0 else len(page)])
        if begin < 0:
            return
        found = _NAME.match(low, begin)
        if found is None and not low.startswith(("<!", "<?"), begin):
            yield "<"
            at = begin + 1
            continue
        at = _after(low, begin, "" if found is None else found[1])
        name = "" if found is None else found[1]
        if name == "a":
            closing = low.startswith("</", begin)
            yield f" ({link})" if closing and link else ""
            link = "" if closing else _link(page[begin:at])
        elif _BREAKS.fullmatch(name):
            yield "\n"


def _after(low: str, begin: int, name: str) -> int:
    """Give where it goes on after a tag, and after all that is said in silence."""
    if low.startswith("<!--", begin):
        end = low.find("-->", begin)
        return len(low) if end < 0 else end + 3
    if name in _SILENT and not low.startswith("</", begin):
        end = low.find(f"</{name}", begin)
        begin = len(low) if end < 0 else end
    end = low.find(">", begin)
    return len(low) if end < 0 else end + 1


def _link(tag: str) -> str:
    found = _HREF.search(tag[:_LONGEST_TAG])
    link = _unescaped(next(filter(None, found.groups()), "")) if found else ""
    return "" if link.startswith(("#", "javascript:", "data:", "mailto:")) else link


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a number with thousands of digits
        return text
