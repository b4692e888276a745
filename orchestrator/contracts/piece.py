"""A piece of an answer's text as watchers are shown it, and what all pieces together say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that stands at `start`, in characters, and ends the answer so far; `restarted` takes back what stood from there on."""

    start: int
    text: str
    restarted: bool = False

    @property
    def end(self) -> int:
        """Where the next piece stands."""
        return self.start + len(self.text)


def whole(pieces: Iterable[Piece]) -> str:
    """Give the text that a reader of all pieces, in their order, has in the end."""
    text = ""
    for piece in pieces:
        text = text[: piece.start] + piece.text
    return text
