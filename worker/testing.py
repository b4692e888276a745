"""For authors' tests: run an agent without a fleet, and script what its model answers.

::

    def test_the_abstract_is_short():
        model = MockLLM(Summary(text="Ships need harbours."))
        assert run_agent(Abstracter, {"text": ARTICLE}, model=model).text == "Ships need harbours."
        assert "harbour" in model.calls[0].messages[0].content
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import BaseModel

from orchestrator.clock import agent_run_id, system_clock
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.usage import Usage
from orchestrator.errors import InputInvalid
from orchestrator.journal.memory import MemoryJournal
from orchestrator.planning.inputs import Upstream
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, BaseAgent, Context
from worker.effects.attempt import Writer
from worker.effects.base import Account, CallModel, Effect, ReadClock, Report
from worker.effects.motion import Motion
from worker.effects.recorded import in_scope, in_scope_async, run_recorded
from worker.effects.recorder import Recorder as EffectRecorder
from worker.effects.scopes import Scope, task_factory
from worker.effects.scripted import NoWaiting, ScriptedPeople
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse, estimate_tokens
from worker.llm.providers import Providers
from worker.loader import AgentLoader, LoadedAgent, load_class

if TYPE_CHECKING:
    from orchestrator.contracts.replay import Replay
    from orchestrator.settings import Settings

T = TypeVar("T")

__all__ = ["LogLine", "MockLLM", "Recorder", "Reply", "Report", "replay", "run_agent"]

_SHOWN_CHARACTERS = 200

#: What a scripted model answers: text, a model (as JSON), a whole response, an error to raise, or a function's result.
Reply = str | BaseModel | Exception | Callable[[LLMRequest], Any]


class MockLLM(BaseLLMProvider):
    """A model that gives exactly the scripted replies, in order; thread-safe. `calls` holds every request it got."""

    name: ClassVar[str] = "mock"

    def __init__(self, *replies: Reply) -> None:
        for reply in replies:
            _check(reply)
        self._replies = list(replies)
        self._lock = threading.Lock()
        self.calls: list[LLMRequest] = []

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:  # noqa: ARG003 - it needs nothing
        """Make one without replies."""
        return cls()

    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Give the next reply; raises `AssertionError` when there is none left."""
        with self._lock:
            self.calls.append(request)
            number = len(self.calls)
        if number > len(self._replies):
            raise AssertionError(
                f"MockLLM has no reply for call {number}, its script has {len(self._replies)}; the prompt begins: "
                f"{_beginning(request)}"
            )
        return self._response(self._replies[number - 1], request)

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def _response(self, reply: Reply, request: LLMRequest) -> LLMResponse:
        match reply:
            case Exception():
                raise reply
            case LLMResponse():
                return reply
            case BaseModel():
                return self._response(reply.model_dump_json(by_alias=True), request)
            case str():
                produced = estimate_tokens(reply)
                usage = Usage(model_calls=1, input_tokens=self.count_tokens(request), output_tokens=produced)
                return LLMResponse(text=reply, model=request.model, usage=usage, stop_reason="end_turn")
            case _:
                return self._response(_check(reply(request)), request)


class LogLine(NamedTuple):
    """One `ctx.log` of an agent."""

    event: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Recorder:
    """What an agent has told while it ran: its `ctx.progress` and its `ctx.log`, in order."""

    progress: list[Report] = field(default_factory=list[Report])
    logs: list[LogLine] = field(default_factory=list[LogLine])


def run_agent(  # noqa: PLR0913 - a test names what matters to it, in one call
    agent: str | type[BaseAgent] | BaseAgent,
    data: Any,
    *,
    model: MockLLM | str | None = None,
    upstream: Mapping[str, Any] | None = None,
    run_input: Any = None,
    agents_path: str | None = None,
    recorder: Recorder | None = None,
    answers: Mapping[str, Any] | None = None,
) -> Any:
    """Run an agent here and give its output, with input, output and effects checked as a worker checks them.

    The output is the instance where `execute` declares a model, else JSON values; errors are raised as they are. The
    model is `offline`, whatever the agent names, unless `model` asks for another: no call is paid by accident.
    `upstream` maps tasks to outputs, or to an `Upstream` that failed; `run_input` is `data` if not given. An agent by
    name comes from `agents_path`, else `NIGHTFLEET_AGENTS_PATH`, else `./agents`, or is one that ships. Time limits are
    not kept, and timers are over at once. `answers` maps questions (`ctx.ask`) to answers; one that can expire and has
    no answer has expired.
    """
    loaded = _loaded(agent, agents_path)
    given = _as_json(data)
    value = loaded.parse_input(given)
    with _provider(model) as (provider, model_id):
        account = Account(model=model_id, limits=loaded.agent_class.limits)

        def call(driver: EffectRecorder) -> Any:
            context_class = AsyncContext if loaded.is_async else Context
            context = context_class(
                driver,
                account,
                run_id="test",
                task=loaded.card.name,
                run_input=given if run_input is None else _as_json(run_input),
                upstream={task: _upstream(output) for task, output in (upstream or {}).items()},
            )
            instance = agent if isinstance(agent, BaseAgent) else loaded.agent_class()
            return _outside_loops(lambda: _run(instance, value, context, driver.scopes.root))

        people = ScriptedPeople(answers or {})
        make = partial(_recorder, _Host(provider, recorder or Recorder()), account, loaded, people)
        result = run_recorded(make, call, on_change="fail")
    output = loaded.dump_output(result)
    dump(output, what=f"the output of agent {loaded.card.name!r}", limit_bytes=sys.maxsize)
    return loaded.validate_output(result) if loaded.gives.is_model else output


