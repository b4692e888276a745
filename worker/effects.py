"""What an agent may ask of the outside, decided without doing it: generators that yield effects and receive outcomes.

One flow serves a sync and an async agent, a test and a replay: they differ in who performs the effects.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.contracts.policy import Limits
from orchestrator.contracts.usage import Usage
from orchestrator.errors import AgentError, ClaimLost, OutputInvalid
from worker.llm.base import LLMRequest, LLMResponse, Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallModel:
    """One model call."""

    request: LLMRequest


@dataclass(frozen=True, slots=True)
class RunStep:
    """A function of the author's, called once."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """A line of progress for whoever watches the run."""

    message: str
    fraction: float | None


Effect = CallModel | RunStep | Report
Flow = Generator[Effect, Any, T]


@dataclass(slots=True)
class Account:
    """What an execution has used so far, and whether it may go on; shared by all flows of one agent run."""

    model: str
    limits: Limits = field(default_factory=Limits)
    usage: Usage = field(default_factory=Usage)
    #: The model that answered last: what the agent run's row will name.
    answered_by: str | None = None
    #: Why the next effect must not happen: the claim was lost, or the soft limit has passed.
    stopped: AgentError | ClaimLost | None = None

    def check(self) -> None:
        """Raise what stopped this execution, if anything did."""
        if self.stopped is not None:
            raise self.stopped


def llm_flow(account: Account, request: LLMRequest, output: type[BaseModel] | None) -> Flow[Any]:
    """Call a model within the agent's limits; gives its text, or the validated `output`."""
    most = account.limits.model_calls
    if most is not None and account.usage.model_calls >= most:
        raise AgentError(f"the agent has used its {most} model calls (Limits.model_calls)")
    account.check()
    response: LLMResponse = yield CallModel(request)
    account.usage += response.usage
    account.answered_by = response.model
    return response.text if output is None else _structured(response, output)


def step_flow(
    account: Account, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Flow[Any]:
    """Call a function of the author's; gives what it gives."""
    account.check()
    return (yield RunStep(function, args, kwargs))


def progress_flow(account: Account, message: str, fraction: float | None) -> Flow[None]:
    """Tell whoever watches the run how far the agent is."""
    account.check()
    if fraction is not None and not 0 <= fraction <= 1:
        raise AgentError(f"progress: fraction {fraction} is outside 0..1")
    yield Report(message, fraction)


def make_request(
    model: str,
    prompt: str | Sequence[Message | Mapping[str, str]],
    *,
    system: str | None,
    output: type[BaseModel] | None,
    max_output_tokens: int,
) -> LLMRequest:
    """Make the request of an `llm` call: text is one user message, `system` goes before everything."""
    given = [Message(role="user", content=prompt)] if isinstance(prompt, str) else [_message(item) for item in prompt]
    first = [] if system is None else [Message(role="system", content=system)]
    return LLMRequest(
        model=model,
        messages=(*first, *given),
        max_output_tokens=max_output_tokens,
        output_schema=None if output is None else output.model_json_schema(),
    )


def drive(flow: Flow[T], perform: Callable[[Effect], Any]) -> T:
    """Run a flow to its end with a function that performs effects."""
    try:
        effect = next(flow)
        while True:
            try:
                outcome = perform(effect)
            except Exception as error:  # noqa: BLE001 - whatever went wrong is an outcome for the flow to see
                effect = flow.throw(error)
            else:
                effect = flow.send(outcome)
    except StopIteration as stop:
        return stop.value


async def drive_async(flow: Flow[T], perform: Callable[[Effect], Awaitable[Any]]) -> T:
    """Run a flow to its end with a coroutine function that performs effects."""
    try:
        effect = next(flow)
        while True:
            try:
                outcome = await perform(effect)
            except Exception as error:  # noqa: BLE001
                effect = flow.throw(error)
            else:
                effect = flow.send(outcome)
    except StopIteration as stop:
        return stop.value


def _message(item: Message | Mapping[str, str]) -> Message:
    return item if isinstance(item, Message) else Message.model_validate(item)


def _structured(response: LLMResponse, output: type[BaseModel]) -> BaseModel:
    try:
        return output.model_validate_json(response.text)
    except ValidationError as error:
        faults = json.loads(error.json(include_url=False, include_input=False, include_context=False))
        listed = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in faults[:5])
        raise OutputInvalid(
            f"{response.model} answered with no valid {output.__name__} (stop reason {response.stop_reason}): {listed}",
            retryable=True,
        ) from None
