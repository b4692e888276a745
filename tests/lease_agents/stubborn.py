"""Agents that are hard on their worker: one holds the interpreter, one its thread, one waits for a file to appear."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shlex
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context, RetryableError, Timeouts


def note(event: str, ctx: Context | AsyncContext, what: object = None) -> None:
    """Write a line to the ledger: event, run, task (or what else is to be told), process."""
    with Path(os.environ["NIGHTFLEET_TEST_LEDGER"]).open("a") as ledger:
        ledger.write(f"{event} {ctx.run_id} {what or ctx.task} {os.getpid()}\n")


class Gil(BaseAgent):
    """Keeps every other thread of its process from running until a file appears, as a careless C extension does."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        note("begin", ctx)
        waiting = f"while kill -0 $PPID && [ ! -e {shlex.quote(data['until'])} ]; do sleep 0.05; done"
        ctypes.PyDLL(None).system(waiting.encode())
        note("end", ctx)
        return {}


class Stuck(BaseAgent):
    """Is in its thread for far longer than it may be."""

    timeouts = Timeouts(hard=timedelta(seconds=0.5))

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        note("begin", ctx)
        while not Path(data["until"]).exists():
            threading.Event().wait(0.05)
        note("end", ctx)
        return {}


class Waits(BaseAgent):
    """Waits at an await until a file appears, and says when it is stopped there."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        note("begin", ctx)
        try:
            while not Path(data["until"]).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            note("stopped", ctx)
            raise
        note("end", ctx)
        return {}


class Later(BaseAgent):
    """Fails twice, each time asking for a second of patience; notes when it was tried, by a clock that nobody sets."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        note("try", ctx, time.monotonic())
        tries = [
            line for line in Path(os.environ["NIGHTFLEET_TEST_LEDGER"]).read_text().splitlines() if ctx.run_id in line
        ]
        if len(tries) <= 2:
            raise RetryableError("not yet", retry_after=1.0)
        return {}


class Naps(BaseAgent):
    """Sleeps for a while, then until a time; notes by how much it was late each time, by a clock that nobody sets."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        began = ctx.step(time.monotonic)
        ctx.sleep(data["seconds"])
        note("napped", ctx, time.monotonic() - began - data["seconds"])
        ctx.sleep_until(datetime.fromisoformat(data["until"]))
        note("slept", ctx, time.monotonic() - data["due"])
        return {}


class Steps(BaseAgent):
    """Does two things, the second of which takes its thread until a file appears."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        note("begin", ctx)
        await ctx.step(note, "first", ctx)
        await ctx.step(self.second, ctx, data["until"])
        return {}

    def second(self, ctx: AsyncContext, until: str) -> None:
        note("second", ctx)
        while not Path(until).exists():
            threading.Event().wait(0.05)