def replay(
    run_id: str, *, task: str | None = None, agents_path: str | None = None, settings: Settings | None = None
) -> Replay:
    """Execute a task of a stored run again with the agent that is here, on what it has recorded; nothing happens.

    `task` is by default the one that failed the run. `settings` say where the run is stored, by default the environment;
    agents come from `agents_path`, by default that of the settings. Raises `RunNotFound` and `UsageError`.
    """
    from orchestrator.kernel import Kernel
    from orchestrator.settings import Settings
    from worker.replay import replay_run

    kernel = Kernel.build(settings or Settings.load())
    try:
        return replay_run(kernel, run_id, task, agents_path=agents_path)
    finally:
        kernel.close()


def _recorder(host: _Host, account: Account, loaded: LoadedAgent, people: ScriptedPeople) -> EffectRecorder:
    """Give what drives the effects: they are recorded as a worker records them, and forgotten with the test."""
    identity = agent_run_id("00000000-0000-7000-8000-000000000000", 0)
    claim = Claim(identity, loaded.card.name, 0, loaded.card.name, 1, 0, 0, identity, identity, "null", None)
    journal = MemoryJournal(max_value_bytes=sys.maxsize)
    writer = Writer(
        claim,
        journal,
        Motion(account),
        lambda text: text,
        digest=loaded.card.digest,
        plugin=loaded.agent_class.__module__,
        limit_bytes=sys.maxsize,
    )
    return EffectRecorder(writer, journal.read(claim), host, NoWaiting(writer.motion, people, 0.0))


class _Host:
    """Performs effects in the test's own process."""

    def __init__(self, provider: BaseLLMProvider, recorder: Recorder) -> None:
        self._provider = provider
        self._recorder = recorder
        #: One model call at a time: concurrent ones get the scripted replies in the order in which they were made.
        self._in_order = asyncio.Lock()

    def perform(self, effect: Effect) -> Any:
        match effect:
            case CallModel(request):
                return self._provider.invoke(request)
            case ReadClock():
                return system_clock.now()
            case Report():
                self._recorder.progress.append(effect)
                return None
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

    async def in_thread(self, work: Callable[[], T], effect: Effect | None = None) -> T:
        if not isinstance(effect, CallModel):
            return await asyncio.to_thread(work)
        async with self._in_order:
            return await asyncio.to_thread(work)

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        self._recorder.logs.append(LogLine(event, dict(fields)))


def _loaded(agent: str | type[BaseAgent] | BaseAgent, agents_path: str | None) -> LoadedAgent:
    if isinstance(agent, str):
        path = agents_path or os.environ.get("NIGHTFLEET_AGENTS_PATH") or "./agents"
        return AgentLoader(path, base=Path.cwd()).load().get(agent)
    agent_class = agent if isinstance(agent, type) else type(agent)
    return load_class(agent_class, origin=f"{agent_class.__module__}.{agent_class.__qualname__}", digest="of a test")


@contextmanager
def _provider(model: MockLLM | str | None) -> Generator[tuple[BaseLLMProvider, str]]:
    """Give who answers, and the model's id."""
    if isinstance(model, MockLLM):
        yield model, "mock:script"
        return
    providers = Providers(os.environ)
    try:
        yield providers.provider_for(model or "offline"), model or "offline"
    finally:
        providers.close()


def _run(agent: BaseAgent, value: Any, context: Context | AsyncContext, scope: Scope) -> Any:
    if not isinstance(context, AsyncContext):
        return in_scope(scope, agent.execute, value, context)
    with asyncio.Runner() as runner:
        runner.get_loop().set_task_factory(task_factory)
        return runner.run(in_scope_async(scope, agent.execute, value, context))


def _outside_loops(call: Callable[[], Any]) -> Any:
    """Call here, or in a thread while an event loop runs here: the thread of an agent has none."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, call).result()


def _as_json(value: Any) -> Any:
    """Give what a worker would get: models as JSON values; raises `InputInvalid` for what is no JSON."""
    plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    dump(plain, what="the input", limit_bytes=sys.maxsize, error=InputInvalid)
    return plain


def _upstream(output: Any) -> Upstream:
    return output if isinstance(output, Upstream) else Upstream(AgentRunState.SUCCEEDED, _as_json(output))


def _check(reply: Any) -> Reply:
    if not (isinstance(reply, str | BaseModel | Exception) or callable(reply)):
        raise TypeError(
            f"a reply of MockLLM is text, a pydantic model, an exception or a function of the request, not "
            f"{type(reply).__name__} ({reply!r})"
        )
    return reply


def _beginning(request: LLMRequest) -> str:
    asked = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
    return repr(asked if len(asked) <= _SHOWN_CHARACTERS else f"{asked[:_SHOWN_CHARACTERS]}…")
