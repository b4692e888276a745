"""What an error message shows beside its text: the word that was meant, what was found instead, and the place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from heapq import nsmallest
from textwrap import shorten
from typing import Any

#: difflib takes about 10 microseconds a word: a typo in a workflow of 20,000 tasks must not take a second to explain.
_CANDIDATES = 500
_SHOWN_CHARACTERS = 60


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give `, did you mean 'x'?` for the known word nearest to `word`, or no text where none is near."""
    likely = nsmallest(_CANDIDATES, known, key=lambda other: (other[:1] != word[:1], abs(len(other) - len(word))))
    nearest = get_close_matches(word, likely, n=1, cutoff=0.7)
    return f", did you mean {nearest[0]!r}?" if nearest else ""


def kind_of(value: Any) -> str:
    """Give what a value of a file is, in words; one that is short, as it is."""
    match value:
        case None:
            return "nothing"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return shorten(repr(value), 60)


def label_of(path: Iterable[str | int]) -> str:
    """Give a place in a file as text before a problem: `tasks.first.after[0]: `."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return f"{text.removeprefix('.')}: " if text else ""


def excerpt(line: str, column: int) -> str:
    """Give a line with a caret below a column (from 0), as text that goes on below a problem; none for a blank line."""
    first = max(0, column - _SHOWN_CHARACTERS)
    shown = "".join(
        character if character.isprintable() else " " for character in line[first:][: 2 * _SHOWN_CHARACTERS]
    )
    return f"\n      {shown.rstrip()}\n      {' ' * (column - first)}^" if shown.strip() else ""
