"""Agents whose guards note, as lines of a file, what they are shown."""

from __future__ import annotations

import os
from typing import Any

from worker.agent import (
    PII,
    AsyncContext,
    BaseAgent,
    Context,
    Place,
    Verdict,
    guard,
    refused,
    tool,
    undecided,
)


def _note(line: str) -> None:
    with open(os.environ["NIGHTFLEET_TEST_NOTES"], "a") as notes:  # noqa: PTH123 - one write of one line is one system call
        notes.write(f"{line}\n")


class NotedPII(PII):
    """Hides personal data, and notes where it has looked."""

    def check(self, text: str, place: Place) -> Verdict:
        _note(f"looks at {place}")
        return super().check(text, place)


@tool
def send(to: str) -> str:
    """Send a letter."""
    _note(f"send {to}")
    return f"sent to {to}, copy to eve@example.org"


class Clerk(BaseAgent):
    """Sends letters."""

    model = "openai:emulated-small"
    guards = (NotedPII(),)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"said": ctx.llm(f"Write to {data['to']}.", tools=(send,))}


class AsyncClerk(BaseAgent):
    """The same, on the loop."""

    model = "openai:emulated-small"
    guards = (NotedPII(),)

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        return {"said": await ctx.llm(f"Write to {data['to']}.", tools=(send,))}


class AloneClerk(Clerk):
    """The same, in a process of its own."""

    isolation = "process"


@guard(stages=("input",))
def strict(text: str, place: Place) -> Verdict | None:
    _note(f"looks at {place}")
    if "forbidden" in text and "NIGHTFLEET_TEST_LENIENT" not in os.environ:
        return refused("it is about what is forbidden")
    return undecided("somebody has to say so") if "doubtful" in text else None


class Careful(BaseAgent):
    """Asks what it may ask."""

    guards = (strict,)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"said": ctx.llm(data["text"])}
