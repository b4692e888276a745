"""Tickets by a number: what a sorted set is in Redis."""

from __future__ import annotations

from bisect import bisect_left, insort


class Ranking:
    """Tickets with a score each, lowest first; those of one score by name."""

    __slots__ = ("_order", "_scores")

    def __init__(self) -> None:
        self._order: list[tuple[float, str]] = []
        self._scores: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._order)

    def put(self, ticket: str, score: float) -> None:
        """Give a ticket its score, whatever it had before."""
        self.drop(ticket)
        self._scores[ticket] = score
        insort(self._order, (score, ticket))

    def drop(self, ticket: str) -> None:
        """Forget a ticket, if it is known."""
        score = self._scores.pop(ticket, None)
        if score is not None:
            del self._order[bisect_left(self._order, (score, ticket))]

    def first(self, most: float, count: int) -> list[str]:
        """Give the first tickets, of scores up to `most`."""
        found: list[str] = []
        for score, ticket in self._order[:count]:
            if score > most:
                break
            found.append(ticket)
        return found
