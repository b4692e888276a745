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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, Unpack, overload

from pydantic import BaseModel

from orchestrator.clock import uuid_from
from orchestrator.contracts.mail import OUTSIDE, AgentMessage, Filter
from orchestrator.contracts.memory import Memory, Passage
from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import Limits, RetryPolicy, Timeouts
from orchestrator.contracts.shared import GLOBAL, SharedValue
from orchestrator.contracts.usage import Usage
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import (
    AgentError,
    AgentTimeout,
    BoundReached,
    CallFailed,
    CallLimitExceeded,
    EffectUncertain,
    EmbedderChanged,
    GuardRefused,
    InputInvalid,
    MailboxFull,
    MessageTimeout,
    ModelCapabilityError,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    ModelUnavailable,
    NoMessageCanCome,
    NondeterminismError,
    OutputInvalid,
    PermissionDenied,
    QuestionExpired,
    RecipientEnded,
    RetryableError,
    StateConflict,
    ToolError,
    UnknownRecipient,
    ValueTooLarge,
)
from orchestrator.planning.inputs import Upstream
from orchestrator.planning.subwork import names_called
from worker.effects.base import Account, Flow, now_flow, progress_flow, step_flow
from worker.effects.gather import gather_tasks, gather_threads
from worker.effects.scopes import Scopes
from worker.effects.subwork import (
    CallAgent,
    CallPolicy,
    MapOptions,
    Runnable,
    Work,
    call_flow,
    make_call,
    make_map,
    make_run,
)
from worker.effects.uncertain import make_step
from worker.effects.waits import NO_DEFAULT, ask_flow, make_ask, sleep_flow, sleep_until_flow
from worker.guards.base import Guard, Place, Stage, Verdict, guard, refused, rewritten, undecided
from worker.guards.injection import Injection
from worker.guards.length import Length
from worker.guards.pii import PII
from worker.guards.schema import Schema
from worker.llm import offline
from worker.llm.message import File, Image, Message, Text, ToolCall
from worker.loop.conversation import Answered, conversation
from worker.loop.granted import Granted
from worker.loop.options import CallOptions, Prompt, make_question
from worker.loop.steps import Steps, run, run_async
from worker.loop.using import used
from worker.mailing import AsyncMailContext, MailContext, Subscription
from worker.memory.context import AgentMemory, AsyncAgentMemory, AsyncSession, Session
from worker.shared import (
    AsyncSharedContext,
    AsyncSharedReader,
    AsyncSharedSpace,
    SharedContext,
    SharedReader,
    SharedSpace,
)
from worker.tools.calculator import Calculator
from worker.tools.files import Files
from worker.tools.http import Http
from worker.tools.needs import Needs, ServiceLimit
from worker.tools.registry import Named
from worker.tools.search import Search
from worker.tools.servers.adapters import Adapter, AdapterRegistry, adapter
from worker.tools.servers.auth import ApiKey, Basic, Bearer, OAuth2
from worker.tools.servers.mcp_kit import MCPToolkit
from worker.tools.servers.openapi_kit import OpenAPI, OpenAPIToolkit
from worker.tools.servers.rules import ToolRules
from worker.tools.servers.spec import Stdio, StreamableHttp
from worker.tools.tool import Tool, tool
from worker.tools.toolkit import RemoteToolkit, Toolkit

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "OUTSIDE",
    "PII",
    "Adapter",
    "AdapterRegistry",
    "AgentError",
    "AgentMemory",
    "AgentMessage",
    "AgentTimeout",
    "Answered",
    "ApiKey",
    "AsyncAgentMemory",
    "AsyncContext",
    "AsyncSession",
    "AsyncSharedContext",
    "AsyncSharedReader",
    "AsyncSharedSpace",
    "BaseAgent",
    "Basic",
    "Bearer",
    "BoundReached",
    "Calculator",
    "CallFailed",
    "CallLimitExceeded",
    "Context",
    "EffectUncertain",
    "EmbedderChanged",
    "File",
    "Files",
    "Filter",
    "Guard",
    "GuardRefused",
    "Http",
    "Image",
    "Injection",
    "InputInvalid",
    "Length",
    "Limits",
    "MCPToolkit",
    "MailboxFull",
    "Memory",
    "Message",
    "MessageTimeout",
    "ModelCapabilityError",
    "ModelError",
    "ModelRateLimited",
    "ModelRefused",
    "ModelUnavailable",
    "Needs",
    "NoMessageCanCome",
    "NondeterminismError",
    "OAuth2",
    "OpenAPI",
    "OpenAPIToolkit",
    "OutputInvalid",
    "Passage",
    "PermissionDenied",
    "Permissions",
    "Place",
    "QuestionExpired",
    "RecipientEnded",
    "RemoteToolkit",
    "RetryPolicy",
    "RetryableError",
    "Schema",
    "Search",
    "ServiceLimit",
    "Session",
    "SharedContext",
    "SharedReader",
    "SharedSpace",
    "SharedValue",
    "Stage",
    "StateConflict",
    "Stdio",
    "StreamableHttp",
    "Subscription",
    "TaskDefinition",
    "Text",
    "Timeouts",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolRules",
    "Toolkit",
    "UnknownRecipient",
    "Upstream",
    "Usage",
    "ValueTooLarge",
    "Verdict",
    "WorkflowDefinition",
    "adapter",
    "guard",
    "offline",
    "refused",
    "rewritten",
    "tool",
    "undecided",
]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


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
    #: What its model may call where a call of `ctx.llm` names no tools; what they need is permitted.
    tools: ClassVar[tuple[Named, ...]] = ()
    #: What looks at all that its model is asked, answers, gives to tools and gets from them.
    guards: ClassVar[tuple[Guard, ...]] = ()
    #: What it may use of the outside through its context, beside its model and `tools`.
    permissions: ClassVar[Permissions] = Permissions()
    #: What the bodies of messages to it have to be: a pydantic model, or a union of some; None for any JSON.
    RECEIVES: ClassVar[Any] = None
    #: For tasks that set none of their own.
    timeouts: ClassVar[Timeouts] = Timeouts()
    limits: ClassVar[Limits] = Limits()
    #: `process`: each agent run has a process of its own, which a hard limit kills and `Limits.memory_mb` bounds.
    isolation: ClassVar[Literal["thread", "process"]] = "thread"

    #: What becomes of an agent run that goes on with another version of the agent than it began with, and asks for
    #: something else than is recorded: `fail` ends it, `restart` begins it anew.
    on_change: ClassVar[Literal["fail", "restart"]] = "fail"

    def execute(self, data: Any, ctx: Any) -> Any:
        """Do the work on one input; what it returns is stored as the task's output."""
        raise NotImplementedError(f"{type(self).__name__} must define execute(self, data, ctx)")


