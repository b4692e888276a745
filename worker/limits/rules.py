"""The figures by which limits are kept: the same in the process and in Redis."""

from __future__ import annotations

from dataclasses import astuple, dataclass

_SECOND = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Rules:
    """Figures of the algorithm; times are microseconds. The order of the fields is that in which the script reads them."""

    #: Share of each limit that is left alone.
    safety: float = 0.01
    #: Share of a burst (of its whole window, a minute or a day, if no less is set) that an idle bucket may save up. What is
    #: missing to the whole forgives a limit that was lowered before we hear of it.
    saved: float = 0.95
    #: How far apart calls may arrive that were let pass together: so much of a burst is left too, where it is short. The late
    #: ones find a bucket that a full burst has emptied, and that was full, and could take nothing in, while they were under
    #: way. A burst of a second or two is no longer one without the share of it that is saved all the same.
    delay: float = _SECOND
    least_saved: float = 0.5
    #: A bucket of a longer window than this (a day) begins full, whoever has forgotten it: else a new installation waited for it.
    long_window: float = 3600 * _SECOND
    #: Share of what may be saved up by which a booking in a bucket of estimates may be redeemed before its place has come.
    slack: float = 0.02
    #: How much a booking in an exact bucket may be too early, as a share of the limit: what rounding takes.
    rounding: float = 1e-9
    #: How much later than its turn a ticket in a bucket of estimates is told to come, as a share of its wait, and at most as a
    #: share of what may be saved up: those before it may use a little more, and a second wait costs more than this.
    later: float = 0.02
    latest: float = 0.1
    #: Nobody is told to wait for longer, of windows longer than an hour than the second; who comes back then keeps the place.
    horizon: float = 300 * _SECOND
    long_horizon: float = 3600 * _SECOND
    #: How many calls must have told what they used until estimates are trusted (or ended, if none tells). Before, nothing is
    #: booked: who does not fit asks again after as long as calls are in flight by then, and at least this long.
    lessons: float = 10
    endings: float = 50
    patience: float = 2 * _SECOND
    #: What calls in flight are then believed to use of what calls like them have used: a few calls say little.
    caution: float = 1.3
    #: How late a booking may be redeemed until its weight goes to others.
    grace: float = 30 * _SECOND
    #: What estimates are multiplied with until the first call has told what it used.
    first_factor: float = 4.0
    least_factor: float = 0.001
    most_factor: float = 10.0
    #: How much of what was learned before counts after one more call.
    memory: float = 0.97
    #: What remains of a limit after the provider has refused a call that our book let pass; how that is undone.
    cut: float = 0.5
    least_cut: float = 1 / 64
    regrow: float = 1.25
    regrow_after: float = 300 * _SECOND
    #: How long a bucket must have counted until a refusal says something of the limit, and not of its beginning.
    youth: float = 60 * _SECOND
    #: How far two refusals must be apart for what was spent between them to be a measurement, and how much of it to trust.
    measure: float = 10 * _SECOND
    measured: float = 0.97
    #: Share of the limit that is held back after a refusal: what calls in flight may use beyond their estimates.
    reserve: float = 0.04
    #: How far the provider's count of what is left may be below ours, as a share of the limit, before we take its.
    doubt: float = 0.02
    #: A call's duration until one was seen, and the weight of one more in the mean.
    first_hold: float = _SECOND
    #: The shortest wait for a place in flight: calls may take longer than those before.
    least_gap: float = 0.1 * _SECOND
    hold_weight: float = 0.1

    def figures(self) -> tuple[float, ...]:
        """Give the figures in the order of the fields."""
        return astuple(self)


RULES = Rules()
