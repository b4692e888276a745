"""Guards around a conversation: what is asked, what is answered, what tools are given and what they give passes them first.

Answers, arguments and results are looked at before they are recorded, as part of the effect that brings them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from orchestrator.contracts.jsonvalue import storable
from orchestrator.errors import GuardRefused, ToolError
from worker.effects.base import Flow, RunStep
from worker.effects.guards import CheckTexts
from worker.effects.models import Reviewed
from worker.effects.tools import Passed
from worker.effects.waits import NO_DEFAULT, make_ask
from worker.guards.base import Finding, Guard, Place, Ruling, Stage
from worker.guards.ruling import looks_at, ruled
from worker.llm.base import LLMResponse
from worker.llm.message import Message, Text, ToolCall
from worker.loop.steps import Perform, Steps
from worker.tools.tool import failed, said

_PASS, _REFUSE = "let it pass", "refuse"


def guarded_input(guards: Sequence[Guard], messages: Sequence[Message]) -> Steps[tuple[Message, ...]]:
    """Give the messages of a question as they may be asked; raises `GuardRefused`. Those of earlier answers are among them."""
    if not looks_at(guards, Stage.INPUT):
        return tuple(messages)
    texts = _texts(messages)
    check = CheckTexts(partial(ruled, guards, texts, Place(stage=Stage.INPUT)), Stage.INPUT)
    ruling: Ruling = yield Perform(_checked(check, texts))
    return _with(messages, ruling.texts)


def _checked(check: CheckTexts, texts: Mapping[int, str]) -> Flow[Ruling]:
    ruling: Ruling = yield check
    passed = {**texts, **ruling.texts}
    yield from _let_pass(ruling.findings, lambda finding: passed[finding.number])
    return ruling


def _let_pass(findings: Sequence[Finding], text_of: Callable[[Finding], str]) -> Flow[None]:
    """Raise `GuardRefused` for what is refused, also by a person; in the flow of what was found, which a retry then repeats."""
    for finding in findings:
        if finding.action == "refuse":
            raise _refusal(finding, finding.told)
        if finding.action == "ask" and not (yield from _decided(finding, text_of(finding))):
            raise _refusal(finding, _refused_by_a_person(finding))


# Answers --------------------------------------------------------------------------------------------------------------


def review_of(guards: Sequence[Guard], unseen: str) -> Callable[[LLMResponse], LLMResponse] | None:
    """Give what looks at an answer before it is recorded, None where nobody does; not at calls of the tool `unseen`."""
    if not looks_at(guards, Stage.OUTPUT, Stage.ARGUMENTS):
        return None
    return partial(_reviewed, guards, unseen)


def _reviewed(guards: Sequence[Guard], unseen: str, response: LLMResponse) -> LLMResponse:
    answer = ruled(guards, {0: response.text}, Place(stage=Stage.OUTPUT))
    findings, calls = [*answer.findings], [*response.tool_calls]
    for number, call in enumerate(calls):
        if call.name == unseen:
            continue
        ruling = ruled(guards, {0: _as_written(call)}, Place(stage=Stage.ARGUMENTS, tool=call.name), call.id)
        findings += ruling.findings
        if ruling.texts:
            calls[number] = call.model_copy(update={"arguments": ruling.texts[0] or "{}"})
    if not findings:
        return response
    text = answer.texts.get(0, response.text)
    given = {**dict(response), "text": text, "tool_calls": tuple(calls), "findings": tuple(findings)}
    return Reviewed.model_validate(given)


def _as_written(call: ToolCall) -> str:
    """Give arguments without escapes: what is looked at is what the tool will get."""
    try:
        return json.dumps(call.parsed(), ensure_ascii=False)
    except (ValueError, RecursionError):
        return call.arguments


def answer_flow(response: LLMResponse) -> Flow[Mapping[str, tuple[Finding, ...]]]:
    """Give what was found in the arguments of each call; raises `GuardRefused` where the answer, or the agent, may not go on."""
    if not isinstance(response, Reviewed):
        return {}
    _end([each for each in response.findings if each.call])
    yield from _let_pass([each for each in response.findings if not each.call], lambda _: response.text)
    calls = {call.id for call in response.tool_calls}
    return {each: tuple(found for found in response.findings if found.call == each) for each in calls}


def allowed(call: ToolCall, findings: Sequence[Finding]) -> Steps[None]:
    """Raise `ToolError`, to be told to the model, for arguments that were refused, also by a person."""
    for finding in findings:
        if finding.action == "refuse":
            raise ToolError(finding.told)
        if finding.action == "ask" and not (yield Perform(_decided(finding, call.arguments))):
            raise ToolError(_refused_by_a_person(finding))


# Results --------------------------------------------------------------------------------------------------------------


def result_review(guards: Sequence[Guard], call: ToolCall) -> Callable[[Any], Passed | None] | None:
    """Give what looks at what a tool gives before that is recorded, None where nobody does."""
    return partial(_reviewed_result, guards, call) if looks_at(guards, Stage.RESULT) else None


def _reviewed_result(guards: Sequence[Guard], call: ToolCall, result: Any) -> Passed | None:
    message = said(call, result)
    ruling = ruled(guards, _texts([message]), Place(stage=Stage.RESULT, tool=call.name), call.id)
    if not ruling.findings:
        return None
    return Passed(message=_with([message], ruling.texts)[0], findings=ruling.findings)


def result_flow(step: RunStep) -> Flow[Any]:
    """Call a tool; raises `GuardRefused` where what it gives ends the agent."""
    result = yield step
    if isinstance(result, Passed):
        _end(result.findings)
    return result


def guarded_result(guards: Sequence[Guard], call: ToolCall, message: Message) -> Steps[Message]:
    """Give a result that is no effect's outcome as it may be told: that it passes is recorded, since nothing else tells it."""
    if not looks_at(guards, Stage.RESULT):
        return message
    rule = partial(ruled, guards, _texts([message]), Place(stage=Stage.RESULT, tool=call.name), call.id)
    ruling: Ruling = yield Perform(_ended_by(CheckTexts(rule, Stage.RESULT, alone=True)))
    return (yield from passed_result(call, _with([message], ruling.texts)[0], ruling.findings))


