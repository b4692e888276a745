"""What a process remembers to have stored, so that a conversation costs what is new in it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.journal.encoding import Content, Link, Packed
from orchestrator.store.agent_runs import Claim

#: How many hashes and messages a process remembers.
_REMEMBERED = 20_000


@dataclass(slots=True)
class _OfClaim:
    """What one claim has stored: hashes, and by scope the conversation that it stored last."""

    hashes: set[str] = field(default_factory=set[str])
    links: dict[str, tuple[Link, ...]] = field(default_factory=dict[str, tuple[Link, ...]])

    @property
    def size(self) -> int:
        return len(self.hashes) + sum(map(len, self.links.values()))


class Stored:
    """Remembers by claim: another claim stores anew, for what is old may have been deleted meanwhile. Thread-safe.

    Bounded; what is forgotten is stored once more, which changes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: OrderedDict[tuple[str, int], _OfClaim] = OrderedDict()
        self._size = 0

    def links(self, claim: Claim, scope: str) -> tuple[Link, ...]:
        """Give the conversation that a claim has stored last in a scope."""
        with self._lock:
            known = self._claims.get((claim.id, claim.epoch))
            return () if known is None else known.links.get(scope, ())

    def missing(self, claim: Claim, contents: Sequence[Content]) -> list[Content]:
        """Give those of some contents that this claim has not stored, as far as is remembered."""
        with self._lock:
            known = self._claims.get((claim.id, claim.epoch))
            return [content for content in contents if known is None or content.hash not in known.hashes]

    def add(self, claim: Claim, packed: Packed) -> None:
        """Remember what is stored now."""
        if not packed.contents and not packed.links:
            return
        with self._lock:
            known = self._claims.setdefault((claim.id, claim.epoch), _OfClaim())
            before = known.size
            known.hashes.update(content.hash for content in packed.contents)
            if packed.links:
                known.links[packed.entry.slot.scope] = packed.links
            self._claims.move_to_end((claim.id, claim.epoch))
            self._size += known.size - before
            while self._size > _REMEMBERED and self._claims:
                self._size -= self._claims.popitem(last=False)[1].size
