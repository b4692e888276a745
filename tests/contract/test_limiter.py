"""What every limiter does, in the process and in a real Redis, by a clock that the tests move."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest
import redis
from limiters import Desk, Hands, requests, slots, tokens

from orchestrator.errors import DemandTooLarge
from worker.limits.base import Acquire, Bucket, Demand, Dimension, Granted, Look, Release, Seen, Share, Wait
from worker.limits.memory import MemoryLimiter
from worker.limits.redis import RedisLimiter

MINUTE = 60.0


@pytest.fixture(params=["memory", "redis"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A limiter that has remembered for long, and the hands of its clock."""
    hands = Hands()
    if request.param == "memory":
        yield Desk(MemoryLimiter(hands), hands)
        return
    url, namespace = request.getfixturevalue("redis_url"), f"test-{secrets.token_hex(6)}"
    limiter = RedisLimiter(url, namespace, hands)
    limiter.begin()
    hands.move(3600)
    try:
        yield Desk(limiter, hands)
    finally:
        limiter.close()
        with redis.Redis.from_url(url) as client:
            client.delete(*client.scan_iter(f"{{{namespace}:limit}}*"))


# Rates ----------------------------------------------------------------------------------------------------------------


def test_an_idle_bucket_lets_a_burst_pass_and_keeps_a_margin(desk: Desk) -> None:
    assert desk.drain(requests(100)) == 95


def test_a_call_that_does_not_fit_is_told_exactly_when_its_turn_is(desk: Desk) -> None:
    share = requests(60)
    desk.drain(share)
    first, second = desk.wait(share, ticket="a"), desk.wait(share, ticket="b")
    assert first.seconds == pytest.approx(1 / 0.99, abs=0.001)
    assert second.seconds == pytest.approx(2 / 0.99, abs=0.001)
    assert (first.why, first.bucket) == ("rate", share.bucket)
    desk.hands.move(first.seconds)
    desk.must(share, ticket="a")
    assert isinstance(desk.ask(share, ticket="b"), Wait)


def test_who_comes_later_does_not_overtake_who_waits(desk: Desk) -> None:
    share = requests(60)
    desk.drain(share)
    wait = desk.wait(share, ticket="first")
    desk.hands.move(wait.seconds)
    assert isinstance(desk.ask(share, ticket="late"), Wait)
    desk.must(share, ticket="first")


def test_who_waits_wakes_once(desk: Desk) -> None:
    share = requests(600)
    desk.drain(share)
    waits = {f"w{number}": desk.wait(share, ticket=f"w{number}").seconds for number in range(30)}
    begin = desk.hands.at
    for ticket, seconds in waits.items():
        desk.hands.at = begin + round(seconds * 1_000_000)
        desk.must(share, ticket=ticket)


def test_a_call_beside_a_long_line_of_another_bucket_is_granted(desk: Desk) -> None:
    busy, idle = requests(60, "busy"), requests(60, "idle")
    desk.drain(busy)
    desk.wait(busy)
    desk.must(idle)


def test_all_buckets_of_a_demand_are_taken_at_once_or_none(desk: Desk) -> None:
    narrow, wide = requests(60, "narrow"), requests(6000, "wide")
    desk.drain(narrow)
    wait = desk.wait(narrow, wide)
    assert wait.bucket == narrow.bucket
    # Its place in the wide one is booked, so that it is there when the narrow one's turn comes.
    assert desk.state(wide.bucket).left == pytest.approx(5699)


def test_the_same_ticket_is_granted_once_however_often_it_asks(desk: Desk) -> None:
    share = requests(100)
    for _ in range(5):
        desk.must(share, ticket="same")
    assert desk.drain(share) == 94


def test_a_demand_that_takes_nothing_is_granted_without_a_bucket(desk: Desk) -> None:
    answer = desk.ask()
    assert isinstance(answer, Granted)
    desk.settle(answer)
    assert desk.limiter.ask(Look()) == ()


