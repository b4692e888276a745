"""Agents that wait for what others bring, by calls, messages and shared values together."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from worker.agent import BaseAgent, CallFailed, Context, NoMessageCanCome, Permissions


def until(path: str) -> str:
    """Work until a file appears, for a minute or two at most."""
    pause = threading.Event()
    for _ in range(1_800):
        if Path(path).exists():
            return "done"
        pause.wait(0.05)
    raise AssertionError("nobody has gone on")


class Chief(BaseAgent):
    """Call one who asks it, and tell of the error."""

    permissions = Permissions(agents=("clerk",))

    def execute(self, data: Any, ctx: Context) -> Any:
        try:
            return ctx.call("clerk", data)
        except CallFailed as error:
            return {"error": str(error)}


class Clerk(BaseAgent):
    """Ask who has called."""

    def execute(self, data: Any, ctx: Context) -> Any:
        return ctx.request("chief", "what now?").body


class Watchman(BaseAgent):
    """Wait for a change, and tell of the error; then change what the other one waits for."""

    isolation = "thread"

    def execute(self, data: Any, ctx: Context) -> Any:
        try:
            return ctx.state.watch(data["wait"][ctx.task], since=0)
        except NoMessageCanCome as error:
            return {"error": error.message}


class LoneWatchman(Watchman):
    """Do so in a process of its own."""

    isolation = "process"


class Early(BaseAgent):
    """Bring what the other one waits for when told that nobody can, then talk to it."""

    def execute(self, data: Any, ctx: Context) -> Any:
        try:
            ctx.receive(sender="late")
        except NoMessageCanCome:
            if data["for"] == "change":
                ctx.state.set("plan", "made")
            else:
                ctx.send("late", "made")
            ctx.step(_touch, data["mark"], None)
        ctx.receive(sender="late")
        ctx.send("late", "hello")
        return "went on"


class Late(BaseAgent):
    """Wait for what the other one brings, and look for it only when that is there; then talk to it."""

    isolation = "thread"

    def execute(self, data: Any, ctx: Context) -> Any:
        begun = Path(f"{data['mark']}.begun")
        if begun.exists():
            until(data["mark"])
        begun.touch()
        if data["for"] == "change":
            changed = ctx.state.watch("plan", since=0)
            found = None if changed is None else changed.value
        else:
            found = ctx.receive(sender="early").body
        ctx.send("early", "found it")
        return {"found": found, "heard": ctx.receive(sender="early").body}


class LoneLate(Late):
    """Do so in a process of its own."""

    isolation = "process"


class Busy(BaseAgent):
    """Wait in one branch, and work in another one until the first has gone on."""

    permissions = Permissions(agents=("helper",))

    def execute(self, data: Any, ctx: Context) -> Any:
        mark = data["mark"]

        def wait() -> Any:
            if data["for"] == "call":
                found = ctx.call("helper", {})
            else:
                ctx.send("helper", "go")
                changed = ctx.state.watch("plan", since=0)
                found = None if changed is None else changed.value
            return ctx.step(_touch, mark, found)

        found, done = ctx.gather(wait, lambda: ctx.step(until, mark))
        return {"found": found, "done": done}


def _touch(mark: str, found: Any) -> Any:
    Path(mark).touch()
    return found


class Helper(BaseAgent):
    """Give, or write, something a moment later than asked."""

    def execute(self, data: Any, ctx: Context) -> Any:
        if "for" not in data:
            ctx.sleep(0.3)
            return "given"
        ctx.receive()
        ctx.sleep(0.3)
        ctx.state.set("plan", "given")
        return None
