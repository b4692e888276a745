"""`MockLLM`: a model that gives exactly the replies that a test scripts, in order or by what is asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from orchestrator.contracts.usage import Usage
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.message import ToolCall, estimate_tokens
from worker.testing.matching import Rule, When, listed
from worker.testing.standin import By, ModelCall, StandIn

_SHOWN_CHARACTERS = 200

#: What a scripted model answers: text, a model (as JSON), a call of a tool or several at once, a whole response, an error
#: to raise, or a function's result.
Reply = str | BaseModel | ToolCall | Sequence[ToolCall] | Exception | Callable[[LLMRequest], Any]


def call(tool: str, /, **arguments: Any) -> ToolCall:
    """Make a scripted model's wish to call a tool."""
    return ToolCall(id=f"call-{tool}", name=tool, arguments=json.dumps(arguments))


class MockLLM(StandIn):
    """A model that gives exactly the scripted replies; thread-safe. `calls` holds every request it got, with its agent.

    A call gets the reply of the first rule (`when`) that takes it, else the next of the `replies`; one that gets neither
    is an `AssertionError` that says what was asked and which rules there are.
    """

    name = "mock"

    def __init__(self, *replies: Reply) -> None:
        self._replies: list[Reply] = []
        self._given = 0
        self._rules: list[Rule[Reply]] = []
        self._lock = threading.Lock()
        self.calls: list[ModelCall] = []
        self.reply(*replies)

    def reply(self, *replies: Reply) -> None:
        """Add replies to those that are given in order, to calls that no rule takes."""
        self._replies += map(_check, replies)

    def when(
        self,
        *,
        agent: str | None = None,
        prompt: str | re.Pattern[str] | None = None,
        system: str | re.Pattern[str] | None = None,
        tool: str | None = None,
        output: type[BaseModel] | str | None = None,
        that: Callable[[ModelCall], bool] | None = None,
    ) -> Rule[Reply]:
        """Add a rule for calls like this; give it replies with `.reply(...)`, each once, or `.always(...)`.

        `prompt` is what the user said last, `system` what the system says: text that is contained, or a compiled expression
        that is found. `tool` is one that the model may call, `output` the type of the answer or its name, `that` a function
        of the call. All that is given has to be the case.
        """
        rule = Rule(When(agent, prompt, system, tool, output, that), _check)
        self._rules.append(rule)
        return rule

    def assert_used_up(self) -> None:
        """Raise `AssertionError` naming the replies that nobody has asked for."""
        left = [f"{len(self._replies) - self._given} of its replies in order"] * (self._given < len(self._replies))
        left += [f"{rule.left} of the rule {rule.when}" for rule in self._rules if rule.left]
        if left:
            raise AssertionError(
                f"MockLLM has replies that nobody has asked for: {'; '.join(left)}; it was called {len(self.calls)} times"
            )

    def begin(self, declared: str | None) -> tuple[str, int]:  # noqa: ARG002 - whatever an agent declares, it is this one
        """Begin a run."""
        return "mock:script", 0

    def answer(self, request: LLMRequest, by: By) -> LLMResponse:
        """Give the reply to a call; raises `AssertionError` when there is none."""
        asked = ModelCall.of(request, by.agent)
        with self._lock:
            self.calls.append(asked)
            number = len(self.calls)
            reply = self._next(asked)
        if reply is None:
            raise AssertionError(self._complaint(asked, number))
        return self._response(reply, request, number)

    def _next(self, asked: ModelCall) -> Reply | None:
        for rule in self._rules:
            if rule.takes(asked):
                return rule.next()
        if self._given == len(self._replies):
            return None
        self._given += 1
        return self._replies[self._given - 1]

    def _complaint(self, asked: ModelCall, number: int) -> str:
        by = f" of agent {asked.agent!r}" if asked.agent else ""
        rules = f" and none of its rules takes it, which are: {listed(self._rules)}" if self._rules else ""
        tools = f"; its tools are {', '.join(asked.tool_names)}" if asked.tools else ""
        output = f"; its output is {asked.output_name}" if asked.output_name else ""
        return (
            f"MockLLM has no reply for call {number}{by}, its script has {len(self._replies)}{rules}{tools}{output}; the "
            f"prompt begins: {beginning(asked.prompt)}"
        )

    def _response(self, reply: Reply, request: LLMRequest, number: int) -> LLMResponse:
        match reply:
            case Exception():
                raise reply
            case LLMResponse():
                return reply
            case ToolCall():
                return self._wishing([reply], request, number)
            case list() | tuple():
                return self._wishing(reply, request, number)
            case BaseModel():
                return self._response(reply.model_dump_json(by_alias=True), request, number)
            case str():
                return LLMResponse(
                    text=reply, model=request.model, usage=self._usage(request, reply), stop_reason="end_turn"
                )
            case _ if callable(reply):
                return self._response(_check(reply(request)), request, number)
            case _:
                raise TypeError(f"no reply: {reply!r}")

    def _wishing(self, calls: Sequence[ToolCall], request: LLMRequest, number: int) -> LLMResponse:
        """Give a response that calls tools; each of its calls has an id of its own."""
        named = tuple(each.model_copy(update={"id": f"{each.id}-{number}-{place}"}) for place, each in enumerate(calls))
        usage = self._usage(request, "".join(each.arguments for each in named))
        return LLMResponse(text="", tool_calls=named, model=request.model, usage=usage, stop_reason="tool_use")

    def _usage(self, request: LLMRequest, produced: str) -> Usage:
        return Usage(model_calls=1, input_tokens=self.count_tokens(request), output_tokens=estimate_tokens(produced))


def beginning(text: str) -> str:
    """Give the beginning of a text as it is shown in an error."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")


def _check(reply: Any) -> Reply:
    several = isinstance(reply, list | tuple) and reply and all(isinstance(each, ToolCall) for each in reply)  # pyright: ignore[reportUnknownVariableType]
    if not (several or isinstance(reply, str | BaseModel | Exception) or callable(reply)):
        raise TypeError(
            f"a reply of MockLLM is text, a pydantic model, calls of tools, an exception or a function of the request, not "
            f"{type(reply).__name__} ({reply!r})"
        )
    return reply