def test_what_no_wait_makes_possible_is_an_error_at_once_that_says_what_to_do(desk: Desk) -> None:
    with pytest.raises(
        DemandTooLarge, match=r"takes 2,000 of model, which has 1,000 tokens per minute: .*lower"
    ) as caught:
        desk.ask(tokens(1000, 2000))
    assert not caught.value.retryable
    assert caught.value.details["limit"] == 1000


def test_a_call_of_a_whole_minute_passes_alone(desk: Desk) -> None:
    share = tokens(1000, 1000)
    desk.must(share)
    desk.hands.move(desk.wait(share, ticket="again").seconds)
    desk.must(share, ticket="again")


def test_a_guessed_limit_is_no_reason_to_refuse_a_large_call(desk: Desk) -> None:
    desk.must(tokens(1000, 2000, assumed=True))


@pytest.mark.parametrize(("seconds", "calls"), [(1, 5), (2, 10), (4, 30), (10, 90), (60, 570)])
def test_of_a_short_burst_a_second_is_left_for_calls_that_arrive_late_and_half_of_it_at_most(
    desk: Desk, seconds: float, calls: int
) -> None:
    assert desk.drain(requests(600, burst_seconds=seconds)) == calls


def test_until_calls_have_told_what_they_use_who_waits_asks_again_the_later_the_longer_they_take(desk: Desk) -> None:
    share = tokens(6000, 1000, estimated=True)
    desk.must(share)
    waits: list[float] = []
    for _ in range(4):
        waits.append(desk.wait(share).seconds)
        desk.hands.move(waits[-1])
    assert waits == [2, 2, 4, 8]


def test_a_limit_that_was_not_used_for_long_lets_nobody_wait_for_long(desk: Desk) -> None:
    share = tokens(6000, 1000, estimated=True)
    desk.settle(desk.must(share), {Dimension.TOKENS: 1000})
    desk.hands.move(3600)
    assert desk.drain(share) == 1
    assert desk.wait(share).seconds == 2


def test_requests_of_a_day_come_in_over_the_day(desk: Desk) -> None:
    share = Share(Bucket("model", Dimension.DAILY_REQUESTS, 100))
    assert desk.drain(share) == 95
    desk.hands.move(10 * 864 / 0.99 + 1)
    assert desk.drain(share) == 10
    waits = [desk.wait(share).seconds for _ in range(10)]
    assert waits[-1] == 3600  # a wait of hours is confirmed by the hour


def test_nobody_is_told_to_wait_longer_than_five_minutes_and_places_are_kept(desk: Desk) -> None:
    share = requests(1)
    desk.must(share)
    waits = [desk.wait(share, ticket=f"w{number}").seconds for number in range(10)]
    assert max(waits) == 300
    desk.hands.move(300)
    places = [desk.wait(share, ticket=f"w{number}").seconds for number in (7, 8, 9)]
    # Those of the first four minutes have not come, and the fifth may go now.
    assert places == pytest.approx([3 * MINUTE / 0.99, 4 * MINUTE / 0.99, 300], abs=0.1)


# What calls really use ------------------------------------------------------------------------------------------------


def test_what_a_call_has_not_used_comes_back(desk: Desk) -> None:
    share = tokens(10_000, 1000, estimated=True)
    granted = desk.must(share)
    before = desk.state(share.bucket).left
    desk.settle(granted, {Dimension.TOKENS: 200})
    assert desk.state(share.bucket).left == pytest.approx(
        before + 3800
    )  # a first call is taken for four times its estimate


def test_what_a_call_has_used_beyond_its_estimate_is_a_debt(desk: Desk) -> None:
    share = tokens(10_000, 1000, estimated=True)
    desk.settle(desk.must(share), {Dimension.TOKENS: 9500})
    assert desk.state(share.bucket).left == pytest.approx(0)
    assert desk.wait(share).seconds > 1


