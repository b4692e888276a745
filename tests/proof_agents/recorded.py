"""Agents with recorded effects: each effect that happens writes a line to the ledger."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context, RetryableError


def happen(run_id: str, what: str, held_until: str | None = None) -> str:
    """Write a line, and wait for a file if there is one to wait for."""
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, f"effect {run_id} {what} {os.getpid()}\n".encode())
    finally:
        os.close(handle)
    while held_until is not None and not os.path.exists(held_until):  # noqa: PTH110
        threading.Event().wait(0.02)
    return f"did {what}"


def fail_once(run_id: str, what: str) -> str:
    """Fail the first time, in a way that asks for a retry."""
    with open(os.environ["NIGHTFLEET_TEST_LEDGER"]) as ledger:  # noqa: PTH123
        before = sum(1 for line in ledger if line.split()[1:3] == [run_id, what])
    happen(run_id, what)
    if before == 0:
        raise RetryableError("the first time", retry_after=0.0)
    return f"did {what}"


class InSteps(BaseAgent):
    """Five steps; the third one waits for a file."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        found: list[str] = []
        for number in range(5):
            ctx.progress(f"step {number}")
            found.append(ctx.step(happen, ctx.run_id, str(number), data["until"] if number == 2 else None))
        return {"found": found, "at": ctx.now().isoformat(), "mark": ctx.uuid()}


class InBranches(BaseAgent):
    """Five branches of three steps; the second step of each odd branch waits for a file."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        async def branch(name: int) -> list[str]:
            return [
                await ctx.step(happen, ctx.run_id, f"{name}.{n}", data["until"] if n == 1 and name % 2 else None)
                for n in range(3)
            ]

        return {"found": await asyncio.gather(*(branch(name) for name in range(5)))}


class InTries(BaseAgent):
    """Three steps; the second one fails the first time."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"found": [ctx.step(fail_once if what == "b" else happen, ctx.run_id, what) for what in "abc"]}
