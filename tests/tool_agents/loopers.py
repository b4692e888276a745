"""Agents whose model calls tools with side effects, each of which is a line in a file."""

from __future__ import annotations

import os
import signal
from typing import Any

from worker.agent import AsyncContext, BaseAgent, Context, ServiceLimit, tool


def _write(line: str) -> None:
    with open(os.environ["NIGHTFLEET_TEST_NOTES"], "a") as notes:  # noqa: PTH123 - one write of one line is one system call
        notes.write(f"{line}\n")


@tool(timeout=30)
def note(number: int) -> str:
    """Write a number down."""
    _write(f"note {number}")
    return f"noted {number}"


@tool(at_most_once=True)
def pay(number: int) -> str:
    """Pay a number."""
    _write(f"pay {number}")
    return f"paid {number}"


def _die_the_first_time() -> None:
    """Kill this worker right after the first line was written: nobody knows then what has happened."""
    with open(os.environ["NIGHTFLEET_TEST_NOTES"]) as notes:  # noqa: PTH123
        if len(notes.readlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)


@tool(at_most_once=True)
def pay_and_die(number: int) -> str:
    """Pay a number, and take the worker along."""
    _write(f"pay {number}")
    _die_the_first_time()
    return f"paid {number}"


@tool(at_most_once=True, approve=True)
def pay_if_allowed(number: int) -> str:
    """Pay a number that a person has allowed."""
    return pay_and_die(number)


@tool(at_most_once=True, limit=ServiceLimit(service="bank", requests_per_minute=6000))
def pay_in_turn(number: int) -> str:
    """Pay a number within the limit of the bank."""
    return pay_and_die(number)


@tool
def visit(ctx: Context, number: int) -> str:
    """Note a number, and say something about it."""
    ctx.step(_write, f"note {number}")
    return ctx.llm(f"What is {number}?", tools=(), max_output_tokens=60)


@tool(name="visit")
async def visit_async(ctx: AsyncContext, number: int) -> str:
    """Note a number, and say something about it."""
    await ctx.step(_write, f"note {number}")
    return await ctx.llm(f"What is {number}?", tools=(), max_output_tokens=60)


TOOLS = (note, pay, pay_and_die, pay_if_allowed, pay_in_turn)


class Looper(BaseAgent):
    """Does what its model wishes."""

    model = "openai:emulated-small"

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        said = ctx.llm(data["text"], tools=(*TOOLS, visit), max_iterations=30, max_output_tokens=400)
        return {"said": said}


class AsyncLooper(BaseAgent):
    """The same, on the loop."""

    model = "openai:emulated-small"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        said = await ctx.llm(data["text"], tools=(*TOOLS, visit_async), max_iterations=30, max_output_tokens=400)
        return {"said": said}


class AloneLooper(Looper):
    """The same, in a process of its own."""

    isolation = "process"
