"""Agents that talk, tested alone: what they find, what they are replied, and what they have sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from worker.agent import OUTSIDE, AgentMessage, AsyncContext, BaseAgent, Context, InputInvalid, MessageTimeout
from worker.testing import Incoming, Recorder, Sent, run_agent


class Verdict(BaseModel):
    good: bool


class Editor(BaseAgent):
    """Ask a critic, tell everybody."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        verdict = ctx.request("critic", {"text": data["text"]}).read(Verdict)
        ctx.send("publisher", verdict, priority=7)
        ctx.broadcast("done", type="news")
        return verdict.good


class Listener(BaseAgent):
    """Collect what comes, until told to stop."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> list[Any]:
        heard: list[Any] = []

        def hear(message: AgentMessage) -> None:
            heard.append([message.sender, message.body])

        stop = ctx.subscribe(lambda _: True, type="stop")
        await ctx.listen(stop, ctx.subscribe(hear))
        return heard


class Reviewed(BaseAgent):
    """Receive a verdict."""

    RECEIVES = Verdict

    def execute(self, data: Any, ctx: Context) -> bool:
        return ctx.receive(timeout=data.get("timeout")).read(Verdict).good


class Sorter(BaseAgent):
    """Receive numbers as they are there, and send them on in order."""

    def execute(self, data: dict[str, Any], ctx: Context) -> list[int]:
        counts: list[int] = []
        numbers: list[int] = []
        while len(numbers) < data["count"]:
            found = ctx.receive_many(type="number", most=data["most"])
            counts.append(len(found))
            numbers += [message.body for message in found]
        ctx.send_many("shelf", sorted(numbers), type="sorted", priority=2)
        return counts


class Counter(BaseAgent):
    """Send one object again and again, changed each time."""

    def execute(self, data: dict[str, Any], ctx: Context) -> None:
        given: dict[str, Any] = {"number": 0}

        def numbers() -> Iterator[dict[str, Any]]:
            for number in range(data["count"]):
                given["number"] = number
                yield given

        ctx.send_many("shelf", numbers())


def test_what_is_sent_is_what_was_given_whatever_becomes_of_it_afterwards(recorder: Recorder) -> None:
    run_agent(Counter, {"count": 3}, recorder=recorder)
    assert [sent.body for sent in recorder.sent] == [{"number": 0}, {"number": 1}, {"number": 2}]


def test_a_request_gets_what_the_test_says_and_all_that_is_sent_is_kept(recorder: Recorder) -> None:
    def reply(message: AgentMessage) -> Verdict:
        return Verdict(good=message.body["text"] == "fine")

    assert run_agent(Editor, {"text": "fine"}, replies={"critic": reply}, recorder=recorder) is True
    assert recorder.sent == [
        Sent("critic", "message", {"text": "fine"}, wants_reply=True),
        Sent("publisher", "Verdict", {"good": True}, 7),
        Sent("critic", "news", "done"),
    ]


def test_what_waits_comes_by_priority_and_then_in_its_order() -> None:
    inbox = [
        Incoming("a", 1),
        Incoming("b", 2, priority=9),
        Incoming(OUTSIDE, 3),
        Incoming("a", type="stop", priority=0),
    ]
    assert run_agent(Listener, {}, inbox=inbox) == [["b", 2], ["a", 1], [OUTSIDE, 3]]


def test_a_wait_with_a_timeout_is_over_at_once() -> None:
    with pytest.raises(MessageTimeout, match="none has come in 3600 s"):
        run_agent(Reviewed, {"timeout": 3600})


def test_a_wait_for_what_nobody_sends_says_what_the_test_has_forgotten() -> None:
    with pytest.raises(AssertionError, match=r"inbox=.*replies="):
        run_agent(Reviewed, {})


def test_what_the_agent_cannot_read_is_an_error_of_the_test() -> None:
    assert run_agent(Reviewed, {}, inbox=[Incoming("a", Verdict(good=True))]) is True
    with pytest.raises(AssertionError, match="its body is not what its recipient takes: good: Field required"):
        run_agent(Reviewed, {}, inbox=[Incoming("a", {"bad": 1})])


def test_what_is_there_is_received_at_once_and_many_are_sent_at_once(recorder: Recorder) -> None:
    inbox = [Incoming("a", number, "number") for number in (3, 1, 2, 5, 4)]
    assert run_agent(Sorter, {"count": 5, "most": 3}, inbox=inbox, recorder=recorder) == [3, 2]
    assert recorder.sent == [Sent("shelf", "sorted", number, 2) for number in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("most", [0, 101])
def test_how_many_may_be_received_at_once_is_bounded(most: int) -> None:
    with pytest.raises(InputInvalid, match="1 to 100 are"):
        run_agent(Sorter, {"count": 1, "most": most}, inbox=[Incoming("a", 1, "number")])
