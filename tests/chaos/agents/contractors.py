"""Agents of the chaos scenarios that call others; what each call gave is in their outputs."""

from __future__ import annotations

import os
import secrets
from typing import Any

from worker.agent import BaseAgent, Context, Permissions


def note(event: str, ctx: Context, execution: str, effect: object = "-") -> None:
    worker = os.environ["NIGHTFLEET_TEST_WORKER"]
    line = f"{event} {ctx.run_id} {ctx.task} {execution} {worker} {effect}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"] + ".effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class Contractor(BaseAgent):
    """Has laborers work, two at a time, and at the top another contractor, which has laborers too."""

    permissions = Permissions(agents=("laborer", "contractor"))

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        self.ctx, self.execution = ctx, secrets.token_hex(6)
        note("begin", ctx, self.execution)
        ctx.step(self.work, "first")
        laborers = ctx.map("laborer", [{}] * ctx.run_input["laborers"], max_concurrency=2)
        called = [each["execution"] for each in laborers]
        if not data.get("below"):
            called.append(ctx.call("contractor", {"below": True})["execution"])
        ctx.step(self.work, "last")
        return {"execution": self.execution, "seen": {}, "called": called}

    def work(self, what: str) -> None:
        note("effect", self.ctx, self.execution, what)
