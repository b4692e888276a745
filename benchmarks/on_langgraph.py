"""LangGraph with its Postgres checkpointer, in an environment of its own: answers lines of JSON with seconds."""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import itertools
import json
import operator
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

URL = os.environ["BENCH_DATABASE_URL"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "prepare_threshold": 2,
    "row_factory": dict_row,
    "options": f"-c search_path={os.environ['BENCH_SCHEMA']}",
}

_threads = itertools.count()


class State(TypedDict):
    n: Annotated[int, operator.add]


def step(state: State) -> dict[str, int]:
    del state
    return {"n": 1}


def join(state: State) -> dict[str, int]:
    del state
    return {"n": 0}


async def step_async(state: State) -> dict[str, int]:
    return step(state)


async def join_async(state: State) -> dict[str, int]:
    return join(state)


def make_graph(shape: str, saver: Any, node: Any, last: Any) -> Any:
    graph: Any = StateGraph(State)
    for name in "abc":
        graph.add_node(name, node)
    if shape == "chain":
        for first, second in itertools.pairwise((START, "a", "b", "c", END)):
            graph.add_edge(first, second)
    else:
        graph.add_node("join", last)
        for name in "abc":
            graph.add_edge(START, name)
        graph.add_edge(["a", "b", "c"], "join")
        graph.add_edge("join", END)
    return graph.compile(checkpointer=saver)


def fresh() -> dict[str, Any]:
    return {"configurable": {"thread_id": f"{os.getpid()}-{next(_threads)}"}}


def check(outputs: list[Any], count: int) -> None:
    if [output["n"] for output in outputs] != [3] * count:
        raise ValueError(f"wrong outputs: {outputs[:3]}")


class InThreads:
    def __init__(self) -> None:
        self.pool = ConnectionPool(URL, min_size=CONCURRENCY, max_size=CONCURRENCY, kwargs=OPTIONS)
        self.pool.wait()
        saver = PostgresSaver(self.pool)
        saver.setup()
        self.graphs = {shape: make_graph(shape, saver, step, join) for shape in ("chain", "chord")}
        self.executor = ThreadPoolExecutor(CONCURRENCY)

    def run(self, shape: str, count: int) -> float:
        graph = self.graphs[shape]
        began = time.monotonic()
        futures = [self.executor.submit(graph.invoke, {"n": 0}, fresh()) for _ in range(count)]
        outputs = [future.result() for future in futures]
        seconds = time.monotonic() - began
        check(outputs, count)
        return seconds


class InLoop:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.graphs = self.loop.run_until_complete(self.open())

    async def open(self) -> dict[str, Any]:
        pool = AsyncConnectionPool(URL, min_size=CONCURRENCY, max_size=CONCURRENCY, kwargs=OPTIONS, open=False)
        await pool.open(wait=True)
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        return {shape: make_graph(shape, saver, step_async, join_async) for shape in ("chain", "chord")}

    def run(self, shape: str, count: int) -> float:
        return self.loop.run_until_complete(self.run_all(self.graphs[shape], count))

    async def run_all(self, graph: Any, count: int) -> float:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def one() -> Any:
            async with slots:
                return await graph.ainvoke({"n": 0}, fresh())

        began = time.monotonic()
        outputs = await asyncio.gather(*(one() for _ in range(count)))
        seconds = time.monotonic() - began
        check(list(outputs), count)
        return seconds


def main() -> None:
    side = InLoop() if sys.argv[1] == "loop" else InThreads()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer: dict[str, Any] = {"seconds": side.run(question["shape"], question["count"])}
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
