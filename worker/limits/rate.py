"""Tickets at a rate limit: places in a line, grants, and what becomes of them. `limiter.lua` does the same in the same order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from worker.limits.base import Seen, Share
from worker.limits.numbers import SECOND, Numbers
from worker.limits.ranking import Ranking

#: How many overdue bookings and forgotten leases one visit puts in order.
_AT_ONCE, _PASSES = 32, 8
_IN_FLIGHT = 1000


@dataclass(slots=True)
class Entry:
    """One ticket in one bucket: booked until it is redeemed, then granted until it is settled. Times are microseconds."""

    kind: Literal["held", "booked"]
    weight: float
    #: The estimate that the weight was made of.
    amount: float
    #: Booked: its place. Granted: what the bucket held after it.
    mark: float
    since: float
    until: float
    #: What had been taken off by the provider's count when it was granted.
    lowered: float = 0.0

    @property
    def held(self) -> bool:
        return self.kind == "held"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a ticket stands in one bucket at this moment."""

    kind: Literal["held", "booked", "new"]
    #: Whether it may be granted now.
    fits: bool
    #: Microseconds until its place comes, and until the provider wants to be asked again.
    due: float = 0.0
    frozen: float = 0.0
    #: What is left after it, as a share of the limit.
    room: float = 0.0
    #: How long to wait at most where nothing can be booked yet; None where it can.
    patience: float | None = None
    #: How long to wait at most until the place has to be confirmed.
    horizon: float = 0.0


HOLDS = Standing("held", fits=True)


