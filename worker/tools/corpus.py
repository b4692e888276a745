"""A folder of texts that can be searched by their words: BM25 over passages, in memory."""

from __future__ import annotations

import math
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

from orchestrator.errors import ToolError
from worker.tools.sandbox import Entry, Sandbox

#: How soon more of the same word counts for less, and how much a long passage is held back.
_SATURATION, _LENGTH = 1.2, 0.75
_PASSAGE_CHARACTERS = 800
_MOST_FILES = 20_000
_MOST_FILE_BYTES = 5_000_000
_MOST_BYTES = 50_000_000
_WORD = re.compile(r"\w+")
_ENDINGS = re.compile(r"(?<=\w{3})(ies|es|s)$")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A passage of a file: paragraphs up to about 800 characters."""

    source: str
    line: int
    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class _Index:
    """What the files held when they had these sizes and times."""

    stamp: frozenset[Entry]
    excerpts: Sequence[Excerpt]
    lengths: Sequence[int]
    #: For each word, in which excerpts it stands and how often.
    places: Mapping[str, Sequence[tuple[int, int]]]


class Corpus:
    """Searches the texts of a folder; thread-safe. Files that are no text in UTF-8, or over 5 MB, are left out."""

    def __init__(self, folder: str, kinds: Sequence[str]) -> None:
        self._sandbox = Sandbox(folder)
        self._kinds = tuple(kinds)
        self._lock = threading.Lock()
        self._index: _Index | None = None

    def search(self, query: str, *, limit: int) -> Sequence[Excerpt]:
        """Give the excerpts that have most of the rarest words of a query."""
        index = self._current()
        scores: dict[int, float] = defaultdict(float)
        mean = sum(index.lengths) / max(1, len(index.lengths))
        for word in set(words(query)):
            places = index.places.get(word, ())
            rarity = math.log(1 + (len(index.excerpts) - len(places) + 0.5) / (len(places) + 0.5))
            for number, count in places:
                held = _SATURATION * (1 - _LENGTH + _LENGTH * index.lengths[number] / mean)
                scores[number] += rarity * count * (_SATURATION + 1) / (count + held)
        # Of equals the first in the order of the files.
        best = nlargest(limit, scores.items(), key=lambda each: (each[1], -each[0]))
        found = ((index.excerpts[number], score) for number, score in best)
        return [Excerpt(each.source, each.line, each.text, round(score, 4)) for each, score in found]

    def _current(self) -> _Index:
        files = [each for each in self._sandbox.walk(_MOST_FILES) if each.path.endswith(self._kinds)]
        stamp = frozenset(files)
        with self._lock:
            if self._index is None or self._index.stamp != stamp:
                self._index = _made(stamp, list(self._excerpts(files)))
            return self._index

    def _excerpts(self, files: Sequence[Entry]) -> Iterator[Excerpt]:
        total = 0
        for file in sorted(files, key=lambda each: each.path):
            if file.size > _MOST_FILE_BYTES:
                continue
            total += file.size
            if total > _MOST_BYTES:
                raise ToolError(f"the documents have more than {_MOST_BYTES:,} bytes: they need a search of their own")
            try:
                text = self._sandbox.read(file.path, _MOST_FILE_BYTES).decode()
            except (ToolError, UnicodeDecodeError):
                continue  # gone in the meantime, or no text
            yield from _cut(file.path, text)


def words(text: str) -> list[str]:
    """Give the words of a text as they are compared: in small letters, and without the endings of plurals."""
    return [_ENDINGS.sub("", word) for word in _WORD.findall(text.casefold())]


def snippet(text: str, query: str, most: int) -> str:
    """Give what of a text stands around the first word that was asked for."""
    if len(text) <= most:
        return text
    wanted = set(words(query))
    first = next((each.start() for each in _WORD.finditer(text) if wanted.intersection(words(each[0]))), 0)
    begin = max(0, min(first - most // 4, len(text) - most))
    return f"{'…' if begin else ''}{text[begin : begin + most]}{'…' if begin + most < len(text) else ''}"


def _made(stamp: frozenset[Entry], excerpts: Sequence[Excerpt]) -> _Index:
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    lengths: list[int] = []
    for number, excerpt in enumerate(excerpts):
        # The name of a document says what it is about.
        said = words(f"{excerpt.source} {excerpt.text}")
        lengths.append(len(said))
        for word, count in Counter(said).items():
            places[word].append((number, count))
    return _Index(stamp, excerpts, lengths, dict(places))


def _cut(source: str, text: str) -> Iterator[Excerpt]:
    """Cut a text between its lines, at blank ones where there are some."""
    begin, held, size = 1, list[str](), 0
    for number, line in enumerate(text.splitlines(), 1):
        full = size >= _PASSAGE_CHARACTERS
        if full or (size >= _PASSAGE_CHARACTERS // 2 and not line.strip()):
            yield Excerpt(source, begin, "\n".join(held).strip())
            held, size = [], 0
        if not held:
            if not line.strip():
                continue
            begin = number
        # A line without an end is cut as it comes.
        for part in [
            line[at : at + 4 * _PASSAGE_CHARACTERS] for at in range(0, len(line) or 1, 4 * _PASSAGE_CHARACTERS)
        ]:
            if size >= 4 * _PASSAGE_CHARACTERS:
                yield Excerpt(source, begin, "\n".join(held).strip())
                held, size, begin = [], 0, number
            held.append(part)
            size += len(part)
    if any(line.strip() for line in held):
        yield Excerpt(source, begin, "\n".join(held).strip())
