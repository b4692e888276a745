"""Tools that tasks of workflows name; each notes what it does, as a line of a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from worker.agent import Context, ServiceLimit, ToolError, tool

_BUSY = ServiceLimit(service="pilots", requests_per_minute=120, burst_seconds=0.5)


def _note(line: str) -> None:
    with open(os.environ["NIGHTFLEET_TEST_LEDGER"], "a") as notes:  # noqa: PTH123 - one write of one line is one system call
        notes.write(f"{line}\n")


def _noted(line: str) -> int:
    return Path(os.environ["NIGHTFLEET_TEST_LEDGER"]).read_text().splitlines().count(line)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@tool
def high_water(port: str, day: int = 1) -> dict[str, str | int]:
    """Tell when the water is high."""
    _note(f"high_water {port}")
    return {"port": port, "day": day, "at": "06:12"}


@tool
async def fog(port: str) -> str:
    """Tell whether there is fog."""
    return f"no fog at {port}"


@tool
def pay(amount: int, idempotency_key: str = "") -> dict[str, str | int]:
    """Pay, and die of it the first time."""
    _note(f"pay {idempotency_key}")
    if _noted(f"pay {idempotency_key}") == 1:
        _die()
    return {"amount": amount, "key": idempotency_key}


@tool(at_most_once=True)
def fire(gun: str) -> str:
    """Fire a gun, and die of it."""
    _note(f"fire {gun}")
    _die()
    return "boom"


@tool(approve=True)
def open_lock(name: str) -> str:
    """Open a lock."""
    _note(f"open {name}")
    return f"{name} is open"


@tool(limit=_BUSY)
def call_pilot(ship: str) -> str:
    """Call a pilot."""
    _note(f"pilot {ship}")
    return f"a pilot for {ship}"


@tool(timeout=0.2)
def drift(seconds: float) -> str:
    """Drift for a while."""
    import threading

    threading.Event().wait(seconds)
    return "arrived"


@tool
def survey(ctx: Context, ports: list[str]) -> list[str]:
    """Look at ports one by one, each once, and die in between the first time."""
    found = [ctx.step(_look, port) for port in ports]
    _note("surveyed")
    if _noted("surveyed") == 1:
        _die()
    return found


def _look(port: str) -> str:
    _note(f"look {port}")
    return f"saw {port}"


@tool
def sink(ship: str) -> str:
    raise ToolError(f"{ship} does not sink")
