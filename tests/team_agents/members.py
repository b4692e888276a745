"""Members of teams that do as the run's input says; each execution of a step is a line of a ledger outside the system."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from worker.agent import AgentError, BaseAgent, Context


def note(event: str, ctx: Context) -> None:
    line = f"{event} {ctx.run_id} {ctx.task} {os.getpid()}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def arrive(folder: str, name: str, expected: int) -> None:
    """Wait until so many have come to a folder: they are there at the same time, or it never ends."""
    (Path(folder) / name).touch()
    while len(list(Path(folder).iterdir())) < expected:
        threading.Event().wait(0.02)


def said(answers: list[Any], number: int) -> Any:
    """Give the answer of this number, the last one when there are no more."""
    return answers[min(number, len(answers)) - 1]


class Lead(BaseAgent):
    """Leads: gives one of its plans after the other; `results` in the place of one gives what it was told."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        ctx.step(note, f"leads:{data['round']}", ctx)
        plan = said(ctx.run_input["plans"], data["round"])
        return {"result": data} if plan == "results" else plan


class Digger(BaseAgent):
    """Digs: gives what it was given, unless it is to fail, or waits for a file, or for others."""

    CAPABILITIES = ("dig",)

    def execute(self, data: Any, ctx: Context) -> Any:
        ctx.step(note, "digs", ctx)
        given: Any = data["input"] if isinstance(data, dict) and "after" in data else data
        if isinstance(given, dict):
            if "meets" in given:
                arrive(given["meets"], ctx.task, given["number"])
            while "until" in given and not Path(given["until"]).exists():
                threading.Event().wait(0.02)
            if given.get("fails"):
                raise AgentError("the ground is too hard")
        return {"dug": data}


class Writer(BaseAgent):
    """Writes about what it is given."""

    def execute(self, data: Any, ctx: Context) -> Any:
        ctx.step(note, "writes", ctx)
        return {"text": f"about {data}"}


class Voter(BaseAgent):
    """Votes in each round as the run's input says for this member; an error's text makes it fail."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        again = ":again" if "problem" in data else ""
        ctx.step(note, f"votes:{data['member']}:{data['round']}{again}", ctx)
        vote = said(ctx.run_input["votes"][data["member"]], data["round"])
        match vote:
            case {"error": message, **rest}:
                if "unless" in rest and Path(rest["unless"]).exists():
                    return {"answer": rest["answer"]}
                raise AgentError(message)
            case {"raw": first, "then": second}:
                return second if "problem" in data else first
            case "follow":
                return {"answer": data["opinions"][0]["answer"], "reason": "as the first one says"}
            case _:
                return {"answer": vote, "reason": f"{data['member']} likes it"}


class Chair(BaseAgent):
    """Decides where members do not agree: what the last one said."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        ctx.step(note, "decides", ctx)
        return {"answer": data["opinions"][-1]["answer"], "after": data["rounds"]}


class Clerk(BaseAgent):
    """Hands over as the run's input says, by how often it has had the work."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        ctx.step(note, f"has:{data['agent']}", ctx)
        had = sum(each["from"] == data["agent"] for each in data["history"]) + ("problem" in data)
        turn = said(ctx.run_input["turns"][data["agent"]], had + 1)
        match turn:
            case {"error": message}:
                raise AgentError(message)
            case "told":
                return {"told": data}
            case _:
                return turn
