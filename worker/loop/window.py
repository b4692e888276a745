"""Keeping a conversation within the window of its model: its oldest turns are left out, or summed up."""

from __future__ import annotations

from worker.effects.base import Account, Effect, Flow
from worker.effects.models import CallModel
from worker.effects.window import FitWindow, turns_of
from worker.llm.base import LLMRequest, LLMResponse, request_tokens
from worker.llm.message import Message, ToolSpec
from worker.loop.options import Question
from worker.loop.steps import Perform, Steps

#: Every model holds so much: a conversation that is shorter is not looked at.
_ALWAYS_TOKENS = 4000
_SUMMARY_TOKENS = 1000
_SUMMARIZE = (
    "Summarize this part of a conversation for yourself, who will go on with it: what was asked, what was found and done "
    "with which results, what was decided, and what is still to do. Keep names, numbers and ids exactly."
)


def fitted(
    account: Account, question: Question, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]
) -> Steps[tuple[Message, ...]]:
    """Give the messages that are to be sent beside these tools: all, or what is left of them by the question's policy."""
    if question.overflow == "fail":
        return messages
    request = question.request.model_copy(update={"messages": messages, "tools": tools})
    if request_tokens(request) < _ALWAYS_TOKENS:
        return messages
    count: int = yield Perform(_one(FitWindow(request)))
    if not count:
        return messages
    gone = turns_of(messages)[:count]
    left_out = {id(message) for turn in gone for message in turn}
    kept = tuple(message for message in messages if id(message) not in left_out)
    if question.overflow == "truncate":
        return kept
    summary: str = yield Perform(_summarized(account, question, gone))
    # After what was asked first, where what it sums up stood.
    place = next((number for number, message in enumerate(kept) if message.role == "user"), -1) + 1
    told = Message(role="user", content=f"[What was said until now, in short]\n{summary}")
    return (*kept[:place], told, *kept[place:])


def _one(effect: Effect) -> Flow[int]:
    return (yield effect)


def _summarized(account: Account, question: Question, gone: list[list[Message]]) -> Flow[str]:
    told = "\n\n".join(_told(message) for turn in gone for message in turn)
    request = LLMRequest(
        model=question.request.model,
        messages=(Message(role="system", content=_SUMMARIZE), Message(role="user", content=told)),
        max_output_tokens=_SUMMARY_TOKENS,
        fallbacks=question.request.fallbacks,
        cache=question.request.cache,
    )
    response: LLMResponse = yield CallModel(account.begin_call(request))
    account.charge(response)
    return response.text


def _told(message: Message) -> str:
    calls = [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join([f"{message.role}: {message.shown()['content']}".rstrip(), *calls])
