"""What watchers are told of an answer that may have to be asked for again: nothing twice, and what turns out otherwise."""

from __future__ import annotations

from orchestrator.contracts.piece import Piece


class Telling:
    """The text that watchers have, and how far the try that is under way agrees with it."""

    def __init__(self, shown: str = "") -> None:
        self._shown = shown
        self._at = 0

    def begin(self) -> None:
        """Note that the text begins anew."""
        self._at = 0

    def tell(self, text: str) -> Piece | None:
        """Take the next text of the try; gives what watchers do not have, None while it is what they have."""
        known = self._shown[self._at : self._at + len(text)]
        same = _alike(known, text)
        self._at += same
        if same == len(text):
            return None
        return self._replaced_by(text[same:])

    def end(self) -> Piece | None:
        """Note that the text is whole; gives a piece that takes back what watchers have beyond it, None if they do not."""
        return None if self._at == len(self._shown) else self._replaced_by("")

    def _replaced_by(self, text: str) -> Piece:
        piece = Piece(self._at, text, restarted=self._at < len(self._shown))
        self._shown = self._shown[: self._at] + text
        self._at = len(self._shown)
        return piece


def _alike(one: str, other: str) -> int:
    """Give how many characters two texts begin with alike; the second one is not the shorter one."""
    if other.startswith(one):
        return len(one)
    return next(at for at, (here, there) in enumerate(zip(one, other, strict=False)) if here != there)