@dataclass(slots=True)
class RateBucket(Numbers):
    """One rate limit with its tickets. Every visit begins with `visit`, which brings it up to the moment."""

    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    line: Ranking = field(default_factory=Ranking)
    held: Ranking = field(default_factory=Ranking)

    def visit(self, share: Share, now: float, memory: float) -> None:
        """Bring it up to the moment; `memory` is when whoever keeps it began to remember."""
        self.weigh(share, now)
        if self.credit is None:
            # Nobody remembers it. What came in since the memory began is there, and at least the first call's weight.
            since = memory if self.window <= self.rules.long_window else -math.inf
            self.credit = max(self.weight, min(self.burst, self.rate * (now - since)))
            self.at = self.born = now
        else:
            top = self.demanded - self.open + max(self.burst, self.largest, self.weight)
            self.credit = min(self.credit + self.rate * max(0.0, now - self.at), top)
            self.at = max(self.at, now)
        self._reclaim(now)

    def standing(self, ticket: str, share: Share, now: float) -> Standing:
        """Tell whether a ticket may be redeemed, and how long it takes if nothing changes."""
        assert self.credit is not None
        entry = self.entries.get(ticket)
        if entry is not None and entry.held:
            if entry.until >= now:
                return HOLDS
            entry = None
        frozen = max(0.0, self.frozen - now)
        kind = "new" if entry is None else "booked"
        place = self.demanded + self.weight if entry is None else entry.mark
        slack = 0.0 if entry is None else self.slack
        due = max(0.0, (place - self.credit) / self.rate)
        if share.estimated:
            due += min(due * self.rules.later, self.burst * self.rules.latest / self.rate)
        fits = place - slack <= self.credit and frozen == 0
        room = (self.credit - self.demanded - self.weight) / self.limit
        rules, lasts = self.rules, now - self.busy if len(self.held) else 0.0
        horizon = rules.horizon if self.window <= rules.long_window else rules.long_horizon
        return Standing(kind, fits, due, frozen, room, self.patience(share, lasts), horizon)

    def grant(self, ticket: str, share: Share, now: float, until: float) -> None:
        """Redeem a booking, or take what nobody has booked."""
        assert self.credit is not None
        entry = self.entries.get(ticket)
        if entry is not None and entry.held and entry.until >= now:
            entry.until = until
            self.held.put(ticket, until)
            return
        if entry is not None and not entry.held:
            self.open -= entry.weight
            self.give(entry.weight - self.weight)
            self.line.drop(ticket)
            self._rest()
        else:
            self.demanded += self.weight
        if not len(self.held):
            self.busy = now
        self.entries[ticket] = Entry("held", self.weight, share.amount, self.level, now, until, self.lowered)
        self.held.put(ticket, until)

    def book(self, ticket: str, share: Share, now: float, until: float) -> None:
        """Take a place in the line, or keep it for longer."""
        entry = self.entries.get(ticket)
        if entry is not None and (not entry.held or entry.until >= now):
            if not entry.held:
                entry.until = until
            return
        self.held.drop(ticket)
        self.demanded += self.weight
        self.open += self.weight
        self.largest = max(self.largest, self.weight)
        self.entries[ticket] = Entry("booked", self.weight, share.amount, self.demanded, now, until)
        self.line.put(ticket, self.demanded)

    def leave(self, ticket: str) -> None:
        """Give up a booking: at the end of the line at once, else when its place has come, or those before it came too early."""
        entry = self.entries.get(ticket)
        if entry is None or entry.held:
            return
        if entry.mark < self.demanded:
            entry.until = 0.0
            return
        self.demanded -= entry.weight
        self.open -= entry.weight
        self.line.drop(ticket)
        del self.entries[ticket]
        self._rest()

    def settle(self, ticket: str, share: Share, used: float | None) -> None:
        """End a grant: what it used beyond its weight is a debt, what it did not use comes back."""
        entry = self._end(ticket)
        if entry is None:
            return
        self.ended += 1
        if used is not None and share.estimated:
            self.give(entry.weight - used)
            if used > 0:  # a call that has failed says nothing of what answers take
                self._learn(used, entry.amount)

    def release(self, ticket: str) -> None:
        """Undo a grant, or give up a booking."""
        self.leave(ticket)
        entry = self._end(ticket)
        if entry is not None:
            self.give(entry.weight)

    def renew(self, ticket: str, until: float) -> None:
        """Let a grant live on."""
        entry = self.entries.get(ticket)
        if entry is not None and entry.held:
            entry.until = until
            self.held.put(ticket, until)

    def adjust(self, ticket: str, share: Share, seen: Seen, now: float) -> None:
        """Believe what the provider says of the limit, and of what is left if that is less than we believe."""
        assert self.credit is not None
        if seen.limit is not None and seen.limit > 0 and seen.limit != self.told:
            self.told = seen.limit
            self.cut = 1.0
            self.weigh(share, now)
        entry = self.entries.get(ticket)
        if seen.remaining is not None and entry is not None and entry.held:
            # Both counts are of the moment of its grant: later calls, and earlier corrections, are in neither.
            excess = entry.mark - (self.lowered - entry.lowered) - seen.remaining
            if excess > self.limit * self.rules.doubt:
                self.credit -= excess
                self.lowered += excess

    def freeze(self, now: float, seconds: float) -> None:
        """Let nothing pass for so long, and nothing of what was saved up after it."""
        assert self.credit is not None
        self.credit = min(self.credit, self.demanded - self.open)
        self.frozen = max(self.frozen, now + seconds * SECOND)

    def distrust(self, ticket: str, now: float) -> None:
        """Take what is left for less than nothing, and believe less of the limit: once for all calls of the same time.

        The second refusal has measured: what was spent since the first is what has come in. A bucket that is young has
        hardly begun to count, and is told nothing of its limit.
        """
        assert self.credit is not None
        entry = self.entries.get(ticket)
        if entry is None or not entry.held or entry.since < self.frozen_at:
            return
        spent = self.demanded - self.open - self.returned
        if now - self.born >= self.rules.youth:
            trust = self.trust * self.rules.cut
            if self.frozen_at > 0 and now - self.frozen_at >= self.rules.measure:
                came_in = (spent - self.spent_at) / (now - self.frozen_at) * self.window / self.limit
                trust = max(trust, min(self.trust, came_in * self.rules.measured))
            self.cut = max(self.rules.least_cut, trust)
            self.cut_at = now
        self.frozen_at = now
        self.spent_at = spent
        self.credit -= self.limit * self.cut * self.rules.reserve

    def _reclaim(self, now: float) -> None:
        """Give to others what nobody has redeemed in time, and forget grants that nobody renews: what they took is used."""
        assert self.credit is not None
        for _ in range(_PASSES):
            late = [ticket for ticket in self.line.first(self.credit, _AT_ONCE) if self.entries[ticket].until < now]
            for ticket in late:
                entry = self.entries.pop(ticket)
                self.open -= entry.weight
                self.give(entry.weight)
                self.line.drop(ticket)
            if not late:
                break  # else what they gave may reach the next ones
        self._rest()
        for ticket in self.held.first(now - 1, _AT_ONCE):
            self.held.drop(ticket)
            del self.entries[ticket]

    def _learn(self, used: float, amount: float) -> None:
        self.used = self.used * self.rules.memory + used
        self.guessed = self.guessed * self.rules.memory + amount
        self.lessons += 1
        if self.lessons != self.rules.lessons:
            return
        # Whoever waits from now on is told when its turn is. What is in flight was overestimated: that would make it late.
        factor = self.factor_now() * self.rules.caution
        for ticket in self.held.first(math.inf, _IN_FLIGHT):
            entry = self.entries[ticket]
            weight = min(entry.weight, entry.amount * factor)
            self.give(entry.weight - weight)
            entry.weight = weight

    def _rest(self) -> None:
        if not len(self.line):
            self.open = 0.0
            self.largest = 0.0

    def _end(self, ticket: str) -> Entry | None:
        entry = self.entries.get(ticket)
        if entry is None or not entry.held:
            return None
        self.held.drop(ticket)
        return self.entries.pop(ticket)
