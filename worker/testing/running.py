"""`run_agent`: an agent in the test's own process, with input, output and effects checked as a worker checks them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import InputInvalid, UnknownAgent, UnknownCapability
from orchestrator.journal.memory import MemoryJournal
from orchestrator.planning.capabilities import agents_by_capability, nobody_can
from orchestrator.planning.inputs import Upstream
from orchestrator.store.agent_runs import Claim
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from worker.agent import AsyncContext, BaseAgent, Context
from worker.effects.attempt import Writer
from worker.effects.base import Account, Effect, ReadClock, Report
from worker.effects.motion import Motion
from worker.effects.progress import Progress
from worker.effects.recorded import in_scope, in_scope_async, run_recorded
from worker.effects.recorder import Recorder as EffectRecorder
from worker.effects.scopes import Scope, host_agents
from worker.effects.scripted import NoWaiting, ScriptedPeople
from worker.effects.window import FitWindow, surplus
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse
from worker.llm.providers import Providers
from worker.loader import AgentLoader, LoadedAgent, load_class
from worker.memory.base import Asker
from worker.memory.embedding import embed_offline
from worker.memory.manager import MemoryManager
from worker.nodes.builtin import BUILT_IN, bound
from worker.sharing import ClaimSharing
from worker.testing.calls import ScriptedCalls
from worker.testing.mail import Answer, Incoming, ScriptedMail
from worker.testing.recorder import Exchange, LogLine, Recorder, verdicts_of
from worker.testing.standin import By, ModelCall, StandIn
from worker.testing.state import AGENT_RUN, SharedState
from worker.tools.needs import ServiceLimit
from worker.tools.registry import ToolRegistry

T = TypeVar("T")


def run_agent(  # noqa: PLR0913 - a test names what matters to it, in one call
    agent: str | type[BaseAgent] | BaseAgent | TaskDefinition,
    data: Any,
    *,
    model: StandIn | str | None = None,
    upstream: Mapping[str, Any] | None = None,
    run_input: Any = None,
    agents_path: str | None = None,
    recorder: Recorder | None = None,
    answers: Mapping[str, Any] | None = None,
    memory: MemoryManager | None = None,
    inbox: Sequence[Incoming] = (),
    replies: Mapping[str, Answer] | None = None,
    calls: Mapping[str, Any] | None = None,
    state: SharedState | Mapping[str, Any] | None = None,
) -> Any:
    """Run an agent here and give its output, with input, output and effects checked as a worker checks them.

    The output is the instance where `execute` declares a model, else JSON values; errors are raised as they are. The
    model is `offline`, whatever the agent names, unless `model` is a `MockLLM`, a `RecordedLLM` or the name of another: no
    call is paid by accident. `recorder` keeps what it does.
    `upstream` maps tasks to outputs, or to an `Upstream` that failed; `run_input` is `data` if not given. An agent by
    name comes from `agents_path`, else `NIGHTFLEET_AGENTS_PATH`, else `./agents`, or is one that ships. Time limits are
    not kept, and timers are over at once. `answers` maps questions (`ctx.ask`) to answers; one that can expire and has
    no answer has expired. It remembers nothing from other runs, unless they share a `memory`
    (`MemoryManager.in_process()`); vectors are made offline. `inbox` are the messages that it finds, `replies` what tasks
    reply to its requests; what it sends is in the recorder's `sent`. `calls` maps agents that it calls (`ctx.call`, `ctx.map`)
    to what they give: a value, an exception, a function of the input, or an agent that is run for real (its class, or `REAL`).
    What else a `TaskDefinition` is goes by its word (`loop`, `function`, ...), or by the capability that it names; with `REAL`
    what it is made of is called in its turn. A step goes by its own name first, such as that of a member of a team.
    `state` is what its run shares (`ctx.state`): a `SharedState`, which can be looked at afterwards, or values by key.
    """
    given = _as_json(data)
    recorder = Recorder() if recorder is None else recorder
    memory = memory or MemoryManager.in_process()
    given_state = state if isinstance(state, SharedState) else SharedState(state)
    shared = _Shared(model, agents_path, recorder, answers or {}, memory, calls or {}, replies or {}, given_state)
    run_input = given if run_input is None else _as_json(run_input)
    before = {task: _upstream(output) for task, output in (upstream or {}).items()}
    return _run_as(agent, given, shared, run_input, upstream=before, inbox=inbox)


class _Shared(NamedTuple):
    """What an agent of a test shares with those that it calls."""

    model: StandIn | str | None
    agents_path: str | None
    recorder: Recorder
    answers: Mapping[str, Any]
    memory: MemoryManager
    calls: Mapping[str, Any]
    replies: Mapping[str, Answer]
    state: SharedState


def _run_as(  # noqa: PLR0913 - of two of its own, and what it shares
    agent: str | type[BaseAgent] | BaseAgent | TaskDefinition,
    given: Any,
    shared: _Shared,
    run_input: Any,
    *,
    upstream: Mapping[str, Upstream],
    task: str | None = None,
    inbox: Sequence[Incoming] = (),
) -> Any:
    """Run an agent as a task, its own by default; see `run_agent`."""
    model, agents_path, recorder, answers, memory, calls, *_ = shared
    loaded = _loaded(agent, agents_path)
    value = loaded.parse_input(given)
    task = task or (agent.id if isinstance(agent, TaskDefinition) else loaded.card.name)
    with _answering(model, loaded) as answering:
        account = Account(model=answering.model, limits=loaded.agent_class.limits)

        def call(driver: EffectRecorder) -> Any:
            context_class = AsyncContext if loaded.is_async else Context
            context = context_class(
                driver,
                account,
                run_id="test",
                task=task,
                run_input=run_input,
                upstream=upstream,
                granted=loaded.granted,
            )
            instance = agent if isinstance(agent, BaseAgent) else loaded.agent_class()
            return _outside_loops(lambda: _run(instance, value, context, driver.scopes.root))

        def run_real(called: Any, data: Any, task: str) -> Any:
            return _as_json(_run_as(called, data, shared, run_input, upstream={}, task=task))

        people = ScriptedPeople(answers)
        scripted = ScriptedCalls(calls, recorder, run_real)
        journal = MemoryJournal(max_value_bytes=sys.maxsize)
        claim = _claim(loaded, task)
        sharing = ClaimSharing(shared.state.store.recorded_in(journal), claim)
        host = _Host(answering, recorder, memory, loaded, sharing)
        mail = ScriptedMail(loaded.card.name, journal, loaded.agent_class.RECEIVES, shared.replies, recorder.sent)
        mail.expect(inbox)
        make = partial(_driver, host, account, journal, people, scripted, mail, claim)
        try:
            result = run_recorded(make, call, on_change="fail")
        finally:
            recorder.verdicts += verdicts_of(journal.events)
    output = loaded.dump_output(result)
    dump(output, what=f"the output of agent {loaded.card.name!r}", limit_bytes=sys.maxsize)
    return loaded.validate_output(result) if loaded.gives.is_model else output


class _Answering(NamedTuple):
    """Who answers in a run, with the model's id; of a stand-in the number of the run."""

    provider: BaseLLMProvider
    model: str
    run: int = 0