@pytest.mark.parametrize(("used", "factor"), [(300, 0.3), (3000, 3.0)])
def test_estimates_are_corrected_by_what_calls_have_used(desk: Desk, used: float, factor: float) -> None:
    share = tokens(10_000_000, 1000, estimated=True)
    for _ in range(20):
        desk.settle(desk.must(share), {Dimension.TOKENS: used})
    before = desk.state(share.bucket)
    desk.must(share)
    assert before.factor == pytest.approx(factor)
    assert desk.state(share.bucket).left == pytest.approx(before.left - used)


def test_calls_that_have_failed_and_used_nothing_say_nothing_of_what_answers_take(desk: Desk) -> None:
    share = tokens(10_000_000, 1000, estimated=True)
    for used in (*[300] * 20, *[0] * 50):
        desk.settle(desk.must(share), {Dimension.TOKENS: used})
    state = desk.state(share.bucket)
    assert state.factor == pytest.approx(0.3)
    desk.must(share)
    assert desk.state(share.bucket).left == pytest.approx(state.left - 300)


def test_an_estimate_is_never_taken_for_more_than_a_call_can_use(desk: Desk) -> None:
    bucket = Bucket("model", Dimension.OUTPUT_TOKENS, 10_000)
    desk.must(Share(bucket, 500, most=500, estimated=True))
    assert desk.state(bucket).left == pytest.approx(9000)


def test_while_nobody_knows_what_calls_use_no_line_is_formed(desk: Desk) -> None:
    share = tokens(10_000, 1000, estimated=True)
    for _ in range(2):
        desk.must(share)
    assert [desk.wait(share).seconds for _ in range(3)] == [2, 2, 2]
    assert desk.state(share.bucket).tickets == 0


def test_a_second_settlement_changes_nothing(desk: Desk) -> None:
    share = tokens(10_000, 1000, estimated=True)
    granted = desk.must(share)
    desk.settle(granted, {Dimension.TOKENS: 500})
    before = desk.state(share.bucket)
    desk.settle(granted, {Dimension.TOKENS: 0})
    assert desk.state(share.bucket) == before


def test_a_call_with_an_unknown_outcome_stays_used_and_gives_its_place_in_flight_back(desk: Desk) -> None:
    share, slot = tokens(10_000, 1000), slots(1)
    granted = desk.must(share, slot)
    desk.settle(granted)
    assert desk.state(share.bucket).left == pytest.approx(8500)
    desk.must(slot)


def test_a_call_that_was_never_sent_gives_everything_back(desk: Desk) -> None:
    share, slot = requests(100), slots(1)
    desk.must(share, slot, ticket="mine")
    desk.release("mine", share, slot)
    assert desk.state(slot.bucket).tickets == 0
    assert desk.drain(share) == 95


# Those who die --------------------------------------------------------------------------------------------------------


def test_a_booking_that_nobody_redeems_goes_to_others(desk: Desk) -> None:
    share = requests(60)
    desk.drain(share)
    desk.wait(share, ticket="dead")
    alive = desk.wait(share, ticket="alive")
    desk.hands.move(alive.seconds)
    desk.must(share, ticket="alive")
    desk.hands.move(30)
    # Its own second, and the thirty since: nothing is lost.
    assert desk.drain(share) == 30


def test_who_comes_back_a_little_late_has_kept_the_place(desk: Desk) -> None:
    share = requests(60)
    desk.drain(share)
    wait = desk.wait(share, ticket="late")
    for _ in range(5):
        desk.wait(share)
    desk.hands.move(wait.seconds + 3)
    desk.must(share, ticket="late")


def test_who_gives_up_lets_those_behind_pass(desk: Desk) -> None:
    share = requests(60)
    desk.drain(share)
    first = desk.wait(share, ticket="gives up")
    desk.wait(share, ticket="next")
    desk.release("gives up", share)
    desk.hands.move(first.seconds + 0.001)
    desk.ask(share, ticket="visits")
    desk.must(share, ticket="next")