def _ended_by(check: CheckTexts) -> Flow[Ruling]:
    ruling: Ruling = yield check
    _end(ruling.findings)
    return ruling


def passed_result(call: ToolCall, message: Message, findings: Sequence[Finding]) -> Steps[Message]:
    """Give what the model is told of a result in which guards have found something."""
    for finding in findings:
        if finding.action == "refuse":
            return failed(call, ToolError(finding.told))
        if finding.action == "ask" and not (yield Perform(_decided(finding, message.text))):
            return failed(call, ToolError(_refused_by_a_person(finding)))
    return message


def _end(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.action == "refuse" and finding.ends:
            raise _refusal(finding, finding.told)


# People and texts -----------------------------------------------------------------------------------------------------


def _decided(finding: Finding, text: str) -> Flow[bool]:
    """Ask a person whether a text passes; raises `GuardRefused` where the agent ends if it does not."""
    expires = finding.expires_seconds
    question = make_ask(
        f"May {finding.place} pass? Guard {finding.guard} asks: {finding.because or 'it gives no reason'}",
        choices=(_PASS, _REFUSE),
        answer=None,
        expires=expires,
        default=NO_DEFAULT if expires is None else _REFUSE,
        about={**finding.place.model_dump(mode="json", exclude_defaults=True), "text": storable(text)},
    )
    passes = (yield question) == _PASS
    if finding.ends and not passes:
        raise _refusal(finding, _refused_by_a_person(finding))
    return passes


def _refused_by_a_person(finding: Finding) -> str:
    return f"a person has not let pass {finding.place}, which guard {finding.guard} had asked about: {finding.because}"


def _refusal(finding: Finding, message: str) -> GuardRefused:
    details = {"guard": finding.guard, **finding.place.model_dump(mode="json", exclude_defaults=True)}
    return GuardRefused(message, details=details)


def _texts(messages: Sequence[Message]) -> dict[int, str]:
    """Give all texts of messages, numbered."""
    return dict(enumerate(part.text for message in messages for part in message.parts if isinstance(part, Text)))


def _with(messages: Sequence[Message], texts: Mapping[int, str]) -> tuple[Message, ...]:
    """Give messages with other texts in the place of some, by their number."""
    numbers = count()
    return tuple(_with_its(message, texts, numbers) for message in messages) if texts else tuple(messages)


def _with_its(message: Message, texts: Mapping[int, str], numbers: count[int]) -> Message:
    parts = tuple(
        Text(text=texts.get(next(numbers), part.text)) if isinstance(part, Text) else part for part in message.parts
    )
    if not isinstance(message.content, str):
        return message.model_copy(update={"content": parts})
    return message.model_copy(update={"content": "".join(part.text for part in parts if isinstance(part, Text))})
