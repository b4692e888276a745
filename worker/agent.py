"""What plugin authors import: `BaseAgent`, its context, its policies, and the errors an agent may raise.

::

    class Abstracter(BaseAgent):
        \"\"\"Condense an article to its main points.\"\"\"

        CAPABILITIES = ("summarize",)

        async def execute(self, data: Article, ctx: AsyncContext) -> Summary:
            return await ctx.llm(f"Condense:\\n{data.text}", output=Summary)
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, overload

from pydantic import BaseModel

from orchestrator.contracts.policy import Limits, RetryPolicy, Timeouts
from orchestrator.contracts.usage import Usage
from orchestrator.errors import (
    AgentError,
    AgentTimeout,
    InputInvalid,
    ModelCapabilityError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
    RetryableError,
)
from orchestrator.planning.inputs import Upstream
from worker.effects import (
    Account,
    Effect,
    drive,
    drive_async,
    llm_flow,
    make_request,
    progress_flow,
    step_flow,
)
from worker.llm import offline
from worker.llm.base import Message

__all__ = [
    "AgentError",
    "AgentTimeout",
    "AsyncContext",
    "BaseAgent",
    "Context",
    "InputInvalid",
    "Limits",
    "Message",
    "ModelCapabilityError",
    "ModelError",
    "ModelRateLimited",
    "ModelRefused",
    "ModelUnavailable",
    "RetryPolicy",
    "RetryableError",
    "Timeouts",
    "Upstream",
    "Usage",
    "offline",
]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Prompt = str | Sequence[Message | Mapping[str, str]]

DEFAULT_OUTPUT_TOKENS = 4096


class BaseAgent:
    """An agent: derive, say what `execute` takes and gives, and put the file into `agents/`.

    One instance is made for each agent run, with no arguments. The annotations of `execute` validate input and output:
    a pydantic model, or `dict` for anything. `execute` may be `async`; it then takes an `AsyncContext`.
    """

    #: Defaults to the class name in snake case.
    name: ClassVar[str] = ""
    CAPABILITIES: ClassVar[tuple[str, ...]] = ()
    #: `provider:model`; None takes the installation's default (`offline` without a provider key).
    model: ClassVar[str | None] = None
    #: For tasks that set none of their own.
    timeouts: ClassVar[Timeouts] = Timeouts()
    limits: ClassVar[Limits] = Limits()

    def execute(self, data: Any, ctx: Any) -> Any:
        """Do the work on one input; what it returns is stored as the task's output."""
        raise NotImplementedError(f"{type(self).__name__} must define execute(self, data, ctx)")


class Host(Protocol):
    """Who performs effects: the live runtime, or a test."""

    def perform(self, effect: Effect) -> Any: ...

    async def perform_async(self, effect: Effect) -> Any: ...

    def log(self, event: str, fields: Mapping[str, Any]) -> None: ...


class _BaseContext:
    """What both contexts know without asking anybody."""

    def __init__(
        self, host: Host, account: Account, *, run_id: str, task: str, run_input: Any, upstream: Mapping[str, Upstream]
    ) -> None:
        self._host = host
        self._account = account
        #: Ids of this run and this task.
        self.run_id = run_id
        self.task = task
        #: The input of the whole run.
        self.run_input = run_input
        #: For each task this one depends on: its `state`, `output` and `error`. Failed ones have an error, no output.
        self.upstream = upstream

    @property
    def model(self) -> str:
        """The model that `llm` asks: `offline` where no provider is configured."""
        return self._account.model

    @property
    def usage(self) -> Usage:
        """What this agent run's model calls have used so far."""
        return self._account.usage

    def log(self, event: str, **fields: Any) -> None:
        """Write a line to the worker's log, with run, task and agent added."""
        self._host.log(event, fields)


class Context(_BaseContext):
    """The only door to the outside for a sync agent: what goes through it is limited and cancelled."""

    @overload
    def llm(self, prompt: Prompt, *, system: str | None = None, max_output_tokens: int = ...) -> str: ...
    @overload
    def llm(self, prompt: Prompt, *, output: type[M], system: str | None = None, max_output_tokens: int = ...) -> M: ...
    def llm(
        self,
        prompt: Prompt,
        *,
        output: type[BaseModel] | None = None,
        system: str | None = None,
        max_output_tokens: int = DEFAULT_OUTPUT_TOKENS,
    ) -> Any:
        """Ask the agent's model: gives its text, or a validated `output`.

        Raises a `ModelError` that says whether a retry can help; `offline` refuses an `output` (`ModelCapabilityError`).
        """
        request = make_request(self.model, prompt, system=system, output=output, max_output_tokens=max_output_tokens)
        return drive(llm_flow(self._account, request, output), self._host.perform)

    def step(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that touches the outside; give it here rather than calling it yourself."""
        return drive(step_flow(self._account, function, args, kwargs), self._host.perform)

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Tell whoever watches the run how far the agent is; `fraction` is 0..1."""
        drive(progress_flow(self._account, message, fraction), self._host.perform)


class AsyncContext(_BaseContext):
    """`Context` for an agent whose `execute` is `async`: the same methods, awaited."""

    @overload
    async def llm(self, prompt: Prompt, *, system: str | None = None, max_output_tokens: int = ...) -> str: ...
    @overload
    async def llm(
        self, prompt: Prompt, *, output: type[M], system: str | None = None, max_output_tokens: int = ...
    ) -> M: ...
    async def llm(
        self,
        prompt: Prompt,
        *,
        output: type[BaseModel] | None = None,
        system: str | None = None,
        max_output_tokens: int = DEFAULT_OUTPUT_TOKENS,
    ) -> Any:
        """Ask the agent's model; see `Context.llm`."""
        request = make_request(self.model, prompt, system=system, output=output, max_output_tokens=max_output_tokens)
        return await drive_async(llm_flow(self._account, request, output), self._host.perform_async)

    async def step(self, function: Callable[..., Awaitable[T] | T], *args: Any, **kwargs: Any) -> T:
        """Call a function, or await a coroutine function; a plain function runs in a thread and blocks nobody."""
        return await drive_async(step_flow(self._account, function, args, kwargs), self._host.perform_async)

    async def progress(self, message: str, fraction: float | None = None) -> None:
        """Tell whoever watches the run how far the agent is; `fraction` is 0..1."""
        await drive_async(progress_flow(self._account, message, fraction), self._host.perform_async)


def name_of(agent_class: type[BaseAgent]) -> str:
    """Give an agent's name: its own, else the class name in snake case (`FactChecker` is `fact_checker`)."""
    if agent_class.name:
        return agent_class.name
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", agent_class.__name__)
    return text.lower()
