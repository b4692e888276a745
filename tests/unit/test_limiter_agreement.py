"""The limiter in the process and the script in Redis give the same answers to the same traffic, to the last digit."""

from __future__ import annotations

import random
import struct
from typing import Any

import fakeredis
import pytest
from limiters import Hands

from orchestrator.errors import DemandTooLarge
from worker.limits.base import (
    Acquire,
    Adjust,
    Bucket,
    Demand,
    Dimension,
    Freeze,
    Granted,
    Limiter,
    Look,
    Release,
    Renew,
    Request,
    Seen,
    Settle,
    Share,
)
from worker.limits.memory import MemoryLimiter
from worker.limits.numbers import Numbers
from worker.limits.redis import RedisLimiter
from worker.limits.script import bucket_of, script
from worker.limits.slots import SlotBucket

STEPS = 250


#: Redis' own library for packed numbers, as far as the script needs it: fakeredis has none.
STRUCT = """
local struct = {
  pack = function(_, ...)
    local found = {}
    for place, value in ipairs({ ... }) do
      found[place] = string.format('%.17g', value)
    end
    return table.concat(found, ' ')
  end,
  unpack = function(_, text)
    local found = {}
    for value in string.gmatch(text, '%S+') do
      found[#found + 1] = tonumber(value)
    end
    return unpack(found)
  end
}
"""


class Traffic:
    """Random requests on a few buckets: many tickets that ask again, come late, die, or are told twice."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.buckets = [self._bucket(number, dimension) for number, dimension in enumerate([*Dimension, *Dimension])]
        self.asked: dict[str, Acquire] = {}
        self.granted: list[Granted] = []

    def pause(self) -> float:
        return self.chance.choice([0, 0.001, 0.05, 1, 20, 400]) * self.chance.random()

    def request(self) -> Request[Any]:
        [kind] = self.chance.choices(["acquire", "tell", "release", "renew", "look"], [60, 29, 4, 4, 3])
        if kind == "acquire" or not self.granted:
            return self._acquire()
        if kind == "tell":
            return self._tell(self.chance.choice(self.granted))
        if kind == "release":
            asked = self.chance.choice(list(self.asked.values()))
            return Release(asked.ticket, asked.demands)
        if kind == "renew":
            return Renew(tuple(self.chance.sample(self.granted, min(3, len(self.granted)))))
        return Look()

    def _tell(self, granted: Granted) -> Request[Any]:
        match self.chance.choices(["settle", "adjust", "freeze"], [5, 1, 1]):
            case ["settle"]:
                shares = granted.demand.shares
                used = {share.bucket.dimension: share.amount * self.chance.uniform(0.2, 3) for share in shares}
                return Settle(granted, used if self.chance.random() < 0.8 else {}, self._seen(granted))
            case ["adjust"]:
                return Adjust(granted, self._seen(granted))
            case _:
                named = frozenset(self.chance.sample(list(Dimension), self.chance.choice([0, 0, 3])))
                over_limit = self.chance.random() < 0.8
                return Freeze(granted, self.chance.uniform(0, 5), over_limit, named, self._seen(granted))

    def _acquire(self) -> Acquire:
        ticket = f"ticket-{self.chance.randint(0, 60)}"
        if ticket not in self.asked or self.chance.random() < 0.1:
            demands = tuple(self._demand() for _ in range(self.chance.choice([1, 1, 2, 3])))
            self.asked[ticket] = Acquire(ticket, demands)
        return self.asked[ticket]

    def _demand(self) -> Demand:
        buckets = self.chance.sample(self.buckets, self.chance.randint(1, 4))
        return Demand(tuple(self._share(bucket) for bucket in buckets), self.chance.choice([5.0, 60.0]))

    def _share(self, bucket: Bucket) -> Share:
        if bucket.dimension is Dimension.CONCURRENCY or self.chance.random() < 0.3:
            return Share(bucket)
        amount = self.chance.uniform(0.01, 0.5) * bucket.limit
        return Share(bucket, amount, self.chance.choice([None, amount, amount * 2]), self.chance.random() < 0.7)

    def _bucket(self, number: int, dimension: Dimension) -> Bucket:
        limit = self.chance.choice([3, 10, 60, 1000, 30_000])
        assumed, provider = self.chance.random() < 0.3, self.chance.random() < 0.7
        return Bucket(f"scope {number}", dimension, limit, assumed, provider, self.chance.choice([None, 1, 10]))

    def _seen(self, granted: Granted) -> dict[Dimension, Seen]:
        return {
            share.bucket.dimension: Seen(
                self.chance.choice([None, share.bucket.limit, share.bucket.limit / 2]),
                self.chance.choice([None, self.chance.uniform(0, share.bucket.limit)]),
            )
            for share in granted.demand.shares
            if self.chance.random() < 0.4
        }


@pytest.mark.parametrize("seed", range(6))
def test_both_limiters_give_the_same_answers_to_random_traffic(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hands, traffic = Hands(), Traffic(seed)
    redis = RedisLimiter("redis://nowhere", "test", hands)
    client = fakeredis.FakeRedis()
    monkeypatch.setattr(redis, "_sync", lambda: client)
    given = script()
    monkeypatch.setattr("worker.limits.redis.script", lambda: given._replace(text=STRUCT + given.text))
    monkeypatch.setattr("worker.limits.redis.bucket_of", unpacked)
    redis.begin()
    memory = MemoryLimiter(hands, memory=float(hands()))
    for step in range(STEPS):
        hands.move(traffic.pause())
        request = traffic.request()
        answer = said(memory, request)
        assert said(redis, request) == answer, (step, request)
        if isinstance(answer, Granted):
            traffic.granted.append(answer)
    assert len(traffic.granted) > 30


def unpacked(text: bytes) -> Numbers | SlotBucket:
    """Give a bucket whose numbers were not packed as Redis would have."""
    numbers = [float(number) for number in text.split()]
    return bucket_of(struct.pack(f"<{len(numbers)}d", *numbers))


def said(limiter: Limiter, request: Request[Any]) -> Any:
    try:
        return limiter.ask(request)
    except DemandTooLarge as error:
        return error.to_data()
