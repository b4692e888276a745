"""What an agent may ask of the outside, decided without doing it: generators that yield effects and receive outcomes.

One flow serves a sync and an async agent, a test and a replay: they differ in who performs the effects.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from orchestrator.contracts.effect import EventLine
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.policy import Limits
from orchestrator.contracts.usage import Usage
from orchestrator.errors import AgentError, ClaimLost
from worker.effects import steps
from worker.llm.base import LLMRequest, LLMResponse

T = TypeVar("T")


class Effect(ABC):
    """Something that an agent does to the outside: what it asks, and how its outcome is JSON and back."""

    __slots__ = ()

    kind: ClassVar[str]
    #: Whether it must not be repeated where it may have begun.
    at_most_once: bool = False
    #: Whether an outcome of None leaves no record and takes no slot: where something else is recorded, that is what it was.
    leaves_out: ClassVar[bool] = False

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

    def event(self, outcome: JsonValue) -> EventLine | None:  # noqa: ARG002
        """Give the line that is told to watchers together with the record."""
        return None

    def spent(self, outcome: Any) -> Mapping[str, Any]:  # noqa: ARG002
        """Give what is recorded beside the outcome: what was used, and the model that answered."""
        return {}


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

    def event(self, outcome: JsonValue) -> EventLine:  # noqa: ARG002
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
    #: What is said to the model before everything, in place of what the agent says; None for what it says.
    system: str | None = None
    #: Why the next effect must not happen: the claim was lost, or the soft limit has passed.
    stopped: AgentError | ClaimLost | None = None
    #: How many model calls have begun.
    calls: int = 0
    #: How often the agent has begun in this claim.
    begun: int = 0
    #: How often each question was asked, by its mark.
    asked: Counter[int] = field(default_factory=Counter[int], repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def check(self) -> None:
        """Raise what stopped this execution, if anything did."""
        if self.stopped is not None:
            raise self.stopped

    @property
    def restarts(self) -> int:
        """How often the agent has begun anew in this claim."""
        return max(0, self.begun - 1)

    def begin_again(self) -> None:
        """Count from the beginning: an agent that is repeated asks all that it has asked."""
        self.begun += 1
        self.calls = 0
        self.asked.clear()

    def begin_call(self, request: LLMRequest) -> LLMRequest:
        """Count a model call, and number its question; raises `AgentError` when the agent has used all that it may."""
        most, mark = self.limits.model_calls, request.mark if request.cache else None
        with self._lock:
            if most is not None and self.calls >= most:
                raise AgentError(f"the agent has used its {most} model calls (Limits.model_calls)")
            self.calls += 1
            if mark is None:
                return request
            sample = self.asked[mark]
            self.asked[mark] += 1
        return request if sample == 0 else request.model_copy(update={"sample": sample})

    def add(self, usage: Mapping[str, int]) -> None:
        """Add what was used beside the model's answers."""
        if usage:
            with self._lock:
                self.usage += Usage(**usage)

    def charge(self, response: LLMResponse) -> None:
        """Add what a model call used."""
        with self._lock:
            self.usage += response.usage
            self.answered_by = response.model


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
