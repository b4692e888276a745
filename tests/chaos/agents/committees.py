"""Agents of the chaos scenarios that are members of teams; each performs an effect before it answers, and one behind it."""

from __future__ import annotations

import os
import secrets
import time
from typing import Any

from worker.agent import BaseAgent, Context


def note(event: str, ctx: Context, execution: str, effect: object = "-") -> None:
    worker = os.environ["NIGHTFLEET_TEST_WORKER"]
    line = f"{event} {ctx.run_id} {ctx.task} {execution} {worker} {effect}\n"
    handle = os.open(os.environ["NIGHTFLEET_TEST_LEDGER"] + ".effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class _Member(BaseAgent):
    def execute(self, data: Any, ctx: Context) -> dict[str, Any]:
        self.ctx, self.execution = ctx, secrets.token_hex(6)
        note("begin", ctx, self.execution)
        ctx.step(self.work, "first")
        answer = self.answer(data)
        ctx.step(self.work, "last")
        return answer

    def work(self, what: str) -> None:
        note("effect", self.ctx, self.execution, what)
        time.sleep(self.ctx.run_input["seconds"])  # work of a scenario takes a while

    def answer(self, data: Any) -> dict[str, Any]:
        raise NotImplementedError


class Foreman(_Member):
    """Has three pieces of work done, one of them behind the others, then one more, and gives what came of all."""

    def answer(self, data: dict[str, Any]) -> dict[str, Any]:
        match data["round"]:
            case 1:
                work = [("c", ["a", "b"]), ("a", []), ("b", [])]
            case 2:
                work = [("d", ["c"])]
            case _:
                return {"result": {each["id"]: each["output"] for each in [*data["history"], *data["results"]]}}
        return {"assignments": [{"to": "hand", "id": name, "input": name, "after": after} for name, after in work]}


class Hand(_Member):
    """Gives what it was given."""

    def answer(self, data: Any) -> dict[str, Any]:
        return {"done": data}


class Juror(_Member):
    """Says its own name in the first round, and that of the first member in the second."""

    def answer(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"answer": data["opinions"][0]["answer"] if data["opinions"] else data["member"]}


class Clerk(_Member):
    """Hands over until the work has come back to where it began."""

    def answer(self, data: dict[str, Any]) -> dict[str, Any]:
        way = [each["from"] for each in data["history"]]
        if data["agent"] in way:
            return {"way": way}
        # To whom the work has not been yet, at last to who began.
        return {"handoff": next((name for name in data["agents"] if name not in way), way[0] if way else None)}