def _driver(  # noqa: PLR0913, PLR0917 - what stands in for a worker, part by part
    host: _Host,
    account: Account,
    journal: MemoryJournal,
    people: ScriptedPeople,
    calls: ScriptedCalls,
    mail: ScriptedMail,
    claim: Claim,
) -> EffectRecorder:
    """Give what drives the effects: they are recorded as a worker records them."""
    loaded = host.loaded
    writer = Writer(
        claim,
        journal,
        Motion(account),
        lambda text: text,
        digest=loaded.card.digest,
        plugin=loaded.agent_class.__module__,
        limit_bytes=sys.maxsize,
    )
    waiting = NoWaiting(writer.motion, people, mail)

    def tell(run_id: str, elsewhere: bool) -> None:  # noqa: FBT001 - as a worker is told
        del run_id, elsewhere
        waiting.poke("keys")

    # Whoever waits for a change looks before anybody says that nothing brings it about.
    host.shared = replace(host.shared, tell=tell)
    return EffectRecorder(writer, journal.read(claim), host, waiting, calls)


def _claim(loaded: LoadedAgent, task: str) -> Claim:
    return Claim(AGENT_RUN, task, 0, loaded.card.name, 1, 0, 0, AGENT_RUN, AGENT_RUN, "null", None)


class _Host:
    """Performs effects in the test's own process."""

    blocks = False

    def __init__(
        self,
        answering: _Answering,
        recorder: Recorder,
        memory: MemoryManager,
        loaded: LoadedAgent,
        shared: ClaimSharing,
    ) -> None:
        self.loaded = loaded
        self.shared = shared
        self._answering = answering
        self._recorder = recorder
        self._memory = memory
        self._agent = loaded.card.name
        #: Two runs that share a memory write each their own.
        self._run = ids.new()
        #: One model call at a time: concurrent ones get the scripted replies in the order in which they were made.
        self._in_order = asyncio.Lock()

    def perform(self, effect: Effect) -> Any:
        match effect:
            case ReadClock():
                return system_clock.now()
            case Report():
                self._recorder.progress.append(effect)
                return None
            case FitWindow(request):
                return surplus(request, getattr(self._answering.provider, "context_window", None))
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        del progress
        provider = self._answering.provider
        exchange = Exchange(ModelCall.of(request, self._agent), self.loaded.agent_class.model)
        self._recorder.exchanges.append(exchange)
        if isinstance(provider, StandIn):
            exchange.answer = provider.answer(request, By(self._agent, self._answering.run, slot))
        else:
            exchange.answer = provider.invoke(request)
        return exchange.answer

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        async with self._in_order:
            return await asyncio.to_thread(self.call, request, slot, progress)

    def memory(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        del progress
        asker = Asker(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, self._agent, f"test/{self._agent}", f"{self._run}:{slot}")
        return self._memory.perform(request, asker, embed_offline)

    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> nullcontext[None]:  # noqa: ARG002
        return nullcontext()

    admitted_async = admitted

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        self._recorder.logs.append(LogLine(event, dict(fields)))


def _loaded(agent: str | type[BaseAgent] | BaseAgent | TaskDefinition, agents_path: str | None) -> LoadedAgent:
    path = agents_path or os.environ.get("NIGHTFLEET_AGENTS_PATH") or "./agents"
    loader = AgentLoader(path, base=Path.cwd())
    if isinstance(agent, TaskDefinition):
        if agent.kind is not None:
            return _node(agent, loader)
        agent = agent.agent if agent.capability is None else _able(agent.capability, loader)
    if isinstance(agent, str):
        try:
            return loader.load().get(agent)
        except UnknownAgent as error:
            error.add_note(
                f"Agents come from {path}, seen from {Path.cwd()}: say agents_path=..., or run the tests there."
            )
            raise
    # What is given is checked: tests are seldom checked for their types.
    agent_class: Any = agent if isinstance(agent, type) else type(agent)
    if not issubclass(agent_class, BaseAgent):
        raise TypeError(f"an agent is a name, a class derived from BaseAgent or an instance of one, not {agent!r}")
    origin = f"{agent_class.__module__}.{agent_class.__qualname__}"
    # An agent that names no tools does not depend on which there are.
    names = any(isinstance(each, str | Mapping) for each in agent_class.tools) or bool(agent_class.permissions.tools)
    registry = loader.registry() if names else ToolRegistry()
    return load_class(agent_class, origin=origin, digest="of a test", registry=registry)


def _able(capability: str, loader: AgentLoader) -> str:
    """Give the first agent by name that has a capability."""
    able = agents_by_capability((card.name, card.capabilities) for card in loader.load().cards)
    if capability not in able:
        raise UnknownCapability(nobody_can(capability, able), details={"capabilities": [capability]})
    return able[capability][0]


def _node(task: TaskDefinition, loader: AgentLoader) -> LoadedAgent:
    """Give a task that is no agent as one."""
    if task.celery is not None:
        raise TypeError(f"REAL runs no task of Celery's: say what {task.celery.task!r} gives")

    def describe(agent: str) -> str:
        found = loader.load().agents.get(agent)
        return "" if found is None else found.card.description

    return bound(BUILT_IN[task.agent].card, task, loader.registry, describe, limit_bytes=sys.maxsize)


@contextmanager
def _answering(model: StandIn | str | None, loaded: LoadedAgent) -> Generator[_Answering]:
    if isinstance(model, StandIn):
        yield _Answering(model, *model.begin(loaded.agent_class.model))
        return
    named: Any = model or "offline"
    if not isinstance(named, str):
        raise TypeError(f"`model` is a MockLLM, a RecordedLLM or a name such as 'openai:gpt-5-mini', not {named!r}")
    providers = Providers(os.environ)
    try:
        yield _Answering(providers.provider_for(named), named)
    finally:
        providers.close()


def _run(agent: BaseAgent, value: Any, context: Context | AsyncContext, scope: Scope) -> Any:
    if not isinstance(context, AsyncContext):
        return in_scope(scope, agent.execute, value, context)
    with asyncio.Runner() as runner:
        host_agents(runner.get_loop())
        return runner.run(in_scope_async(scope, agent.execute, value, context))


def _outside_loops(call: Callable[[], Any]) -> Any:
    """Call here, or in a thread while an event loop runs here: the thread of an agent has none."""
    if not _in_a_loop():
        return call()
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, call).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _as_json(value: Any) -> Any:
    """Give what a worker would get: models as JSON values; raises `InputInvalid` for what is no JSON."""
    plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    dump(plain, what="the input", limit_bytes=sys.maxsize, error=InputInvalid)
    return plain


def _upstream(output: Any) -> Upstream:
    return output if isinstance(output, Upstream) else Upstream(AgentRunState.SUCCEEDED, _as_json(output))