def test_a_place_in_flight_comes_back_when_its_lease_ends(desk: Desk) -> None:
    slot = slots(1)
    desk.must(slot, lease=60)
    desk.hands.move(59)
    assert desk.wait(slot).why == "concurrency"
    desk.hands.move(2)
    desk.must(slot)


def test_a_lease_lives_on_while_it_is_renewed(desk: Desk) -> None:
    slot = slots(1)
    granted = desk.must(slot, lease=60)
    for _ in range(10):
        desk.hands.move(40)
        desk.renew(granted)
    assert isinstance(desk.ask(slot), Wait)


def test_a_call_in_flight_takes_its_place_again_where_it_was_forgotten(desk: Desk) -> None:
    slot = slots(2)
    granted = desk.must(slot, lease=60)
    desk.hands.move(61)
    desk.must(slot)
    desk.renew(granted)
    assert isinstance(desk.ask(slot), Wait)


def test_what_a_dead_worker_used_of_a_rate_stays_used(desk: Desk) -> None:
    share = tokens(1000, 500)
    desk.must(share, lease=1)
    desk.hands.move(2)
    assert desk.state(share.bucket).left == pytest.approx(450 + 2 * 1000 * 0.99 / 60)


# Places in flight -----------------------------------------------------------------------------------------------------


def test_no_more_calls_are_in_flight_than_there_are_places(desk: Desk) -> None:
    assert desk.drain(slots(7)) == 7


def test_those_who_wait_for_a_place_are_told_times_as_far_apart_as_calls_end(desk: Desk) -> None:
    slot = slots(2)
    first, _ = desk.must(slot), desk.must(slot)
    desk.hands.move(10)
    desk.settle(first)
    desk.must(slot)
    waits = [desk.wait(slot).seconds for _ in range(3)]
    assert waits == pytest.approx([5, 10, 15])


def test_while_all_places_are_taken_nothing_else_is_booked(desk: Desk) -> None:
    slot, share = slots(1), requests(100)
    desk.must(slot, share)
    desk.wait(slot, share)
    assert desk.state(share.bucket).left == pytest.approx(94)


# What providers say ---------------------------------------------------------------------------------------------------


def test_headers_correct_a_guessed_limit_in_both_directions(desk: Desk) -> None:
    share = tokens(3500, 100, assumed=True)
    desk.settle(desk.must(share), tokens=Seen(limit=2_000_000))
    assert desk.state(share.bucket).limit == 2_000_000
    desk.settle(desk.must(share), tokens=Seen(limit=1000))
    assert desk.state(share.bucket).limit == 1000


def test_headers_lower_a_configured_limit_and_never_raise_it(desk: Desk) -> None:
    share = tokens(10_000, 100)
    desk.settle(desk.must(share), tokens=Seen(limit=2_000_000))
    assert desk.state(share.bucket).limit == 10_000
    desk.settle(desk.must(share), tokens=Seen(limit=5000))
    assert desk.state(share.bucket).limit == 5000


def test_headers_say_nothing_of_limits_that_are_not_the_providers(desk: Desk) -> None:
    share = Share(Bucket("tenant", Dimension.TOKENS, 10_000), 100)
    desk.settle(desk.must(share), tokens=Seen(limit=5))
    assert desk.state(share.bucket).limit == 10_000


def test_a_lowered_limit_makes_those_who_wait_wait_longer(desk: Desk) -> None:
    share = tokens(6000, 100)
    granted = desk.must(share)
    desk.drain(share)
    wait = desk.wait(share, ticket="waits")
    desk.settle(granted, tokens=Seen(limit=3000))
    desk.hands.move(wait.seconds)
    assert desk.wait(share, ticket="waits").seconds == pytest.approx(wait.seconds, rel=0.01)


