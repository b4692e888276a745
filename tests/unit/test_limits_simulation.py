"""What limits are worth, against a provider's own bucket in virtual time: used, not exceeded, and rarely slept through."""

from __future__ import annotations

import pytest
from limited import Fleet, Truth

from worker.limits.base import Bucket, Dimension
from worker.limits.memory import MemoryLimiter

#: Tokens per minute: twenty calls in a second.
LIMIT = 1_200_000.0
#: Seconds until a steady state: the burst of the first minute is over.
STEADY = 20


def fleet(callers: int = 200, **options: float) -> Fleet:
    return Fleet(Truth(LIMIT, LIMIT), callers, **options)  # pyright: ignore[reportArgumentType]


def most_in(fleet: Fleet, seconds: float) -> float:
    """Give what passed in the fullest window of so many seconds, as a share of what a bucket can let pass in it."""
    taken = fleet.truth.taken
    allowed = LIMIT * (1 + seconds / 60)
    most = total = 0.0
    begin = 0
    for at, weight in taken:
        total += weight
        while at - taken[begin][0] > seconds:
            total -= taken[begin][1]
            begin += 1
        most = max(most, total)
    return most / allowed


@pytest.mark.parametrize("misjudged", [1 / 3, 1, 3])
def test_a_limit_is_used_and_not_exceeded_however_wrong_the_estimates_are(misjudged: float) -> None:
    run = fleet(misjudged=misjudged)
    run.run(200)
    assert run.truth.refused == []
    assert run.utilisation(STEADY, 200) >= 0.95
    assert most_in(run, 60) <= 1.01
    assert run.wakes(0, 200) <= 1.2


@pytest.mark.parametrize("misjudged", [1 / 3, 1, 3])
def test_estimates_are_learned_within_seconds_from_an_empty_bucket(misjudged: float) -> None:
    """Without the burst that hides it: the provider's bucket is empty, and nobody remembers what calls use."""
    run = fleet(misjudged=misjudged)
    run.truth.level = 0
    run.limiter = MemoryLimiter(lambda: round(run.now * 1_000_000), memory=0.0)
    run.run(60)
    # The first call comes too soon: nobody knows of what was used before. Then calls take a second.
    assert len(run.truth.refused) <= 1
    settled = next(at for at, _ in run.truth.taken) + 1
    assert run.utilisation(settled + 5, 60) >= 0.95


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("callers", [150, 200, 250])
def test_a_limit_that_is_halved_unannounced_costs_one_refusal(callers: int, headers: bool) -> None:
    run = fleet(callers, headers=headers)
    run.run(90)
    run.truth.change(LIMIT / 2, announced=False)
    run.run(240)
    # Calls that are on their way together may be refused together.
    assert 1 <= len(run.truth.refused) <= 2
    assert run.truth.refused[-1] - run.truth.refused[0] < 0.1
    assert run.utilisation(run.truth.refused[0] + 5, 240) >= 0.95
    assert run.wakes(0, 240) <= 1.2


@pytest.mark.parametrize("callers", [150, 200, 250])
def test_a_limit_that_is_halved_announced_costs_nothing(callers: int) -> None:
    run = fleet(callers)
    run.run(90)
    run.truth.change(LIMIT / 2, announced=True)
    run.run(240)
    assert run.truth.refused == []
    assert run.utilisation(95, 240) >= 0.95
    assert run.wakes(0, 240) <= 1.2


@pytest.mark.parametrize("dying", [0.05, 0.2])
def test_those_who_die_waiting_cost_the_others_nothing(dying: float) -> None:
    run = fleet(400, dying=dying)
    run.run(300)
    assert run.truth.refused == []
    assert run.utilisation(60, 300) >= 0.95
    assert run.wakes(0, 300) <= 1.2


def test_an_outage_of_the_limiter_is_followed_by_no_burst_beyond_the_bucket() -> None:
    run = fleet(400)
    run.run(90)
    asleep = run.agenda
    run.agenda = [(at + 30, number, what) for at, number, what in asleep]  # nobody can ask for half a minute
    run.run(240)
    assert run.truth.refused == []
    assert run.utilisation(120, 240) >= 0.95


def test_a_line_of_minutes_is_used_too() -> None:
    run = fleet(3000, latency=2.0)
    run.run(300)
    assert run.truth.refused == []
    assert run.utilisation(60, 300) >= 0.95
    assert run.wakes(60, 300) <= 2.2  # a line as long as half the run: everybody's estimates have their say


@pytest.mark.parametrize("distance", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("seconds", [1, 1.5, 2, 5])
def test_a_provider_of_short_bursts_is_kept_to_with_its_own_figure_however_far_it_is(
    seconds: float, distance: float
) -> None:
    """Some are there at once, others up to `distance` later: they come upon what a full burst has left."""
    bucket = Bucket("model", Dimension.INPUT_TOKENS, LIMIT, provider=True, burst_seconds=seconds)
    truth = Truth(LIMIT, LIMIT, burst_seconds=seconds)
    run = Fleet(truth, 200, bucket=bucket, spread=0.1, distance=distance)
    run.run(120)
    assert run.truth.refused == []
    assert run.utilisation(10, 120) >= 0.95
