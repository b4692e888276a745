"""How many calls may be in flight, as numbers: `limiter.lua` does the same."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.limits.base import Share, State
from worker.limits.ranking import Ranking
from worker.limits.rate import HOLDS, Standing
from worker.limits.rules import RULES, Rules


@dataclass(slots=True)
class SlotBucket:
    """One limit of concurrency: leases that end by themselves. A free place goes to whoever asks first.

    When a place becomes free nobody knows, so a wait is an estimate: those who wait are told times that are as far from each
    other as calls end one after the other.
    """

    rules: Rules = field(default_factory=lambda: RULES)
    #: How long a call takes, in the mean; 0 until one has ended.
    hold: float = 0.0
    #: The last time that anybody was told to come back.
    next: float = 0.0
    since: dict[str, float] = field(default_factory=dict[str, float])
    held: Ranking = field(default_factory=Ranking)
    limit: float = 1.0
    taken: int = 0

    def visit(self, share: Share, now: float) -> None:
        """Bring it up to the moment."""
        self.limit = share.bucket.limit
        for ticket in self.held.first(now - 1, len(self.held)):
            self._drop(ticket)
        self.taken = len(self.held)

    def standing(self, ticket: str, now: float) -> Standing:
        """Tell whether a ticket has a place or may take one, and when to ask again else."""
        if ticket in self.since:
            return HOLDS
        room = (self.limit - self.taken - 1) / self.limit
        due = 0.0
        if room < 0:
            gap = (self.hold if self.hold > 0 else self.rules.first_hold) / self.limit
            due = min(max(max(self.next, now) + gap - now, self.rules.least_gap), self.rules.horizon)
        return Standing("new", room >= 0, due, room=room, horizon=self.rules.horizon)

    def grant(self, ticket: str, now: float, until: float) -> None:
        """Take a place."""
        if ticket not in self.since:
            self.since[ticket] = now
        self.held.put(ticket, until)

    def settle(self, ticket: str, now: float) -> None:
        """Give a place back."""
        since = self.since.get(ticket)
        if since is None:
            return
        self._drop(ticket)
        lasted = now - since
        self.hold = lasted if not self.hold > 0 else self.hold + self.rules.hold_weight * (lasted - self.hold)

    def release(self, ticket: str) -> None:
        """Give a place back of which nothing can be learned."""
        self._drop(ticket)

    def renew(self, ticket: str, now: float, until: float) -> None:
        """Keep a place; takes it again where it is forgotten, since the call is in flight all the same."""
        self.grant(ticket, now, until)

    def state(self, key: str, taken: int) -> State:
        """Give it as people see it, with what is in flight now."""
        gap = self.hold / self.limit / 1_000_000
        full = taken + 1 > self.limit
        return State(key, self.limit, self.limit - taken, taken, gap if full else 0.0, 0.0, None, 1.0)

    def in_flight(self, now: float) -> int:
        """Count the leases that have not ended."""
        return len(self.held) - len(self.held.first(now - 1, len(self.held)))

    def _drop(self, ticket: str) -> None:
        self.since.pop(ticket, None)
        self.held.drop(ticket)
