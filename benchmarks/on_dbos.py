"""DBOS on Postgres, in an environment of its own: answers lines of JSON with the seconds that so many runs took."""

# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOS

CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
QUEUE = "bench"


@DBOS.step()
def step(n: int) -> int:
    return n + 1


@DBOS.step()
async def step_async(n: int) -> int:
    return n + 1


@DBOS.step()
async def join_async(parts: list[int]) -> int:
    return sum(parts)


@DBOS.workflow()
def chain(n: int) -> int:
    return step(step(step(n)))


@DBOS.workflow()
async def chord(n: int) -> int:
    return await join_async(list(await asyncio.gather(step_async(n), step_async(n), step_async(n))))


@DBOS.workflow()
def steps(n: int) -> int:
    for _ in range(10):
        n = step(n)
    return n


@DBOS.workflow()
async def steps_async(n: int) -> int:
    for _ in range(10):
        n = await step_async(n)
    return n


#: What is run by threads and over the queue, and on an event loop, with its output.
SHAPES: dict[str, tuple[Any, Any, int]] = {
    "chain": (chain, None, 3),
    "chord": (None, chord, 3),
    "steps": (steps, steps_async, 10),
}


def called(shape: str, count: int) -> list[int]:
    """Run workflows by calling them: what the caller's process loses is recovered at its next start."""
    workflow, _, _ = SHAPES[shape]
    if workflow is None:
        return looped(shape, count)
    with ThreadPoolExecutor(CONCURRENCY) as executor:
        return list(executor.map(workflow, [0] * count))


def looped(shape: str, count: int) -> list[int]:
    """Run workflows by calling them on an event loop."""
    _, workflow, _ = SHAPES[shape]

    async def all_of_them() -> list[int]:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one() -> int:
            async with slots:
                return await workflow(0)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    return asyncio.run(all_of_them())


def enqueued(shape: str, count: int) -> list[int]:
    """Run workflows over a queue: any process may execute them."""
    by_threads, looped_, _ = SHAPES[shape]
    workflow = by_threads or looped_
    return [handle.get_result() for handle in [DBOS.enqueue_workflow(QUEUE, workflow, 0) for _ in range(count)]]


RUNNERS = {"direct": called, "asyncio": looped, "queue": enqueued}


def main() -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": os.environ["BENCH_DATABASE_URL"],
            "dbos_system_schema": os.environ["BENCH_SCHEMA"],
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    run = RUNNERS[sys.argv[1]]
    if run is enqueued:
        DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=0.02)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            began = time.monotonic()
            outputs = run(question["shape"], question["count"])
            answer: dict[str, Any] = {"seconds": time.monotonic() - began}
            if outputs != [SHAPES[question["shape"]][-1]] * question["count"]:
                answer = {"error": f"wrong outputs: {outputs[:3]}"}
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
