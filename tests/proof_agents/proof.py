"""Agents of the proofs: each execution writes a line to a ledger outside the system and gives a different output."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context, RetryableError


def note(event: str, ctx: Context | AsyncContext) -> None:
    line = f"{event} {ctx.run_id} {ctx.task} {os.getpid()}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class Branch(BaseAgent):
    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        note("run", ctx)
        return {"task": ctx.task, "mark": secrets.token_hex(8)}


class Gather(BaseAgent):
    """Gives exactly what it saw of the branches before it."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        note("run", ctx)
        return {"seen": {key: part.output for key, part in ctx.upstream.items()}}


class Held(BaseAgent):
    """Begins, waits as many seconds as the input says, and ends."""

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        note("begin", ctx)
        await asyncio.sleep(float(ctx.run_input.get("seconds", 0.0)))
        note("end", ctx)
        return {"mark": secrets.token_hex(8)}


class Blocker(BaseAgent):
    """Holds a thread until a file appears."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        note("begin", ctx)
        while not os.path.exists(ctx.run_input["until"]):  # noqa: PTH110
            threading.Event().wait(0.05)
        note("end", ctx)
        return {}


class Quiet(BaseAgent):
    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        note("run", ctx)
        return {}


class Flaky(BaseAgent):
    """Fails as often as the input says, retryably, then succeeds."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        note("run", ctx)
        with open(os.environ["NIGHTFLEET_TEST_LEDGER"]) as ledger:  # noqa: PTH123
            tries = sum(1 for line in ledger if line.split()[1:3] == [ctx.run_id, ctx.task])
        if tries <= int(ctx.run_input["failures"]):
            raise RetryableError(f"try {tries} fails")
        return {"tries": tries}


class Patient(BaseAgent):
    """Waits until a file appears."""

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        note("begin", ctx)
        while not os.path.exists(ctx.run_input["until"]):  # noqa: ASYNC110, ASYNC240, PTH110 - another process makes it
            await asyncio.sleep(0.05)
        note("end", ctx)
        return {}


class Poison(BaseAgent):
    """Kills its process, once a file has appeared."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        note("begin", ctx)
        while not os.path.exists(ctx.run_input["until"]):  # noqa: PTH110
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}