class Driver(Protocol):
    """Who drives the flows of effects: the recorder of the execution."""

    @property
    def scopes(self) -> Scopes: ...

    def run(self, flow: Flow[T]) -> T: ...

    async def run_async(self, flow: Flow[T]) -> T: ...

    def log(self, event: str, fields: Mapping[str, Any]) -> None: ...


class _BaseContext:
    """What both contexts know without asking anybody."""

    def __init__(  # noqa: PLR0913 - what an agent is given, each by its name
        self,
        driver: Driver,
        account: Account,
        *,
        run_id: str,
        task: str,
        run_input: Any,
        upstream: Mapping[str, Upstream],
        granted: Granted | None = None,
    ) -> None:
        self._driver = driver
        self._granted = granted or Granted()
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
        self._driver.log(event, fields)

    @property
    def random(self) -> Random:
        """Chance that comes out the same when the agent is repeated; each branch has its own."""
        return self._driver.scopes.here().random

    def _thinking(self, prompt: Prompt, output: type[BaseModel] | None, options: CallOptions) -> Steps[Answered]:
        granted = self._granted.options(self.model, options)
        if self._account.system is not None:
            granted["system"] = self._account.system
        return conversation(self._account, make_question(self.model, prompt, output, granted))

    def _using(self, tool: Tool | Callable[..., Any] | str, arguments: Mapping[str, Any]) -> Steps[Any]:
        return used(self._granted, tool, arguments)

    def env(self, name: str, default: str | None = None) -> str:
        """Give an environment variable of the worker that the agent's `permissions` name; it is not recorded.

        Raises `PermissionDenied` for one that they do not name, and `AgentError` for one that is not set and has no `default`.
        """
        return self._granted.env(name, default)

    def _permitted(self, call: CallAgent, options: CallPolicy | MapOptions) -> CallAgent:
        fallback, step = options.get("fallback"), call.order.step
        called = (call.order.agent,) if step is None else names_called(step)
        self._granted.check_agents((*called, *(() if fallback is None else (fallback,))))
        return call

    def uuid(self) -> str:
        """Give a new UUID of version 4, the same one when the agent is repeated."""
        return uuid_from(self.random)


