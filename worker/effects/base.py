"""What an agent may ask of the outside, decided without doing it: generators that yield effects and receive outcomes.

One flow serves a sync and an async agent, a test and a replay: they differ in who performs the effects.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.contracts.effect import EventLine
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.policy import Limits
from orchestrator.contracts.usage import Usage
from orchestrator.errors import AgentError, ClaimLost, OutputInvalid
from worker.effects import steps
from worker.llm.base import LLMRequest, LLMResponse, Message

T = TypeVar("T")


class Effect(ABC):
    """Something that an agent does to the outside: what it asks, and how its outcome is JSON and back."""

    __slots__ = ()

    kind: ClassVar[str]
    #: Whether it must not be repeated where it may have begun.
    at_most_once: bool = False

    @abstractmethod
    def asked(self) -> JsonValue:
        """Give what makes two requests the same."""

    def told(self) -> str | None:
        """Give the request as people read it."""
        return None

    def encode(self, outcome: Any, limit_bytes: int) -> JsonValue:  # noqa: ARG002 - most are small
        """Give the outcome as JSON; raises `OutputInvalid` or `ValueTooLarge`."""
        return outcome

    def decode(self, recorded: JsonValue) -> Any:
        """Give the outcome that was recorded, as the agent gets it: the first time too."""
        return recorded

    def conversation(self) -> Sequence[JsonValue] | None:
        """Give the messages of a model request."""
        return None

    def event(self) -> EventLine | None:
        """Give the line that is told to watchers together with the record."""
        return None


@dataclass(frozen=True, slots=True)
class CallModel(Effect):
    """One model call."""

    request: LLMRequest
    kind = "model"

    def asked(self) -> JsonValue:
        # Not the model's name: it is the installation's choice, and what an agent was answered stays an answer.
        return self.request.model_dump(mode="json", exclude_defaults=True, exclude={"model"})

    def told(self) -> str:
        return self.request.messages[-1].content

    def encode(self, outcome: Any, limit_bytes: int) -> JsonValue:  # noqa: ARG002
        return outcome.model_dump(mode="json", exclude_defaults=True)

    def decode(self, recorded: JsonValue) -> LLMResponse:
        return LLMResponse.model_validate(recorded)

    def conversation(self) -> Sequence[JsonValue]:
        return [message.model_dump(mode="json") for message in self.request.messages]


@dataclass(frozen=True, slots=True)
class RunStep(Effect):
    """A function of the author's, called once."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    at_most_once: bool = False
    kind = "step"

    def asked(self) -> JsonValue:
        return steps.asked(self.function, self.args, self.kwargs)

    def told(self) -> str:
        return steps.told(self.asked())

    def encode(self, outcome: Any, limit_bytes: int) -> JsonValue:
        return steps.encode(self.function, outcome, limit_bytes=limit_bytes)

    def decode(self, recorded: JsonValue) -> Any:
        return steps.decode(self.function, recorded)


@dataclass(frozen=True, slots=True)
class Report(Effect):
    """A line of progress for whoever watches the run."""

    message: str
    fraction: float | None
    kind = "progress"

    def asked(self) -> JsonValue:
        # Any line is as good as any other: nothing follows from it.
        return None

    def event(self) -> EventLine:
        return EventLine(self.message, None if self.fraction is None else {"fraction": self.fraction})


@dataclass(frozen=True, slots=True)
class ReadClock(Effect):
    """What time it is."""

    kind = "now"

    def asked(self) -> JsonValue:
        return None

    def encode(self, outcome: Any, limit_bytes: int) -> JsonValue:  # noqa: ARG002
        return outcome.isoformat()

    def decode(self, recorded: JsonValue) -> datetime:
        return datetime.fromisoformat(recorded)


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
    #: How many model calls have begun.
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self) -> None:
        """Raise what stopped this execution, if anything did."""
        if self.stopped is not None:
            raise self.stopped

    def begin_call(self) -> None:
        """Count a model call; raises `AgentError` when the agent has used all that it may."""
        most = self.limits.model_calls
        with self._lock:
            if most is not None and self.calls >= most:
                raise AgentError(f"the agent has used its {most} model calls (Limits.model_calls)")
            self.calls += 1

    def charge(self, response: LLMResponse) -> None:
        """Add what a model call used."""
        with self._lock:
            self.usage += response.usage
            self.answered_by = response.model


def llm_flow(account: Account, request: LLMRequest, output: type[BaseModel] | None) -> Flow[Any]:
    """Call a model within the agent's limits; gives its text, or the validated `output`."""
    account.begin_call()
    response: LLMResponse = yield CallModel(request)
    account.charge(response)
    return response.text if output is None else _structured(response, output)


def step_flow(step: RunStep) -> Flow[Any]:
    """Call a function of the author's; gives what it gives."""
    return (yield step)


def progress_flow(message: str, fraction: float | None) -> Flow[None]:
    """Tell whoever watches the run how far the agent is."""
    if fraction is not None and not 0 <= fraction <= 1:
        raise AgentError(f"progress: fraction {fraction} is outside 0..1")
    yield Report(message, fraction)


def now_flow() -> Flow[datetime]:
    """Tell the time."""
    return (yield ReadClock())


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


def drive(flow: Generator[Any, Any, T], perform: Callable[[Any], Any]) -> T:
    """Run a generator to its end with a function that does what it yields."""
    try:
        asked = next(flow)
        while True:
            try:
                outcome = perform(asked)
            except BaseException as error:  # noqa: BLE001 - whatever went wrong is for the generator to see
                asked = flow.throw(error)
            else:
                asked = flow.send(outcome)
    except StopIteration as stop:
        return stop.value


async def drive_async(flow: Generator[Any, Any, T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    """Run a generator to its end with a coroutine function that does what it yields."""
    try:
        asked = next(flow)
        while True:
            try:
                outcome = await perform(asked)
            except BaseException as error:  # noqa: BLE001
                asked = flow.throw(error)
            else:
                asked = flow.send(outcome)
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
