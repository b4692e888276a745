"""Agents that wait; each execution of one of their steps is a line of a ledger outside the system."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from worker.agent import OUTSIDE, AsyncContext, BaseAgent, Context


def note(event: str, ctx: Context | AsyncContext) -> None:
    line = f"{event} {ctx.run_id} {ctx.task} {os.getpid()}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class Sleeper(BaseAgent):
    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        ctx.step(note, "before", ctx)
        ctx.sleep(float(ctx.run_input["seconds"]))
        ctx.step(note, "after", ctx)
        return {}


class Asker(BaseAgent):
    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        await ctx.step(note, "before", ctx)
        said = await ctx.ask("Send it?", choices=["yes", "no"], about={"usd": 5})
        await ctx.step(note, "after", ctx)
        return {"said": said}


class Alone(BaseAgent):
    """The same in a process of its own."""

    isolation = "process"

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        ctx.step(note, "before", ctx)
        ctx.sleep(0.3)
        return {"said": ctx.ask("Send it?")}


class Deaf(BaseAgent):
    """Awaits for ever what a task of its own would have put there, which was unwound."""

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        words: asyncio.Queue[str] = asyncio.Queue()

        async def listen() -> None:
            words.put_nowait(await ctx.ask("Send it?"))

        task = asyncio.create_task(listen())
        said = await words.get()
        await task
        return {"said": said}


class Curious(BaseAgent):
    """Asks two things at once."""

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        first, second = await ctx.gather(ctx.ask("Who?"), ctx.ask("When?", expires=3600))
        return {"said": [first, second]}


class Quick(BaseAgent):
    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        return {}


class Hearer(BaseAgent):
    """Receives a message from outside."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        message = ctx.receive(sender=OUTSIDE)
        return {"from": message.sender, "body": message.body, "type": message.type}


class Busy(BaseAgent):
    """Asks in one branch, and works in the other until a file appears."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        def work() -> str:
            while not os.path.exists(ctx.run_input["until"]):  # noqa: PTH110
                threading.Event().wait(0.02)
            return "done"

        said, done = ctx.gather(lambda: ctx.ask("Send it?"), lambda: ctx.step(work))
        return {"said": said, "done": done}
