"""What a rate limit is in numbers: pure arithmetic, which `limiter.lua` does in the same order.

`credit` is all that has ever come in, `demanded` all that was ever booked, `open` what of that has not been redeemed. A
booking's place is `demanded` with its own weight: it may be redeemed when credit has come so far. Credit is at most one
burst beyond what was redeemed or lost (`demanded - open`), so whoever comes late finds no more than a bucket holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from worker.limits.base import Share, State
from worker.limits.rules import RULES, Rules

SECOND = 1_000_000.0
#: By then trust is whole again, and the power of no age overflows.
_MOST_STEPS = 64


@dataclass(slots=True)
class Numbers:
    """One rate limit without its tickets: what has come in and was booked, and what we believe of limit and estimates."""

    rules: Rules = field(default_factory=lambda: RULES)
    #: None for one that nobody remembers.
    credit: float | None = None
    demanded: float = 0.0
    open: float = 0.0
    #: The heaviest booking in the line; when credit was last brought up to the moment.
    largest: float = 0.0
    at: float = 0.0
    #: Until when nothing may pass; when the provider last refused what our book had let pass.
    frozen: float = 0.0
    frozen_at: float = 0.0
    #: The limit by the provider's headers, 0 before the first; how much of a limit was believed after a refusal, and when.
    told: float = 0.0
    cut: float = 1.0
    cut_at: float = 0.0
    #: Fading sums of what calls have used, and of what was estimated for them.
    used: float = 0.0
    guessed: float = 0.0
    #: What the provider's counts have taken off in all.
    lowered: float = 0.0
    #: Since when it is remembered; how many calls have ended since, and how many of those have told what they used.
    born: float = 0.0
    ended: float = 0.0
    lessons: float = 0.0
    #: What was booked and came back all the same; what had been spent at the last refusal.
    returned: float = 0.0
    spent_at: float = 0.0
    #: Since when calls are in flight without a break.
    busy: float = 0.0
    # What follows from the state, the share that is asked for, and the time.
    limit: float = 0.0
    trust: float = 1.0
    rate: float = 0.0
    window: float = 0.0
    burst: float = 0.0
    weight: float = 0.0
    slack: float = 0.0
    factor: float = 1.0

    @property
    def level(self) -> float:
        """What could be redeemed now, if somebody had booked it."""
        return (self.credit or 0.0) - (self.demanded - self.open)

    def too_large(self, share: Share) -> float | None:
        """Give the weight of a share that no wait makes possible, else None."""
        weight = min(share.amount, share.amount * self.factor, math.inf if share.most is None else share.most)
        sure = not share.bucket.assumed or self.told > 0
        return weight if sure and weight > self.limit else None

    def weigh(self, share: Share, now: float) -> None:
        """Set what follows from the numbers for a share at a moment: the limit that holds, its rate, what the share weighs."""
        rules, bucket = self.rules, share.bucket
        self.limit = bucket.limit
        if self.told > 0:
            self.limit = self.told if bucket.assumed else min(self.told, bucket.limit)
        self.trust = 1.0
        if self.cut < 1:
            steps = min(_MOST_STEPS, math.floor((now - self.cut_at) / rules.regrow_after))
            self.trust = min(1.0, self.cut * rules.regrow**steps)
        seconds = bucket.dimension.window_seconds
        assert seconds is not None
        self.window = seconds * SECOND
        believed = self.limit * self.trust
        self.rate = believed * (1 - rules.safety) / self.window
        saved = 1.0 if bucket.burst_seconds is None else min(1.0, bucket.burst_seconds / seconds)
        kept = min(rules.saved, max(rules.least_saved, 1 - rules.delay / (self.window * saved)))
        self.burst = believed * kept * saved
        self.slack = self.limit * rules.rounding
        self.factor = 1.0
        if share.estimated:
            self.slack = self.burst * rules.slack
            self.factor = self.factor_now()
        weight = share.amount * self.factor
        if share.most is not None:
            weight = min(weight, share.most)
        self.weight = min(weight, self.limit)

    def factor_now(self) -> float:
        """Give what calls use of what was estimated, with a margin that shrinks as calls end."""
        rules = self.rules
        if not self.guessed > 0:
            return rules.first_factor
        factor = self.used / self.guessed
        if self.lessons < rules.lessons:
            factor = factor * (1 + (rules.first_factor - 1) / self.lessons)
        return min(rules.most_factor, max(rules.least_factor, factor))

    def patience(self, share: Share, lasts: float) -> float | None:
        """Until some calls have ended, nobody knows what calls take, or which limit holds: a line would be wrong.

        `lasts` is for how long calls are in flight.
        """
        taught = not share.estimated or self.lessons >= self.rules.lessons or self.ended >= self.rules.endings
        if taught and (self.ended > 0 or not share.bucket.assumed):
            return None
        return min(max(self.rules.patience, lasts), self.rules.horizon)

    def give(self, weight: float) -> None:
        """Let come in what was booked and not used; less than nothing is a debt."""
        assert self.credit is not None
        self.credit += weight
        self.returned += weight

    def state(self, key: str, now: float, waiting: int) -> State:
        """Give a bucket as people see it, brought up to the moment."""
        credit = (self.credit or 0.0) + self.rate * max(0.0, now - self.at)
        left = min(credit, self.demanded - self.open + max(self.burst, self.largest)) - self.demanded
        return State(
            key=key,
            limit=self.limit,
            left=left,
            tickets=waiting,
            wait_seconds=max(0.0, -left / self.rate, self.frozen - now) / SECOND,
            frozen_seconds=max(0.0, self.frozen - now) / SECOND,
            factor=self.used / self.guessed if self.guessed > 0 else None,
            trust=self.trust,
        )