def test_what_the_provider_has_left_counts_where_it_is_less_than_we_believe(desk: Desk) -> None:
    share = tokens(10_000, 500)
    granted = desk.must(share)
    desk.adjust(granted, tokens=Seen(remaining=2000))
    assert desk.state(share.bucket).left == pytest.approx(2000)
    desk.adjust(granted, tokens=Seen(remaining=2000))
    assert desk.state(share.bucket).left == pytest.approx(2000)
    desk.adjust(granted, tokens=Seen(remaining=8000))
    assert desk.state(share.bucket).left == pytest.approx(2000)


def test_an_old_reply_says_nothing_of_what_was_spent_after_its_call(desk: Desk) -> None:
    share = tokens(10_000, 500)
    granted = desk.must(share)
    desk.must(share)
    desk.settle(granted, tokens=Seen(remaining=9000))
    assert desk.state(share.bucket).left == pytest.approx(8500)


def test_a_refusal_freezes_its_buckets_for_everybody(desk: Desk) -> None:
    share = tokens(10_000, 500)
    refused = desk.must(share)
    desk.must(share)
    desk.refuse(refused, 7)
    wait = desk.wait(share)
    assert (wait.why, wait.seconds) == ("frozen", pytest.approx(7))
    assert desk.state(share.bucket).frozen_seconds == pytest.approx(7)


def test_those_who_wait_when_a_bucket_is_frozen_go_on_after_it(desk: Desk) -> None:
    share = tokens(6000, 100)
    refused = desk.must(share)
    desk.drain(share)
    wait = desk.wait(share, ticket="waits")
    desk.refuse(refused, 5, over_limit=False)
    desk.hands.move(wait.seconds)
    again = desk.wait(share, ticket="waits")
    assert again.seconds == pytest.approx(5 - wait.seconds, abs=0.001)
    desk.hands.move(again.seconds)
    desk.must(share, ticket="waits")


def test_a_refusal_that_nothing_has_announced_halves_what_we_believe_once_for_calls_of_the_same_time(
    desk: Desk,
) -> None:
    share = tokens(60_000, 100)
    desk.drain(share)
    desk.hands.move(120)
    calls = [desk.must(share) for _ in range(3)]
    desk.hands.move(0.1)
    for call in calls:
        desk.refuse(call, 1)
    assert desk.state(share.bucket).trust == 0.5


def test_an_announced_limit_is_believed_and_not_halved(desk: Desk) -> None:
    share = tokens(60_000, 100)
    desk.drain(share)
    desk.hands.move(120)
    desk.refuse(desk.must(share), 1, tokens=Seen(limit=30_000))
    assert desk.state(share.bucket).limit == 30_000
    assert desk.state(share.bucket).trust == 1


def test_an_overloaded_provider_says_nothing_of_limits(desk: Desk) -> None:
    share = tokens(60_000, 100)
    desk.drain(share)
    desk.hands.move(120)
    desk.refuse(desk.must(share), 1, over_limit=False)
    assert desk.state(share.bucket).trust == 1


def test_a_refusal_in_a_buckets_first_minute_says_nothing_of_its_limit(desk: Desk) -> None:
    share = tokens(60_000, 100)
    desk.refuse(desk.must(share), 1)
    assert desk.state(share.bucket).trust == 1


def test_trust_comes_back_step_by_step(desk: Desk) -> None:
    share = tokens(60_000, 100)
    desk.must(share)
    desk.hands.move(120)
    desk.refuse(desk.must(share), 1)
    found: list[float] = []
    for _ in range(5):
        desk.hands.move(301)
        desk.settle(desk.must(share))
        found.append(desk.state(share.bucket).trust)
    assert found == pytest.approx([0.625, 0.78125, 0.9765625, 1, 1])


def test_trust_is_whole_after_months_too(desk: Desk) -> None:
    share = tokens(60_000, 100)
    desk.must(share)
    desk.hands.move(120)
    desk.refuse(desk.must(share), 1)
    desk.hands.move(90 * 86_400)
    desk.must(share)
    assert desk.state(share.bucket).trust == 1


