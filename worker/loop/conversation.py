"""The loop, written once and without I/O: ask the model, call its tools side by side, until it has answered.

Every call of the model and of a tool is an effect of its own: an agent that is repeated goes through the loop again, and
gets what is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.errors import AgentError, OutputInvalid
from worker.effects.base import Account, Effect
from worker.effects.models import CallModel
from worker.guards.base import Finding
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.message import Message
from worker.loop.calling import READ_RESULT, Toolbox, called
from worker.loop.guarding import answer_flow, guarded_input, review_of
from worker.loop.options import Question
from worker.loop.steps import Perform, Steps, Together
from worker.loop.toolset import all_tools
from worker.loop.window import fitted

_MOST_FAULTS = 5
#: Whoever is asked again would be cut off again, or decline again.
_NO_REPAIR = frozenset({"max_tokens", "refusal"})


@dataclass(frozen=True, slots=True)
class Answered:
    """What a conversation has come to: the last answer, validated as `output` if one was asked for, and all messages."""

    text: str
    output: Any
    messages: tuple[Message, ...]
    model: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer of the model, what it is as an `output`, and what guards have found in the arguments of its calls."""

    response: LLMResponse
    output: Any
    findings: Mapping[str, tuple[Finding, ...]]


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with an answer."""

    said: str


def conversation(account: Account, question: Question) -> Steps[Answered]:
    """Ask until there is an answer; raises `OutputInvalid` when repairs do not help, and whatever a tool fails with."""
    messages = yield from guarded_input(question.guards, question.request.messages)
    box = Toolbox((yield from all_tools(question.tools)), question.guards)
    review = review_of(question.guards, READ_RESULT.name)
    repairs = question.repairs
    for left in reversed(range(question.max_iterations)):
        messages = yield from fitted(account, question, messages, box.specs)
        request = _request(question, messages, box, is_last=not left)
        final = not (repairs and left)
        answer: _Answer = yield Perform(_asked(account, CallModel(request, review), question.output, final=final))
        response, found = answer.response, answer.output
        if response.tool_calls and not left:
            break  # it was told not to call any: nobody would read what they give
        if response.tool_calls:
            said = Message(role="assistant", content=response.text, tool_calls=response.tool_calls)
            results = yield Together(
                [called(call, box, answer.findings.get(call.id, ())) for call in response.tool_calls]
            )
            box.put_away()
            messages = (*messages, said, *results)
            continue
        said = Message(role="assistant", content=response.text)
        if not isinstance(found, _Fault):
            return Answered(response.text, found, (*messages, said), response.model)
        repairs -= 1
        messages = (*messages, said, Message(role="user", content=_wish(found)))
    raise AgentError(
        f"{question.request.model} has not answered within {question.max_iterations} model calls (max_iterations): it goes on "
        "asking for tools"
    )


def _asked(
    account: Account, asking: CallModel, output: type[BaseModel] | None, *, final: bool
) -> Generator[Effect, Any, _Answer]:
    """Ask once; gives the answer, and what it is as an `output`: what is wrong with it, if it is not the final one."""
    response: LLMResponse = yield replace(asking, request=account.begin_call(asking.request))
    account.charge(response)
    findings = yield from answer_flow(response)
    if output is None or response.tool_calls:
        return _Answer(response, None, findings)
    try:
        return _Answer(response, output.model_validate_json(response.text), findings)
    except ValidationError as error:
        fault = _listed(error)
        if not final and response.stop_reason not in _NO_REPAIR:
            return _Answer(response, _Fault(fault), findings)
        # Raised here, so that a retry of the agent repeats this very call.
        raise OutputInvalid(
            f"{response.model} answered with no valid {output.__name__} (stop reason {response.stop_reason}): {fault}",
            retryable=True,
        ) from None


def _request(question: Question, messages: tuple[Message, ...], box: Toolbox, *, is_last: bool) -> LLMRequest:
    given = question.request.model_copy(update={"messages": messages, "tools": box.specs})
    return given.model_copy(update={"tool_choice": "none"}) if is_last and given.tools else given


def _wish(fault: _Fault) -> str:
    return f"Your answer is not what was asked for: {fault.said}\nGive the whole answer again, corrected."


def _listed(error: ValidationError) -> str:
    faults = json.loads(error.json(include_url=False, include_input=False, include_context=False))
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in faults[:_MOST_FAULTS]
    )
