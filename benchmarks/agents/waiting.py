"""Agents that wait: what is measured is what waits with them."""

import asyncio
import os
import threading
import time
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context


class WaitSync(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del ctx
        time.sleep(data["seconds"])
        return {"n": 1}


class WaitAsync(BaseAgent):
    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        del ctx
        await asyncio.sleep(data["seconds"])
        return {"n": 1}


class Punctual(BaseAgent):
    """Writes down which thread had it from when to when."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del ctx
        began = time.monotonic_ns()
        ledger = os.open(data["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        time.sleep(data["seconds"])
        # The end comes last: writing it belongs to the gap that is measured, not to the agent.
        os.write(ledger, f"{threading.get_ident()} {began} {time.monotonic_ns()}\n".encode())
        os.close(ledger)
        return {"n": 1}
