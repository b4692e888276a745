"""Agents that talk to each other."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from worker.agent import (
    OUTSIDE,
    AgentMessage,
    AsyncContext,
    BaseAgent,
    Context,
    InputInvalid,
    MailboxFull,
    MessageTimeout,
    NoMessageCanCome,
    RecipientEnded,
    UnknownRecipient,
)


def _note(data: dict[str, Any], *words: object) -> None:
    """Write down what happened: with one call of the system, so that lines do not mix."""
    if "ledger" in data:
        with Path(data["ledger"]).open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")


class Asker(BaseAgent):
    """Ask a number of questions, one after the other."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        got: list[int] = []
        took: list[float] = []
        for number in range(data["times"]):
            began = time.perf_counter()
            reply = ctx.request("answerer", {"n": number})
            took.append(time.perf_counter() - began)
            got.append(reply.body["n"])
        ctx.send("answerer", type="stop")
        return {"got": got, "took": took}


class Answerer(BaseAgent):
    """Answer until told to stop."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        answered = 0

        def answer(message: AgentMessage) -> None:
            nonlocal answered
            answered += 1
            ctx.reply(message, {"n": message.body["n"] * 10})

        done = ctx.subscribe(lambda message: message.type, type="stop")
        ctx.listen(done, ctx.subscribe(answer))
        return {"answered": answered}


class Flooder(BaseAgent):
    """Send numbers to `drain`, many at a time."""

    def execute(self, data: dict[str, Any], ctx: Context) -> int:
        times, size = data["times"], data["size"]
        for batch in range(times):
            ctx.send_many("drain", [batch * size + number for number in range(size)])
        return times * size


class Drain(BaseAgent):
    """Receive so many numbers, as many at a time as there are; gives them as they came."""

    def execute(self, data: dict[str, Any], ctx: Context) -> list[int]:
        got: list[int] = []
        while len(got) < data["times"] * data["size"]:
            got += [message.body for message in ctx.receive_many()]
        return got


class LiveFlooder(Flooder):
    """Do what `Flooder` does from when its drain runs on; each beginning of that leaves a line."""

    def execute(self, data: dict[str, Any], ctx: Context) -> int:
        ctx.receive(sender="drain")
        _note(data, "floods")
        return super().execute(data, ctx)


class LiveDrain(Drain):
    """Do what `Drain` does once its flooder runs."""

    def execute(self, data: dict[str, Any], ctx: Context) -> list[int]:
        ctx.send("flooder", "I run")
        while not Path(data["ledger"]).exists():
            time.sleep(0.01)
        return super().execute(data, ctx)


class IsolatedFlooder(Flooder):
    """Do what `Flooder` does, in a process of its own."""

    isolation = "process"


class IsolatedDrain(Drain):
    """Do what `Drain` does, in a process of its own."""

    isolation = "process"


class AsyncAsker(BaseAgent):
    """Do what `Asker` does, on an event loop."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        got: list[int] = []
        took: list[float] = []
        for number in range(data["times"]):
            began = time.perf_counter()
            reply = await ctx.request("answerer", {"n": number})
            took.append(time.perf_counter() - began)
            got.append(reply.body["n"])
        await ctx.send("answerer", type="stop")
        return {"got": got, "took": took}


class AsyncAnswerer(BaseAgent):
    """Do what `Answerer` does, on an event loop."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        answered = 0

        async def answer(message: AgentMessage) -> None:
            nonlocal answered
            answered += 1
            await ctx.reply(message, {"n": message.body["n"] * 10})

        done = ctx.subscribe(lambda message: message.type, type="stop")
        await ctx.listen(done, ctx.subscribe(answer))
        return {"answered": answered}


class IsolatedAsker(Asker):
    """Do what `Asker` does, in a process of its own."""

    isolation = "process"


class IsolatedAnswerer(Answerer):
    """Do what `Answerer` does, in a process of its own."""

    isolation = "process"


class Chatter(BaseAgent):
    """Send each other one some messages, and receive theirs; what was received is the output, by sender and in order."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, list[int]]:
        others = [task for task in data["tasks"] if task != ctx.task]
        for number in range(data["times"]):
            for other in others:
                ctx.send(other, number)
        got: defaultdict[str, list[int]] = defaultdict(list)
        for _ in range(data["times"] * len(others)):
            message = ctx.receive()
            ctx.step(_note, data, ctx.task, message.sender, message.body)
            got[message.sender].append(message.body)
        return dict(sorted(got.items()))


