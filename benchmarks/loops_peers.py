"""The other sides of `loops`, in an environment of their own: a loop of tools by hand, and by the libraries for agents.

Told on stdin how many loops to run, it answers on stdout with seconds.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

MODEL = os.environ["BENCH_MODEL"]
CALLS = int(os.environ["BENCH_CALLS"])
#: Asks for one text, and gives the answer and how many tools were called.
Loop = Callable[[str], Awaitable[tuple[str, int]]]

_threads = itertools.count()


async def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: A number.
        second: Another one.
    """
    return first + second


def by_hand() -> Loop:
    """What everybody pays: the SDK, JSON, and the call."""
    import openai

    client = openai.AsyncOpenAI(max_retries=0)
    number = {"type": "integer"}
    schema = {
        "type": "object",
        "properties": {"first": number, "second": number},
        "required": ["first", "second"],
        "additionalProperties": False,
    }
    tools: Any = [
        {"type": "function", "function": {"name": "add", "description": "Add two numbers.", "parameters": schema}}
    ]

    async def called(call: Any) -> dict[str, Any]:
        result = await add(**json.loads(call.function.arguments))
        return {"role": "tool", "tool_call_id": call.id, "content": str(result)}

    async def loop(text: str) -> tuple[str, int]:
        messages: list[Any] = [{"role": "user", "content": text}]
        count = 0
        while True:
            answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=tools, max_tokens=60)
            said = answer.choices[0].message
            if not said.tool_calls:
                return said.content or "", count
            messages.append(said)
            messages += await asyncio.gather(*(called(call) for call in said.tool_calls))
            count += len(said.tool_calls)

    return loop


def pydantic_ai() -> Loop:
    """An agent of pydantic-ai; it keeps nothing."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ToolReturnPart
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.settings import ModelSettings

    agent = Agent(OpenAIChatModel(MODEL), tools=[add], model_settings=ModelSettings(max_tokens=60))

    async def loop(text: str) -> tuple[str, int]:
        result = await agent.run(text)
        parts = (part for message in result.all_messages() for part in message.parts)
        return result.output, sum(isinstance(part, ToolReturnPart) for part in parts)

    return loop


def langgraph(saver: Any = None) -> Loop:
    """The prebuilt agent of LangGraph, with a checkpoint after each step if there is who saves it."""
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.prebuilt import create_react_agent

    agent: Any = create_react_agent(
        ChatOpenAI(model=MODEL, max_retries=0, max_tokens=60), [tool(add)], checkpointer=saver
    )

    async def loop(text: str) -> tuple[str, int]:
        config = {"configurable": {"thread_id": f"{os.getpid()}-{next(_threads)}"}, "recursion_limit": 4 * CALLS + 8}
        messages = (await agent.ainvoke({"messages": [("user", text)]}, config))["messages"]
        return messages[-1].content, sum(isinstance(message, ToolMessage) for message in messages)

    return loop


async def langgraph_on_postgres() -> Loop:
    """The same with its Postgres checkpointer, default durability."""
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    options: dict[str, Any] = {
        "autocommit": True,
        "prepare_threshold": 2,
        "row_factory": dict_row,
        "options": f"-c search_path={os.environ['BENCH_SCHEMA']}",
    }
    size = int(os.environ["BENCH_CONCURRENCY"])
    pool = AsyncConnectionPool(
        os.environ["BENCH_DATABASE_URL"], min_size=size, max_size=size, kwargs=options, open=False
    )
    await pool.open(wait=True)
    saver = AsyncPostgresSaver(pool)
    await saver.setup()
    return langgraph(saver)


async def run(loop: Loop, count: int, at_a_time: int, text: str) -> float:
    """Run so many loops; gives the seconds from the first to the last."""
    slots = asyncio.Semaphore(at_a_time)

    async def one(number: int) -> tuple[str, int]:
        async with slots:
            return await loop(f"{text} {number}")

    began = time.monotonic()
    answers = await asyncio.gather(*(one(number) for number in range(count)))
    seconds = time.monotonic() - began
    if answers != [("Done.", CALLS)] * count:
        raise ValueError(f"wrong answers: {answers[:3]}")
    return seconds


async def main() -> None:
    match sys.argv[1]:
        case "by-hand":
            loop = by_hand()
        case "pydantic-ai":
            loop = pydantic_ai()
        case "langgraph":
            loop = langgraph()
        case _:
            loop = await langgraph_on_postgres()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {"seconds": await run(loop, asked["count"], asked["at_a_time"], asked["text"])}
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
