"""Agents that call agents; each execution of a step is a line of a ledger outside the system."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from worker.agent import (
    AgentError,
    AsyncContext,
    BaseAgent,
    CallFailed,
    Context,
    Permissions,
    RetryableError,
    RetryPolicy,
)

ANYBODY = Permissions(agents=("*",))


def note(event: str, ctx: Context | AsyncContext) -> None:
    line = f"{event} {ctx.run_id} {ctx.task} {os.getpid()}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def noted(event: str, ctx: Context | AsyncContext) -> int:
    with open(os.environ["NIGHTFLEET_TEST_LEDGER"]) as ledger:  # noqa: PTH123
        counts = Counter(tuple(line.split()[:3]) for line in ledger)
    return counts[event, ctx.run_id, ctx.task]


def wait_for(path: str) -> None:
    while not Path(path).exists():
        threading.Event().wait(0.02)


class Asked(BaseModel):
    n: int
    #: What becomes of it: it gives `n` doubled, unless it is to fail so often, or to wait for a file before.
    fails: int = 0
    retryable: bool = True
    until: str | None = None


class Doubled(BaseModel):
    n: int


class Doubler(BaseAgent):
    """Gives a number doubled."""

    def execute(self, data: Asked, ctx: Context) -> Doubled:
        ctx.step(note, "doubles", ctx)
        if data.until is not None:
            wait_for(data.until)
        if noted("fails", ctx) < data.fails:
            note("fails", ctx)
            raise RetryableError("not yet") if data.retryable else AgentError("never")
        return Doubled(n=2 * data.n)


class Spare(BaseAgent):
    """Does the work of a doubler, worse."""

    def execute(self, data: Asked, ctx: Context) -> dict[str, Any]:
        return {"n": -data.n}


class Caller(BaseAgent):
    """Calls as its input says: `agent` with `input`, or for each of `items`."""

    permissions = ANYBODY

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        ctx.step(note, "before", ctx)
        options = dict(data.get("options", {}))
        if "retry" in options:
            options["retry"] = RetryPolicy.model_validate(options["retry"])
        if "items" in data:
            found: Any = ctx.map(data.get("agent", "doubler"), data["items"], **options)
            found = [str(each) if isinstance(each, CallFailed) else each for each in found]
        else:
            found = ctx.call(data.get("agent", "doubler"), data["input"], **options)
        ctx.step(note, "after", ctx)
        if data.get("then") == "fails":
            raise AgentError("afterwards")
        return {"found": found}


class AsyncCaller(BaseAgent):
    """Calls several agents at the same time, and takes a model of what they give."""

    permissions = ANYBODY

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        found = await asyncio.gather(*(ctx.call("doubler", Asked(n=n), output=Doubled) for n in data["numbers"]))
        return {"sum": sum(each.n for each in found)}


class AloneCaller(BaseAgent):
    """The same in a process of its own, by a map and by branches."""

    isolation = "process"
    permissions = ANYBODY

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        mapped = ctx.map("doubler", [{"n": n} for n in data["numbers"]], max_concurrency=2)
        one, two = ctx.gather(lambda: ctx.call("doubler", {"n": 1}), lambda: ctx.call("doubler", {"n": 2}))
        said = ""
        try:
            ctx.call("doubler", {"n": 1, "fails": 1, "retryable": False})
        except CallFailed as error:
            said = str(error.__cause__)
        return {"mapped": [each["n"] for each in mapped], "called": [one["n"], two["n"]], "said": said}


class Nester(BaseAgent):
    """Calls itself `depth` times, and a doubler at the bottom."""

    permissions = Permissions(agents=("nester", "doubler"))

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        if data["depth"] == 0:
            return ctx.call("doubler", {"n": data["n"], "until": data.get("until")})
        return ctx.call("nester", {**data, "depth": data["depth"] - 1})


class Leaver(BaseAgent):
    """Returns while what it has called goes on."""

    permissions = ANYBODY

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        left = asyncio.create_task(ctx.call("nester", {"depth": 1, "n": 1, "until": data["until"]}))
        quick = await ctx.call("doubler", {"n": 3, "until": data["go"]})
        left.cancel()
        return quick


class Shy(BaseAgent):
    """Calls without having declared whom."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        return ctx.call("doubler", {"n": 1})


class Refusing(BaseAgent):
    """Refuses what it gets the first time, so that it is to be made anew."""

    permissions = ANYBODY

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        found = ctx.call("doubler", {"n": 1})
        if noted("refuses", ctx) == 0:
            note("refuses", ctx)
            raise RetryableError("not good enough")
        return found


class Teller(BaseAgent):
    """Fails until there is a file, and then tells the task `last` so."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        if not Path(data["until"]).exists():
            raise AgentError("not yet")
        ctx.send("last", {"by": "teller"})
        return {"by": "teller"}


class Rumour(BaseAgent):
    """Calls, tells the task `last` about it, and fails."""

    permissions = ANYBODY

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        ctx.call("doubler", {"n": 1})
        ctx.send("last", {"by": "rumour"})
        raise AgentError("never")


class Listener(BaseAgent):
    """Gives the first message that it gets."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"heard": ctx.receive(timeout=30).body}


class Deaf(BaseAgent):
    """Calls what fails, fails of something else meanwhile, and takes the result when it is tried again."""

    permissions = ANYBODY

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        called = asyncio.ensure_future(ctx.call("doubler", {"n": 1, "fails": 1, "retryable": False}))
        await ctx.step(note, "begins", ctx)
        if noted("deaf", ctx) == 0:
            note("deaf", ctx)
            wait_for(data["failed"])  # it ends while this loop does not look
            raise AgentError("its own")
        return await called


class Parting(BaseAgent):
    """Two steps at the same time that fail until there is a file."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        return list(await asyncio.gather(*(ctx.step(exists, data["until"], name) for name in "ab")))


def exists(path: str, name: str) -> str:
    if not Path(path).exists():
        raise AgentError(f"{name} is away")
    return name