class Context(_BaseContext, MailContext):
    """The only door to the outside for a sync agent: what goes through it is limited and cancelled."""

    @property
    def memory(self) -> AgentMemory:
        """What this agent remembers, its conversations, and documents."""
        return AgentMemory(self._driver, self._account)

    @property
    def state(self) -> SharedContext:
        """What the agents of this run share: values by key, with versions; `state.own` is this task's part of it."""
        return SharedContext(self._driver, GLOBAL, self.task)

    @overload
    def llm(self, prompt: Prompt, **options: Unpack[CallOptions]) -> str: ...
    @overload
    def llm(self, prompt: Prompt, *, output: type[M], **options: Unpack[CallOptions]) -> M: ...
    def llm(self, prompt: Prompt, *, output: type[BaseModel] | None = None, **options: Unpack[CallOptions]) -> Any:
        """Ask the agent's model, and call the tools that it asks for: gives its text, or a validated `output`.

        See `CallOptions`. Each call of the model and of a tool is recorded. Raises a `ModelError` that says whether a retry can
        help, and `OutputInvalid` when the model does not give an `output` after its repairs; `offline` refuses an `output`
        (`ModelCapabilityError`).
        """
        return _value(self.converse(prompt, output=output, **options), output)

    def converse(
        self, prompt: Prompt, *, output: type[BaseModel] | None = None, **options: Unpack[CallOptions]
    ) -> Answered:
        """Do the same as `llm`, and give the whole conversation: its `messages` go on when given as the next `prompt`."""
        return run(self._thinking(prompt, output, options), self._driver, self)

    def tool(self, tool: Tool | Callable[..., Any] | str, /, **arguments: Any) -> Any:
        """Call a tool as a model would: one of the agent's by its name, or another one; gives its result, and records it.

        What the tool says holds: what its arguments are, whether a person approves, its time, and its service's limit. Raises
        `InputInvalid` for arguments that do not fit, `PermissionDenied`, and what the tool raises, such as `ToolError`.
        """
        return run(self._using(tool, arguments), self._driver, self)

    def step(
        self,
        function: Callable[..., T],
        *args: Any,
        at_most_once: bool = False,
        uncertain: Literal["fail", "ask"] = "fail",
        **kwargs: Any,
    ) -> T:
        """Call a function and record what it gives, as JSON: an agent that is repeated gets that and calls nothing.

        The function's annotation says which type the JSON becomes again. `at_most_once`: a kill in its middle never
        repeats it, it raises `EffectUncertain`, or asks a person what came of it (`uncertain="ask"`). A parameter named
        `idempotency_key` gets a key that stays the same.
        """
        return self._driver.run(
            step_flow(make_step(function, args, kwargs, at_most_once=at_most_once, uncertain=uncertain))
        )

    @overload
    def gather(self, *branches: Callable[[], T]) -> list[T]: ...
    @overload
    def gather(self, *branches: Callable[[], T], return_exceptions: bool) -> list[T | BaseException]: ...
    def gather(self, *branches: Callable[[], Any], return_exceptions: bool = False) -> Any:
        """Call functions at the same time, each in a thread; gives their results in order.

        When all have ended, the first error in order is raised, or stands among the results with `return_exceptions`.
        """
        return gather_threads(self._driver.scopes.here(), branches, return_exceptions=return_exceptions)

    @overload
    def call(self, agent: Work, input: Any, **policy: Unpack[CallPolicy]) -> Any: ...
    @overload
    def call(self, agent: Work, input: Any, *, output: type[M], **policy: Unpack[CallPolicy]) -> M: ...
    def call(
        self, agent: Work, input: Any, *, output: type[BaseModel] | None = None, **policy: Unpack[CallPolicy]
    ) -> Any:
        """Call another agent and wait for what it gives, without a slot: JSON values, or a validated `output`.

        It is an agent run of this run, with its own retries, limits and journal; see `CallPolicy`. An agent that is repeated
        gets the same result. In place of an agent's name a `TaskDefinition` is called with its policies: any kind of task, and
        whoever has a capability; where it fails and `on_error` is `continue` the call gives None. Raises `CallFailed` when it
        has failed for good, `PermissionDenied` for an agent that this one does not declare (`Permissions.agents`),
        `UnknownAgent`, and `InputInvalid` for an input that it does not take.
        """
        return self._driver.run(call_flow(self._permitted(make_call(agent, input, output, policy), policy)))

    @overload
    def run(self, workflow: Runnable, input: Any, **policy: Unpack[CallPolicy]) -> Any: ...
    @overload
    def run(self, workflow: Runnable, input: Any, *, output: type[M], **policy: Unpack[CallPolicy]) -> M: ...
    def run(
        self, workflow: Runnable, input: Any, *, output: type[BaseModel] | None = None, **policy: Unpack[CallPolicy]
    ) -> Any:
        """Run a workflow inside of this run and wait for its output, without a slot; see `call`.

        `workflow` is a definition, an expression (`"reader | summarizer"`) or the path of a file. Its tasks are agent runs of
        this run, as parallel as its graph. Raises `WorkflowInvalid` for one that cannot run.
        """
        return self._driver.run(call_flow(self._permitted(make_run(workflow, input, output, policy), policy)))

    @overload
    def map(self, agent: Work, items: Iterable[Any], **options: Unpack[MapOptions]) -> list[Any]: ...
    @overload
    def map(self, agent: Work, items: Iterable[Any], *, output: type[M], **options: Unpack[MapOptions]) -> list[M]: ...
    def map(
        self,
        agent: Work,
        items: Iterable[Any],
        *,
        output: type[BaseModel] | None = None,
        **options: Unpack[MapOptions],
    ) -> list[Any]:
        """Call another agent for each of any number of items, and give the results in their order; see `call`.

        `max_concurrency` bounds how many of them are under way; see `MapOptions`. Raises `CallFailed` for the first failure.
        """
        return self._driver.run(call_flow(self._permitted(make_map(agent, items, output, options), options)))

    def now(self) -> datetime:
        """Give the time, in UTC; an agent that is repeated gets the recorded one."""
        return self._driver.run(now_flow())

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Tell whoever watches the run how far the agent is, once; `fraction` is 0..1."""
        self._driver.run(progress_flow(message, fraction))

    def sleep(self, duration: float | timedelta) -> None:
        """Wait for some seconds, for longer than a moment without a slot; an agent that is repeated does not wait again.

        The agent unwinds, and is repeated from its journal when the time is over.
        """
        self._driver.run(sleep_flow(duration))

    def sleep_until(self, time: datetime) -> None:
        """Wait until a time, which has to be aware; see `sleep`."""
        self._driver.run(sleep_until_flow(time))

    @overload
    def ask(
        self,
        question: str,
        *,
        choices: Sequence[str] = (),
        expires: float | timedelta | None = None,
        default: Any = ...,
        about: Any = None,
    ) -> str: ...
    @overload
    def ask(
        self,
        question: str,
        *,
        answer: type[M],
        expires: float | timedelta | None = None,
        default: Any = ...,
        about: Any = None,
    ) -> M: ...
    def ask(
        self,
        question: str,
        *,
        choices: Sequence[str] = (),
        answer: type[BaseModel] | None = None,
        expires: float | timedelta | None = None,
        default: Any = NO_DEFAULT,
        about: Any = None,
    ) -> Any:
        """Ask a person and wait for the answer, without a slot: text, one of `choices`, or a validated `answer`.

        `about` is what is to be approved, as JSON: the answer is bound to it. Nobody's answer within `expires` gives the
        `default`, without one it raises `QuestionExpired`.
        """
        ask = make_ask(question, choices=tuple(choices), answer=answer, expires=expires, default=default, about=about)
        return self._driver.run(ask_flow(ask))


class AsyncContext(_BaseContext, AsyncMailContext):
    """`Context` for an agent whose `execute` is `async`: the same methods, awaited."""

    @property
    def memory(self) -> AsyncAgentMemory:
        """What this agent remembers, its conversations, and documents; see `AgentMemory`."""
        return AsyncAgentMemory(self._driver, self._account)

    @property
    def state(self) -> AsyncSharedContext:
        """What the agents of this run share; see `Context.state`."""
        return AsyncSharedContext(self._driver, GLOBAL, self.task)

    @overload
    async def llm(self, prompt: Prompt, **options: Unpack[CallOptions]) -> str: ...
    @overload
    async def llm(self, prompt: Prompt, *, output: type[M], **options: Unpack[CallOptions]) -> M: ...
    async def llm(
        self, prompt: Prompt, *, output: type[BaseModel] | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Ask the agent's model; see `Context.llm`."""
        return _value(await self.converse(prompt, output=output, **options), output)

    async def converse(
        self, prompt: Prompt, *, output: type[BaseModel] | None = None, **options: Unpack[CallOptions]
    ) -> Answered:
        """Do the same as `llm`, and give the whole conversation; see `Context.converse`."""
        return await run_async(self._thinking(prompt, output, options), self._driver, self)

    async def tool(self, tool: Tool | Callable[..., Any] | str, /, **arguments: Any) -> Any:
        """Call a tool as a model would; see `Context.tool`. A plain one runs in a thread."""
        return await run_async(self._using(tool, arguments), self._driver, self)

    async def step(
        self,
        function: Callable[..., Awaitable[T] | T],
        *args: Any,
        at_most_once: bool = False,
        uncertain: Literal["fail", "ask"] = "fail",
        **kwargs: Any,
    ) -> T:
        """Call a function, or await a coroutine function; see `Context.step`. A plain function runs in a thread."""
        return await self._driver.run_async(
            step_flow(make_step(function, args, kwargs, at_most_once=at_most_once, uncertain=uncertain))
        )

    @overload
    async def gather(self, *branches: Awaitable[T] | Callable[[], Awaitable[T]]) -> list[T]: ...
    @overload
    async def gather(
        self, *branches: Awaitable[T] | Callable[[], Awaitable[T]], return_exceptions: bool
    ) -> list[T | BaseException]: ...
    async def gather(
        self, *branches: Awaitable[Any] | Callable[[], Awaitable[Any]], return_exceptions: bool = False
    ) -> Any:
        """Await coroutines at the same time, each in a task; see `Context.gather`."""
        return await gather_tasks(branches, return_exceptions=return_exceptions)

    @overload
    async def run(self, workflow: Runnable, input: Any, **policy: Unpack[CallPolicy]) -> Any: ...
    @overload
    async def run(self, workflow: Runnable, input: Any, *, output: type[M], **policy: Unpack[CallPolicy]) -> M: ...
    async def run(
        self, workflow: Runnable, input: Any, *, output: type[BaseModel] | None = None, **policy: Unpack[CallPolicy]
    ) -> Any:
        """Run a workflow inside of this run; see `Context.run`."""
        call = self._permitted(make_run(workflow, input, output, policy), policy)
        return await self._driver.run_async(call_flow(call))

    @overload
    async def call(self, agent: Work, input: Any, **policy: Unpack[CallPolicy]) -> Any: ...
    @overload
    async def call(self, agent: Work, input: Any, *, output: type[M], **policy: Unpack[CallPolicy]) -> M: ...
    async def call(
        self, agent: Work, input: Any, *, output: type[BaseModel] | None = None, **policy: Unpack[CallPolicy]
    ) -> Any:
        """Call another agent and wait for what it gives, without a slot; see `Context.call`."""
        call = self._permitted(make_call(agent, input, output, policy), policy)
        return await self._driver.run_async(call_flow(call))

    @overload
    async def map(self, agent: Work, items: Iterable[Any], **options: Unpack[MapOptions]) -> list[Any]: ...
    @overload
    async def map(
        self, agent: Work, items: Iterable[Any], *, output: type[M], **options: Unpack[MapOptions]
    ) -> list[M]: ...
    async def map(
        self,
        agent: Work,
        items: Iterable[Any],
        *,
        output: type[BaseModel] | None = None,
        **options: Unpack[MapOptions],
    ) -> list[Any]:
        """Call another agent for each of any number of items; see `Context.map`."""
        call = self._permitted(make_map(agent, items, output, options), options)
        return await self._driver.run_async(call_flow(call))

    async def now(self) -> datetime:
        """Give the time; see `Context.now`."""
        return await self._driver.run_async(now_flow())

    async def progress(self, message: str, fraction: float | None = None) -> None:
        """Tell whoever watches the run how far the agent is, once; `fraction` is 0..1."""
        await self._driver.run_async(progress_flow(message, fraction))

    async def sleep(self, duration: float | timedelta) -> None:
        """Wait for some seconds, for longer than a moment without a slot; see `Context.sleep`."""
        await self._driver.run_async(sleep_flow(duration))

    async def sleep_until(self, time: datetime) -> None:
        """Wait until a time, which has to be aware; see `Context.sleep`."""
        await self._driver.run_async(sleep_until_flow(time))

    @overload
    async def ask(
        self,
        question: str,
        *,
        choices: Sequence[str] = (),
        expires: float | timedelta | None = None,
        default: Any = ...,
        about: Any = None,
    ) -> str: ...
    @overload
    async def ask(
        self,
        question: str,
        *,
        answer: type[M],
        expires: float | timedelta | None = None,
        default: Any = ...,
        about: Any = None,
    ) -> M: ...
    async def ask(
        self,
        question: str,
        *,
        choices: Sequence[str] = (),
        answer: type[BaseModel] | None = None,
        expires: float | timedelta | None = None,
        default: Any = NO_DEFAULT,
        about: Any = None,
    ) -> Any:
        """Ask a person and wait for the answer, without a slot; see `Context.ask`."""
        ask = make_ask(question, choices=tuple(choices), answer=answer, expires=expires, default=default, about=about)
        return await self._driver.run_async(ask_flow(ask))


def _value(answered: Answered, output: type[BaseModel] | None) -> Any:
    return answered.text if output is None else answered.output


def name_of(agent_class: type[BaseAgent]) -> str:
    """Give an agent's name: its own, else the class name in snake case (`FactChecker` is `fact_checker`)."""
    if agent_class.name:
        return agent_class.name
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", agent_class.__name__)
    return text.lower()
