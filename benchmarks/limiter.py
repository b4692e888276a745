"""What a limit costs a model call: the time of a decision of the fleet's limiter, asked by many processes at once."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from harness import OURS, Bench, Child, Row, expect, percentile

from worker.limits.base import Acquire, Bucket, Demand, Dimension, Granted, Settle, Share
from worker.limits.redis import RedisLimiter

PROCESSES = 16
#: Limits that calls choose from, and how many of them one call takes: requests and tokens of a key, and a tenant's.
KEYS = 100
SHARES = 3
DECISIONS = 300
#: Calls that each process makes in a second: together a fleet of 800.
RATE = 50.0
TARGET_MS = 1.0

_DIMENSIONS = (Dimension.REQUESTS, Dimension.INPUT_TOKENS, Dimension.OUTPUT_TOKENS)


def limiter(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        url, namespace = alone.redis_url(0), f"bench-{alone.token()}"
        client = redis.Redis.from_url(url)
        alone.stack.callback(client.close)
        alone.stack.callback(lambda: client.delete(*client.scan_iter(f"{{{namespace}:limit}}*")))
        environment = {"LIMITER_URL": url, "LIMITER_NAMESPACE": namespace}
        children = [
            Child(alone, f"limiter-{number}", [sys.executable, __file__], environment, talks=True)
            for number in range(PROCESSES)
        ]
        _ask_all(children, count=20, round=0)
        rounds = [_ask_all(children, count=alone.count(DECISIONS), round=number + 1) for number in range(alone.rounds)]
    what = f"a limiter's decision on {SHARES} of {KEYS} limits, {PROCESSES} processes, {PROCESSES * RATE:g}/s together"
    return [
        Row(
            f"limiter-p{percent}",
            f"{what}, p{percent}",
            {OURS: [percentile(found, percent) for found in rounds]},
            "ms",
            target,
            "at most",
        )
        for percent, target in ((50, TARGET_MS), (95, 5 * TARGET_MS))
    ]


def _ask_all(children: list[Child], **question: int) -> list[float]:
    """Let all processes decide at the same time; gives the milliseconds of each decision."""
    with ThreadPoolExecutor(len(children)) as pool:
        asked = [pool.submit(child.ask, **question) for child in children]
        answers = [each.result() for each in asked]
    expect([answer["granted"] for answer in answers], [question["count"]] * len(children), "granted calls")
    return [milliseconds for answer in answers for milliseconds in answer["milliseconds"]]


def measure(asked: RedisLimiter, demands: list[Demand], name: str, count: int) -> dict[str, Any]:
    """Make so many calls, evenly over the time; only the decision before each counts."""
    chance = random.Random(name)
    milliseconds: list[float] = []
    granted = 0
    begin = time.monotonic() + chance.random() / RATE
    for number in range(count):
        time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
        request = Acquire(f"{name}-{number}", (chance.choice(demands),))
        began = time.perf_counter()
        answer = asked.ask(request)
        milliseconds.append((time.perf_counter() - began) * 1000)
        if isinstance(answer, Granted):
            granted += 1
            asked.ask(Settle(answer, {Dimension.INPUT_TOKENS: 900, Dimension.OUTPUT_TOKENS: 200}))
    return {"granted": granted, "milliseconds": milliseconds}


def some_demands() -> list[Demand]:
    """Give demands on limits that are never reached: what a decision takes is measured, not how long a call waits."""
    buckets = [
        Bucket(f"key={number}", _DIMENSIONS[number % len(_DIMENSIONS)], 1e9, provider=True) for number in range(KEYS)
    ]
    estimated = [Share(bucket, 1000, estimated=bucket.dimension is not Dimension.REQUESTS) for bucket in buckets]
    return [Demand(tuple(estimated[first : first + SHARES])) for first in range(KEYS - SHARES + 1)]


def main() -> None:
    asked = RedisLimiter(os.environ["LIMITER_URL"], os.environ["LIMITER_NAMESPACE"])
    asked.begin()
    demands = some_demands()
    for line in sys.stdin:
        question = json.loads(line)
        name = f"{os.getpid()}-{question['round']}"
        try:
            answer = measure(asked, demands, name, question["count"])
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
