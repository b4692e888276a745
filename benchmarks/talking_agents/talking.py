"""Agents that exchange messages: what is measured is how many, and how fast one is answered."""

import time
from typing import Any

from worker.agent import BaseAgent, Context


class Sender(BaseAgent):
    """Send numbers to the receiver with its own number, many at a time."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        to, size = ctx.task.replace("sender", "receiver"), data["size"]
        for batch in range(data["batches"]):
            ctx.send_many(to, [batch * size + number for number in range(size)])
        return {"n": data["batches"] * size}


class Receiver(BaseAgent):
    """Receive as many as were sent; tells how many came in their order."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        expected = 0
        while expected < data["batches"] * data["size"]:
            for message in ctx.receive_many():
                if message.body != expected:
                    raise ValueError(f"{message.body} came in the place of {expected}")
                expected += 1
        return {"n": expected}


class Asker(BaseAgent):
    """Ask question after question, with a pause before each."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        for number in range(1, data["questions"] + 1):
            if data["pause"]:
                ctx.sleep(data["pause"])
            reply = ctx.request("answerer", number)
            if reply.body != -number:
                raise ValueError(f"{reply.body} is no answer to {number}")
        return {"n": data["questions"]}


class Answerer(BaseAgent):
    """Answer as many questions as are asked."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        for _ in range(data["questions"]):
            message = ctx.receive()
            ctx.reply(message, -message.body)
        return {"n": data["questions"]}


class Teller(BaseAgent):
    """Tell the hearer the time, again and again."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        for _ in range(data["times"]):
            time.sleep(data["pause"])
            ctx.send("hearer", time.perf_counter())
        return {"n": data["times"]}


class Hearer(BaseAgent):
    """Hear the time; gives by how many milliseconds it was late."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        late = [(time.perf_counter() - said) * 1000 for said in (ctx.receive().body for _ in range(data["times"]))]
        return {"took": late}


class Idler(BaseAgent):
    """Wait for a message from outside."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        del data
        return {"n": ctx.receive(sender="@outside").body}
