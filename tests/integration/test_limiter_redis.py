"""The limiter of a fleet on a real Redis, by its own time: many processes, kills, restarts, and what stays behind."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import servers
import services
from limiters import Desk, Hands, requests, slots, tokens
from redis.crc import key_slot

from orchestrator.errors import LimiterUnavailable
from worker.limits.base import Acquire, Bucket, Demand, Dimension, Granted, Look, Share, Wait
from worker.limits.redis import RedisLimiter
from worker.limits.script import Keys, script

PROCESS = """
import json, sys, time
from worker.limits.base import *
from worker.limits.redis import RedisLimiter
url, namespace, what = sys.argv[1:]
limiter = RedisLimiter(url, namespace)
if what == "slot":
    demand = Demand((Share(Bucket("server", Dimension.CONCURRENCY, 1)),), lease_seconds=5)
    print(type(limiter.ask(Acquire("mine", (demand,)))).__name__, flush=True)
    sys.stdin.read()
demand = Demand((Share(Bucket("model", Dimension.REQUESTS, 600)), Share(Bucket("tenant", Dimension.REQUESTS, 60_000))))
print("ready", flush=True)
sys.stdin.readline()
answers = [limiter.ask(Acquire(f"{what}-{number}", (demand,))) for number in range(150)]
print(json.dumps(sum(isinstance(answer, Granted) for answer in answers)), flush=True)
"""


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    name = f"test-{secrets.token_hex(6)}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        if keys := list(client.scan_iter(f"{{{name}:limit}}*")):
            client.delete(*keys)


@pytest.fixture
def limiter(redis_url: str, namespace: str) -> Iterator[RedisLimiter]:
    made = RedisLimiter(redis_url, namespace)
    yield made
    made.close()


@pytest.fixture
def by_hand(redis_url: str, namespace: str) -> Iterator[Desk]:
    """A limiter by a clock that the test moves, not by Redis' own."""
    hands = Hands()
    made = RedisLimiter(redis_url, namespace, hands)
    yield Desk(made, hands)
    made.close()


def process(url: str, namespace: str, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, url, namespace, what]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_eight_processes_never_take_more_than_there_is(redis_url: str, namespace: str, limiter: RedisLimiter) -> None:
    limiter.begin()
    with redis.Redis.from_url(redis_url) as client:  # it has remembered for an hour
        client.set(Keys(namespace).memory, 0)
        children = [process(redis_url, namespace, f"p{number}") for number in range(8)]
        assert [said(child) for child in children] == ["ready"] * 8
        began: Any = client.time()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        granted = sum(json.loads(said(child)) for child in children)
        ended: Any = client.time()
    seconds = ended[0] - began[0] + (ended[1] - began[1]) / 1_000_000
    assert 570 <= granted <= 570 + seconds * 9.9 + 1
    [of_model, of_tenant] = sorted(limiter.ask(Look()), key=lambda state: state.key)
    assert of_model.left <= 0
    assert of_tenant.left <= 57_000 - granted + seconds * 1000 + 1000
    for child in children:
        child.communicate()


def test_a_place_of_a_killed_process_comes_back(redis_url: str, namespace: str, limiter: RedisLimiter) -> None:
    child = process(redis_url, namespace, "slot")
    assert said(child) == "Granted"
    demand = Demand((slots(1),), lease_seconds=5)
    assert isinstance(limiter.ask(Acquire("ours", (demand,))), Wait)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert servers.wait_until(lambda: isinstance(limiter.ask(Acquire("ours", (demand,))), Granted), 60)


def test_while_redis_is_away_nothing_passes_and_neither_error_nor_log_shows_a_password(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "nightfleet.limits")
    with servers.private_redis() as server:
        desk = Desk(RedisLimiter(server.url, namespace), Hands())
        desk.must(requests(100))
        server.stop()
        with pytest.raises(LimiterUnavailable, match="no model is called until they can") as caught:
            desk.ask(requests(100))
        with pytest.raises(LimiterUnavailable):
            desk.ask(requests(100))
        assert caught.value.retryable
        assert caught.value.retry_after == 1.0
        assert server.password not in str(caught.value.to_data())
        server.start()
        desk.must(requests(100))
        gone, back = caplog.records
        assert (gone.levelname, back.levelname) == ("WARNING", "INFO"), "once for each, and not for each call"
        assert server.password not in gone.getMessage()
        desk.limiter.close()


def test_a_redis_that_has_forgotten_everything_lets_one_call_pass_and_then_what_comes_in(namespace: str) -> None:
    hands = Hands()
    with servers.private_redis() as server:
        desk = Desk(RedisLimiter(server.url, namespace, hands), hands)
        desk.must(requests(600))
        hands.move(3600)
        assert desk.drain(requests(600)) == 570
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        assert desk.drain(requests(600)) == 1
        hands.move(10)
        assert desk.drain(requests(600)) == 99
        desk.limiter.close()


def test_a_thousand_tasks_that_ask_at_once_share_a_connection_and_each_gets_its_own_answer(
    redis_url: str, namespace: str
) -> None:
    limiter = RedisLimiter(f"{redis_url}?client_name={namespace}", namespace)
    demand = Demand((Share(Bucket("server", Dimension.CONCURRENCY, 900)),))

    async def scenario() -> list[Granted | Wait]:
        asked = (limiter.ask_async(Acquire(f"task-{number}", (demand,))) for number in range(1000))
        answers = await asyncio.gather(*asked)
        assert sum(each["name"] == namespace for each in client.client_list()) == 1
        await limiter.aclose()
        return answers

    with redis.Redis.from_url(redis_url) as client:
        answers = asyncio.run(scenario())
    granted = [answer.ticket for answer in answers if isinstance(answer, Granted)]
    assert granted == [f"task-{number}" for number in range(900)]