class Filler(BaseAgent):
    """Send numbers to whom the input says, to all others if it does not; then receive what is there, and tell of all that."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        sent, full = 0, ""
        try:
            for number in range(data["times"]):
                if "to" in data:
                    ctx.send(data["to"][ctx.task], number)
                else:
                    ctx.broadcast(number)
                sent += 1
        except (MailboxFull, RecipientEnded) as error:
            full = error.message
        got = [ctx.receive().body for _ in range(data.get("gets", 0))]
        return {"sent": sent, "full": full, "got": got}


class IsolatedFiller(Filler):
    """Do what `Filler` does, in a process of its own."""

    isolation = "process"


class AsyncFiller(BaseAgent):
    """Do what `Filler` does, on an event loop."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        sent, full = 0, ""
        try:
            for number in range(data["times"]):
                await ctx.send(data["to"][ctx.task], number)
                sent += 1
        except (MailboxFull, RecipientEnded) as error:
            full = error.message
        got = [(await ctx.receive()).body for _ in range(data.get("gets", 0))]
        return {"sent": sent, "full": full, "got": got}


class Idle(BaseAgent):
    """Do nothing."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {}


class Soliloquist(BaseAgent):
    """Send itself numbers in one branch, and receive them in another one."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> list[int]:
        async def say() -> None:
            for number in range(data["times"]):
                await ctx.send(ctx.task, number)

        async def hear() -> list[int]:
            return [(await ctx.receive()).body for _ in range(data["times"])]

        _, heard = await asyncio.gather(say(), hear())
        return heard


class LateDrain(BaseAgent):
    """Receive so many numbers, the first of them late."""

    def execute(self, data: dict[str, Any], ctx: Context) -> list[int]:
        ctx.sleep(data["late"])
        return [ctx.receive().body for _ in range(data["times"])]


class Announcer(BaseAgent):
    """Tell all others something."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, str]:
        while "until" in data and not Path(data["until"]).exists():
            time.sleep(0.05)
        return ctx.broadcast(data.get("say", "hello"))


class Hearer(BaseAgent):
    """Receive one message."""

    CAPABILITIES = ("hear",)

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        _note(data, ctx.task, "begins")
        message = ctx.receive(sender=OUTSIDE) if data.get("outside") else ctx.receive()
        return {"from": message.sender, "body": message.body, "type": message.type}


class Waiter(BaseAgent):
    """Wait for whom the input says, and tell of the error."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        try:
            return ctx.receive(sender=data["of"][ctx.task]).body
        except NoMessageCanCome as error:
            return {"error": error.message, "waits": error.details["waits"]}


class Mute(BaseAgent):
    """Receive a request and end without a reply."""

    def execute(self, data: dict[str, Any], ctx: Context) -> None:
        ctx.receive()


class Hopeful(BaseAgent):
    """Make requests that come to nothing, and tell of each error."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        errors: dict[str, str] = {}
        try:
            ctx.request("mute")
        except NoMessageCanCome as error:
            errors["mute"] = error.message
        try:
            ctx.request("nobody")
        except UnknownRecipient as error:
            errors["nobody"] = error.message
        return errors


class Impatient(BaseAgent):
    """Wait for a reply, but not for long, and let the other one go on then."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        try:
            return ctx.request("slow", timeout=data["timeout"]).body
        except MessageTimeout as error:
            ctx.send("slow", type="go")
            return {"error": error.message}


class Slow(BaseAgent):
    """Reply when told to, which is too late."""

    def execute(self, data: dict[str, Any], ctx: Context) -> None:
        message = ctx.receive(type="message")
        ctx.receive(type="go")
        ctx.reply(message, "late")


class Review(BaseModel):
    """What a `Reader` takes."""

    score: float


class Reader(BaseAgent):
    """Receive a review."""

    RECEIVES = Review

    def execute(self, data: dict[str, Any], ctx: Context) -> float:
        return ctx.receive().read(Review).score


class Orderer(BaseAgent):
    """Declare what it receives, and ask for something else; then send what no message can be."""

    RECEIVES = Review

    def execute(self, data: dict[str, Any], ctx: Context) -> list[Any]:
        del data
        said: list[Any] = [ctx.request("answerer", {"n": 4}).body]
        for body in ({1: "a number is no key"}, {"a set"}):
            try:
                ctx.send("answerer", body)
            except InputInvalid as error:
                said.append(error.message)
        ctx.send("answerer", None, type="stop")
        return said


class IsolatedOrderer(Orderer):
    """Do what `Orderer` does, in a process of its own."""

    isolation = "process"


class Careless(BaseAgent):
    """Send what its recipient does not take, then what it takes."""

    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        said = ""
        try:
            ctx.send("reader", {"score": "high"})
        except InputInvalid as error:
            said = error.message
        ctx.send("capability:read" if data.get("by_capability") else "reader", Review(score=0.5))
        return said
