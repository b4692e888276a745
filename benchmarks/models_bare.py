"""The other side of `models`: the SDK of OpenAI alone, in one process. Told on stdin how often to ask, it answers on stdout."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import httpx2
import openai

LANES = int(os.environ["BENCH_LANES"])
LANES_OF_A_CLIENT = int(os.environ["BENCH_LANES_OF_A_CLIENT"])
MODEL = os.environ["BENCH_MODEL"]


async def ask(clients: list[openai.AsyncOpenAI], calls: int) -> list[float]:
    """Ask so often on each lane; gives when each answer was there."""
    ends: list[float] = []

    async def lane(number: int) -> None:
        client = clients[number // LANES_OF_A_CLIENT]
        for call in range(calls):
            await client.responses.create(
                model=MODEL, input=f"What is {number} times {call}?", max_output_tokens=50, store=False
            )
            ends.append(time.monotonic())

    await asyncio.gather(*(lane(number) for number in range(LANES)))
    return ends


def client(authorities: Any) -> openai.AsyncOpenAI:
    """Make a client that is wide enough; a machine that is full takes its time to connect a thousand times."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=LANES_OF_A_CLIENT)
    http_client = openai.DefaultAsyncHttpxClient(limits=limits, verify=authorities)
    return openai.AsyncOpenAI(max_retries=0, timeout=120, http_client=http_client)


async def main() -> None:
    authorities = httpx2.create_ssl_context()
    clients = [client(authorities) for _ in range(0, LANES, LANES_OF_A_CLIENT)]
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"ends": await ask(clients, json.loads(line)["calls"])}
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