def test_tasks_that_ask_a_redis_without_the_script_or_none_at_all_hear_what_threads_do(namespace: str) -> None:
    with servers.private_redis() as server, redis.Redis.from_url(server.url) as client:
        limiter = RedisLimiter(server.url, namespace)
        demand = Demand((Share(Bucket("model", Dimension.REQUESTS, 600)),))

        async def ask(*tickets: str) -> list[Any]:
            asked = (limiter.ask_async(Acquire(ticket, (demand,))) for ticket in tickets)
            return await asyncio.gather(*asked, return_exceptions=True)

        async def scenario() -> None:
            limiter.begin()
            client.script_flush()
            assert all(isinstance(answer, Granted) for answer in await ask("same", "same"))
            server.stop()
            assert [type(answer) for answer in await ask("one", "two")] == [LimiterUnavailable] * 2
            server.start()
            assert all(isinstance(answer, Granted) for answer in await ask("same"))
            await limiter.aclose()

        asyncio.run(scenario())
        limiter.close()


def test_a_redis_that_has_forgotten_the_script_gets_it_again(namespace: str) -> None:
    with servers.private_redis() as server, redis.Redis.from_url(server.url) as client:
        desk = Desk(RedisLimiter(server.url, namespace), Hands())
        desk.must(requests(100), ticket="same")
        client.script_flush()
        desk.must(requests(100), ticket="same")
        assert client.script_exists(script().sha) == [True]
        desk.limiter.close()


def test_a_certificate_authority_of_ones_own_is_believed(redis_tls_url: str, namespace: str) -> None:
    authority = Path(services.urls()["NIGHTFLEET_TEST_CA_FILE"])
    trusting, strict = RedisLimiter(redis_tls_url, namespace, ca_file=authority), RedisLimiter(redis_tls_url, namespace)
    Desk(trusting, Hands()).must(requests(100))
    with pytest.raises(LimiterUnavailable, match="certificate"):
        Desk(strict, Hands()).must(requests(100))
    trusting.close()
    strict.close()


def test_waits_are_of_redis_own_time(limiter: RedisLimiter) -> None:
    desk = Desk(limiter, Hands())
    share = requests(600)
    # The first one that has to wait, before anything more comes in.
    while isinstance(wait := desk.ask(share, ticket=(ticket := f"waits-{desk.count}")), Granted):
        desk.count += 1
    assert wait.seconds <= 0.2
    assert servers.wait_until(lambda: isinstance(desk.ask(share, ticket=ticket), Granted), 60)


def test_nothing_of_a_ticket_stays_behind_and_every_key_of_a_bucket_expires(
    redis_url: str, namespace: str, limiter: RedisLimiter
) -> None:
    desk = Desk(limiter, Hands())
    share, slot = tokens(6000, 1000, estimated=True), slots(2)
    granted = [desk.must(slot, ticket=f"call {number}") for number in range(2)]
    desk.wait(slot)
    first = desk.must(share)
    desk.ask(share, ticket="gives up")
    desk.release("gives up", share)
    for each in (*granted, first):
        desk.settle(each, {Dimension.TOKENS: 100})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        keys = set(client.scan_iter(f"{{{namespace}:limit}}*"))
        of_buckets = {Keys(namespace).of("bucket", bucket.key) for bucket in (share.bucket, slot.bucket)}
        assert keys == {*of_buckets, Keys(namespace).memory}
        for key in of_buckets:
            fields: Any = client.hkeys(key)
            assert [field for field in fields if field.startswith("t:")] == []
            ttl: Any = client.ttl(key)
            assert 86_400 < ttl <= 90_000


def test_while_tickets_are_held_or_wait_their_keys_expire_too(
    redis_url: str, namespace: str, limiter: RedisLimiter
) -> None:
    desk = Desk(limiter, Hands())
    share, slot = requests(1), slots(1)
    desk.must(share, slot)
    desk.wait(share)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        keys = set(client.scan_iter(f"{{{namespace}:limit}}*")) - {Keys(namespace).memory}
        assert len(keys) == 5
        assert all(client.ttl(key) > 86_000 for key in keys)


def test_places_in_flight_end_with_their_leases_although_their_numbers_were_evicted(
    redis_url: str, namespace: str, by_hand: Desk
) -> None:
    desk, slot = by_hand, slots(2)
    granted = [desk.must(slot) for _ in range(2)]
    with redis.Redis.from_url(redis_url) as client:
        client.delete(Keys(namespace).of("bucket", slot.bucket.key))
    for each in granted:
        desk.settle(each)
    desk.wait(slot)
    desk.hands.move(61)
    assert [type(desk.ask(slot)) for _ in range(3)] == [Granted, Granted, Wait]


def test_what_the_dead_hold_of_a_rate_is_forgotten_although_its_numbers_were_evicted(
    redis_url: str, namespace: str, by_hand: Desk
) -> None:
    desk, share = by_hand, requests(600)
    desk.must(share)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(Keys(namespace).of("bucket", share.bucket.key))
        desk.hands.move(61)
        last = desk.must(share)
        desk.settle(last)
        assert client.zcard(Keys(namespace).of("held", share.bucket.key)) == 0


def test_all_keys_of_a_namespace_are_in_one_slot_of_a_cluster() -> None:
    keys = Keys("nightfleet")
    names = [keys.of(part, f"tenant={{x}}{number}") for part in ("bucket", "line", "held") for number in range(5)]
    assert {key_slot(name.encode()) for name in (*names, keys.memory)} == {key_slot(keys.memory.encode())}
