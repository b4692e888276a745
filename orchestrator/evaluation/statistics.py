"""What a few cases show, and how far chance would go. Pure, and the same figures each time.

Wilson's interval of a share: Wilson, JASA 22 (1927). Newcombe's of a difference of two shares: Statistics in Medicine 17
(1998), method 10. Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. McNemar's
exact test of paired outcomes: the binomial test of the pairs that differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from orchestrator.clock import chance
from orchestrator.contracts.evaluation import Interval

#: The 97.5 % point of the normal distribution: intervals hold for 95 of 100 samples.
_Z = 1.959963984540054
_RESAMPLES = 2000
_SEED = "nightfleet.evaluation"
#: With fewer cases a bootstrap interval is much too narrow to be told.
FEWEST = 5


def wilson(successes: int, of: int) -> Interval | None:
    """Give the interval of a share of successes; None of nothing."""
    if not of:
        return None
    share = successes / of
    centre = share + _Z**2 / (2 * of)
    spread = _Z * math.sqrt(share * (1 - share) / of + _Z**2 / (4 * of**2))
    scale = 1 + _Z**2 / of
    return _interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> Interval | None:
    """Give the interval of the second share of (successes, of) less the first; None where one is of nothing."""
    one, two = wilson(*first), wilson(*second)
    if one is None or two is None:
        return None
    before, after = first[0] / first[1], second[0] / second[1]
    difference = after - before
    down = math.hypot(after - two.low, one.high - before)
    up = math.hypot(two.high - after, before - one.low)
    return _interval(difference - down, difference + up)


def bootstrap(values: Sequence[float]) -> Interval | None:
    """Give the interval of the mean of some values, of paired differences say; None of fewer than `FEWEST`."""
    if len(values) < FEWEST:
        return None
    numbers = chance(_SEED)
    means = sorted(fmean(numbers.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return _interval(means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1])


def mcnemar(gained: int, lost: int) -> float | None:
    """Give how probable so uneven a split of changed outcomes is, where both directions are alike; None of no change."""
    changed = gained + lost
    if not changed:
        return None
    tail = sum(math.comb(changed, number) for number in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Give the value that `share` of the values do not exceed (nearest rank), None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _interval(low: float, high: float) -> Interval:
    return Interval(low=round(low, 4), high=round(high, 4))
