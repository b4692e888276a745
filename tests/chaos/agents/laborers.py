"""Agents of the chaos scenarios: each execution and each effect leaves a line in a ledger outside the system."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from datetime import datetime
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context


def note(event: str, ctx: Context | AsyncContext, execution: str, effect: object = "-") -> None:
    worker = os.environ["NIGHTFLEET_TEST_WORKER"]
    line = f"{event} {ctx.run_id} {ctx.task} {execution} {worker} {effect}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"] + ".effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class Laborer(BaseAgent):
    """Takes as many steps as the input says, each so many seconds long."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        self.ctx, self.execution = ctx, secrets.token_hex(6)
        note("begin", ctx, self.execution)
        for number in range(ctx.run_input["steps"]):
            ctx.step(self.work, number, ctx.run_input["seconds"])
        seen = {task: part.output["execution"] for task, part in ctx.upstream.items()}
        return {"execution": self.execution, "seen": seen}

    def work(self, number: int, seconds: float) -> None:
        note("effect", self.ctx, self.execution, number)
        threading.Event().wait(seconds)


class Thinker(BaseAgent):
    """Makes as many model calls as the input says, one after the other, each with a prompt of its own."""

    model = "openai:gpt-5-mini"

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        execution = secrets.token_hex(6)
        note("begin", ctx, execution)
        for number in range(ctx.run_input["calls"]):
            await ctx.llm(f"{ctx.run_id} {ctx.task} call {number}")
        return {"execution": execution, "seen": {}}


class Sitter(BaseAgent):
    """Does nothing for as many seconds as the input says."""

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        execution = secrets.token_hex(6)
        note("begin", ctx, execution)
        await asyncio.sleep(ctx.run_input["seconds"])
        return {"execution": execution, "seen": {}}


class Sleeper(BaseAgent):
    """Sleeps until the time that the input says."""

    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        execution = secrets.token_hex(6)
        note("begin", ctx, execution)
        ctx.sleep_until(datetime.fromisoformat(ctx.run_input["until"]))
        note("effect", ctx, execution, "awake")
        return {"execution": execution, "seen": {}}