# Several keys ---------------------------------------------------------------------------------------------------------


def test_of_several_keys_the_one_with_most_left_is_taken(desk: Desk) -> None:
    one, other = Demand((requests(100, "one"),)), Demand((requests(100, "other"),))
    choices: list[int] = []
    for _ in range(10):
        answer = desk.ask_one_of(one, other)
        assert isinstance(answer, Granted)
        choices.append(answer.choice)
    assert choices.count(0) == choices.count(1) == 5


def test_where_no_key_has_anything_left_the_shortest_wait_is_booked_and_no_other(desk: Desk) -> None:
    slow, fast = requests(60, "slow"), requests(600, "fast")
    desk.drain(slow)
    desk.drain(fast)
    before = desk.state(slow.bucket).tickets  # the one that gave up
    answer = desk.ask_one_of(Demand((slow,)), Demand((fast,)))
    assert isinstance(answer, Wait)
    assert answer.bucket == fast.bucket
    assert desk.state(slow.bucket).tickets == before


def test_who_waits_for_a_frozen_key_takes_another_one_that_has_become_free(desk: Desk) -> None:
    one, other = tokens(6000, 100, scope="one"), tokens(6000, 100, scope="other")
    refused = desk.must(one)
    desk.refuse(refused, 60, over_limit=False)
    desk.drain(other)
    both = (Demand((one,)), Demand((other,)))
    answer = desk.ask_one_of(*both, ticket="waits")
    assert isinstance(answer, Wait)
    assert answer.bucket == other.bucket
    desk.hands.move(answer.seconds)
    granted = desk.ask_one_of(*both, ticket="waits")
    assert isinstance(granted, Granted)
    assert granted.choice == 1


def test_a_key_whose_limit_is_too_small_is_passed_over(desk: Desk) -> None:
    answer = desk.ask_one_of(Demand((tokens(100, 500, scope="small"),)), Demand((tokens(10_000, 500, scope="large"),)))
    assert isinstance(answer, Granted)
    assert answer.choice == 1


# Asking ---------------------------------------------------------------------------------------------------------------


def test_an_event_loop_asks_the_same_limiter(desk: Desk) -> None:
    demand = Demand((requests(100), slots(50)))

    async def ask() -> list[Granted | Wait]:
        answers = await asyncio.gather(*(desk.limiter.ask_async(Acquire(f"t{n}", (demand,))) for n in range(60)))
        await desk.limiter.ask_async(Release("t0", (demand,)))
        assert len(await desk.limiter.ask_async(Look())) == 2
        await desk.limiter.aclose()
        return answers

    assert sum(isinstance(answer, Granted) for answer in asyncio.run(ask())) == 50
    assert desk.state(slots(50).bucket).tickets == 49


def test_people_see_who_waits_and_for_how_long(desk: Desk) -> None:
    share = requests(60)
    desk.drain(share)
    for _ in range(3):
        desk.wait(share)
    state = desk.state(share.bucket)
    assert (state.key, state.limit, state.trust, state.factor) == ("model/requests_per_minute", 60, 1, None)
    assert state.wait_seconds == pytest.approx(3 / 0.99, abs=0.1)


def test_people_see_only_the_buckets_that_they_ask_for(desk: Desk) -> None:
    desk.must(requests(60, "tenant=a*"), requests(60, "tenant=abc"))
    assert [state.key for state in desk.limiter.ask(Look("tenant=a*"))] == ["tenant=a*/requests_per_minute"]


def test_a_limit_that_lets_nothing_pass_and_a_share_of_nothing_are_errors() -> None:
    with pytest.raises(ValueError, match="lets nothing pass"):
        requests(0)
    with pytest.raises(ValueError, match="takes more than nothing"):
        tokens(100, 0)
    with pytest.raises(ValueError, match="names a bucket twice"):
        Demand((requests(60), requests(60)))
