"""Agents whose effects are recorded: what is measured is what that costs, and what it gives."""

import threading
from pathlib import Path
from typing import Any

from worker.agent import BaseAgent, Context

#: How often `count` was called in this process.
called = 0


class Stepper(BaseAgent):
    """Does nothing, step by step."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        n = data["n"]
        for _ in range(data["steps"]):
            n = ctx.step(add_one, n)
        return {"n": n}


class Approver(BaseAgent):
    """Asks, and does what it is told."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del data
        return {"n": int(ctx.ask("Go on?", choices=["0", "1"]))}


class Repeated(BaseAgent):
    """Does many steps once, then asks again and again; tells how many steps were done."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        for number in range(data["steps"]):
            ctx.step(count, number)
        for _ in range(data["questions"]):
            ctx.ask("Go on?", choices=["1"])
        return {"n": called}


class Held(BaseAgent):
    """Never ends where it begins, and at once where it is taken over."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        mark = Path(data["marks"]) / ctx.run_id
        if not mark.exists():
            mark.touch()
            threading.Event().wait()
        return {"n": 1}


def add_one(n: int) -> int:
    return n + 1


def count(number: int) -> int:
    global called  # noqa: PLW0603 - each call counts, whoever makes it
    called += 1
    return number
