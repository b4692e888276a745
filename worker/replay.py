"""Executes an agent run again on what it has recorded: the debugger for what went wrong elsewhere. Performs no effect."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.context.base import Sharing
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.lineage import parent_task
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.contracts.replay import Replay, ReplayedEffect, Verdict
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing
from orchestrator.contracts.workflow import NODE_KINDS
from orchestrator.errors import (
    AgentCrashed,
    AgentTimeout,
    NightfleetError,
    NondeterminismError,
    OutputInvalid,
    RunNotFound,
    UsageError,
    from_exception,
)
from orchestrator.journal.memory import MemoryJournal
from orchestrator.kernel import Kernel
from orchestrator.observability.logging import get_logger
from orchestrator.observability.redact import redactor
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.subwork import definition_of
from orchestrator.store.agent_runs import Claim
from orchestrator.store.past import Past, past_of
from orchestrator.store.store import Store
from worker.composites import EXECUTORS
from worker.effects.attempt import Writer
from worker.effects.base import Account, Effect
from worker.effects.motion import Motion
from worker.effects.progress import Progress
from worker.effects.recorded import in_scope, in_scope_async
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.said import masked
from worker.effects.scopes import Scope, host_agents
from worker.effects.uncertain import DecidedStep
from worker.execution import Execution
from worker.given import Given, ask_as_told
from worker.llm.base import LLMRequest, LLMResponse
from worker.loader import AgentLoader, LoadedAgent
from worker.nodes.builtin import BUILT_IN, bound
from worker.subwork import all_ends
from worker.tools.needs import ServiceLimit

T = TypeVar("T")

log = get_logger("nightfleet.replay")

_SHOWN_CHARACTERS = 200
#: Ends that the machine has brought about, not the agent: a replay does not meet them.
_FROM_OUTSIDE = (AgentTimeout.code, AgentCrashed.code, "run_deadline")


class RecordedPartEnds(BaseException):
    """The agent asks for an effect of which nothing is recorded: from here on nobody knows how it would go on."""


def replay_run(kernel: Kernel, run_id: str, task: str | None = None, *, agents_path: str | None = None) -> Replay:
    """Execute one task of a run again, by default the one that failed it, with the agent that is here, and compare.

    Raises `RunNotFound`, and `UsageError` where there is no such task, or nothing that could be executed again.
    """
    past = past_of(kernel.store, _agent_run_of(kernel, run_id, task))
    if past is None:
        raise RunNotFound(f"run {run_id} has not come to task {task!r} yet")
    if past.claim.epoch == 1:
        source = kernel.store.runs.head(run_id).forked_from
        raise UsageError(
            f"task {past.claim.task!r} of run {run_id} was not executed, so there is nothing to replay"
            + (f": if it is a copy, replay it in run {source}, of which this one is a fork" if source else "")
        )
    loaded = _loaded(kernel, past, AgentLoader(agents_path or kernel.settings.agents_path, base=Path.cwd()))
    entries = list(kernel.store.journal.entries(past.claim.id))
    return _Replaying(past, loaded, entries, _Called(kernel.store)).compared()


def _loaded(kernel: Kernel, past: Past, loader: AgentLoader) -> LoadedAgent:
    """Give what has executed an agent run, as it is here."""
    agent = past.claim.agent
    if agent in EXECUTORS:

        def describe(name: str) -> str:
            card = kernel.store.fleet.card(name)
            return "" if card is None else card.description

        task = definition_of(past.plan, past.claim)
        return bound(BUILT_IN[agent].card, task, loader.registry, describe, limit_bytes=kernel.settings.max_value_bytes)
    if agent in NODE_KINDS:
        raise UsageError(
            f"task {past.claim.task!r} is a {agent} and no agent: it has no effects that are recorded one by one"
        )
    return loader.load().get(agent)


def _agent_run_of(kernel: Kernel, run_id: str, task: str | None) -> str:
    """Give the id of the agent run that is meant."""
    head = kernel.store.runs.head(run_id)
    plan = kernel.store.runs.plan(head.workflow_id)
    positions = {plan.task_at(index).id: index for index in range(plan.size)}
    if task is None:
        failed = None if head.error is None else json.loads(head.error).get("task")
        task = failed or (plan.tasks[0].id if len(plan.tasks) == 1 else None)
    if task is None:
        raise UsageError(f"say which task of run {run_id} is meant: --task {' | '.join(positions)}")
    if parent_task(task) is not None and (found := kernel.store.subwork.of_task(run_id, task)) is not None:
        return found
    if task not in positions:
        hint = did_you_mean(task, positions) or f": its tasks are {', '.join(positions)}"
        raise UsageError(f"run {run_id} has no task {task!r}{hint}")
    return plan.id_at(run_id, positions[task])


# Driving --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _History:
    """All that is recorded, in memory; what a failure has voided is given back too, since it was there before."""

    entries: dict[Slot, Entry]

    @classmethod
    def of(cls, entries: Iterable[Entry], *, voided: bool) -> _History:
        """Take in entries, with or without those that are void."""
        return cls(
            {entry.slot: entry for entry in entries if voided or entry.state is not EntryState.VOID},
        )

    def take(self, slot: Slot) -> Entry | None:
        entry = self.entries.pop(slot, None)
        if entry is None or entry.state is not EntryState.VOID:
            return entry
        if entry.milliseconds is None:
            return replace(entry, state=EntryState.BEGUN)
        return replace(entry, state=EntryState.DONE if entry.error is None else EntryState.FAILED)

    def at_hand(self, slot: Slot) -> bool:  # noqa: ARG002 - the port's
        return True

    def left(self) -> Entry | None:
        return next((entry for _, entry in sorted(self.entries.items()) if entry.state is not EntryState.VOID), None)


@dataclass(slots=True)
class _Replayer(Recorder):
    """Gives back what is recorded, and notes it; where that ends, so does the execution."""

    trace: list[ReplayedEffect] = field(default_factory=list[ReplayedEffect])

    def outcome(self, effect: Effect, scope: Scope, slot: Slot) -> Generator[Operation, Any, Any]:
        entry = self.taken(slot)
        if entry is not None and self.left_out(effect, entry):
            return None
        if entry is not None and entry.state is EntryState.BEGUN and isinstance(effect, DecidedStep):
            yield from effect.decision(self, entry)
        if entry is None or entry.state is EntryState.BEGUN:
            scope.refuse()
            asked = self.writer.entry(effect, slot, EntryState.BEGUN)
            ends = RecordedPartEnds(f"effect {slot} ({asked.kind} {_cut(asked.request or '')})")
            self.motion.end(ends)
            raise ends
        self._compare(entry, effect, scope)
        self.trace.append(_shown(entry))
        recorded = self._give_back(effect, entry, scope)
        return (yield from effect.recall(self, slot, recorded)) if isinstance(effect, Waiting) else recorded


class _NoHost:
    """Performs nothing; an agent's log lines of long ago are nobody's."""

    blocks = True

    def perform(self, effect: Effect) -> Any:
        raise AssertionError(f"a replay performs no {effect.kind}")

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        raise AssertionError(f"a replay asks no model, but {request.model} at {slot} ({progress})")

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        return self.call(request, slot, progress)

    def memory(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        raise AssertionError(f"a replay asks no memory, but {request.op} at {slot} ({progress})")

    @property
    def shared(self) -> Sharing:
        raise AssertionError("a replay asks nothing of what its run shares")

    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> nullcontext[None]:
        raise AssertionError(f"a replay asks no service, but {limit.service} at {slot} ({progress})")

    admitted_async = admitted

    async def in_thread(self, work: Callable[[], T]) -> T:
        return work()

    def log(self, event: str, fields: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Called:
    """Reads what called agents gave, and calls none."""

    store: Store

    def begin(self, claim: Claim, begun: Entry, order: Order) -> Standing:
        raise AssertionError(f"a replay calls no agent, but {order.agent} at {begun.slot} of {claim.task}")

    def standing(self, claim: Claim, slot: Slot) -> Standing | None:
        raise AssertionError(f"a replay waits for no agent, but at {slot} of {claim.task}")

    def at_hand(self, identity: str) -> bool:  # noqa: ARG002 - the port's
        return False

    def ends(self, identity: str) -> list[Ended]:
        return all_ends(self.store, identity)

    def failure(self, identity: str) -> Failure | None:
        raise AssertionError(f"a replay finds failures in the record, and not in {identity}")


# Comparing ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ended:
    """How the execution here ended: with an output, an error, or where the record does."""

    output: Any = None
    error: NightfleetError | None = None
    ends: RecordedPartEnds | None = None


class _Replaying:
    """One agent run, its code here, and what it has recorded."""

    def __init__(self, past: Past, loaded: LoadedAgent, entries: list[Entry], called: _Called) -> None:
        self._past = past
        self._loaded = loaded
        self._entries = entries
        account = Account(model="offline", limits=loaded.agent_class.limits)
        self._task = definition_of(past.plan, past.claim)
        ask_as_told(account, self._task, past.claim.agent, loaded.agent_class.model)
        account.model = past.model or account.model
        self._redact = redactor(os.environ)
        writer = Writer(
            past.claim,
            MemoryJournal(),
            Motion(account),
            self._redact,
            digest=loaded.card.digest,
            plugin=loaded.agent_class.__module__,
            limit_bytes=sys.maxsize,
        )
        history = _History.of(entries, voided=past.state is not AgentRunState.SUCCEEDED)
        self._recorder = _Replayer(writer, history, _NoHost(), callees=called)

    def compared(self) -> Replay:
        """Execute, and tell what came of it."""
        ended = self._execute()
        verdict, reason = self._verdict(ended)
        past, claim = self._past, self._past.claim
        error = None if ended.error is None else self._info(ended.error)
        versions = dict.fromkeys(entry.digest for entry in self._entries if entry.digest is not None)
        return Replay(
            run_id=claim.run_id,
            agent_run_id=claim.id,
            task=claim.task,
            agent=claim.agent,
            verdict=verdict,
            reason=reason,
            effects=tuple(self._recorder.trace),
            output=ended.output,
            error=error,
            recorded_state=past.state,
            recorded_output=None if past.output is None else json.loads(past.output),
            recorded_error=None if past.error is None else ErrorInfo.model_validate_json(past.error),
            version=self._loaded.card.digest,
            recorded_versions=tuple(versions),
        )

    def _execute(self) -> _Ended:
        past, loaded, recorder = self._past, self._loaded, self._recorder
        given = Given.to(past.claim)
        execution = Execution(past.claim, past.plan, recorder.motion.account, self._task, 0.0)
        try:
            data = loaded.parse_input(given.input(execution))
            context = given.context(past.claim, recorder, recorder.motion.account, loaded)
            result = _in_thread_of_its_own(lambda: self._call(data, context))
            recorder.finish()
            output = loaded.dump_output(result)
            dump(output, what=f"the output of agent {past.claim.agent!r}", limit_bytes=sys.maxsize, error=OutputInvalid)
        except (Exception, SystemExit, RecordedPartEnds) as error:  # noqa: BLE001 - whatever it raised is its end
            return self._ended_by(error)
        return _Ended(output=output)

    def _call(self, data: Any, context: Any) -> Any:
        agent, root = self._loaded.agent_class(), self._recorder.scopes.root
        if not self._loaded.is_async:
            return in_scope(root, agent.execute, data, context)
        with asyncio.Runner() as runner:
            host_agents(runner.get_loop())
            return runner.run(in_scope_async(root, agent.execute, data, context))

    def _ended_by(self, error: BaseException) -> _Ended:
        """Tell what an error means: the first contradiction and the end of the record outlast what an agent makes of them."""
        error = self._recorder.motion.ended or error
        if isinstance(error, RecordedPartEnds):
            return _Ended(ends=error)
        log.debug("ended here", exc_info=error)
        return _Ended(error=masked(from_exception(error), self._redact))

    def _verdict(self, ended: _Ended) -> tuple[Verdict, str]:
        state = self._past.state
        if isinstance(ended.error, NondeterminismError):
            return Verdict.DIFFERENT, ended.error.message
        if ended.ends is not None and not self._entries:
            return Verdict.UNFINISHED, f"nothing of it is recorded (any more); what it asks for first is {ended.ends}"
        if ended.ends is not None:
            here = f"here the recorded part ends; what it asks for next is {ended.ends}"
            return (Verdict.DIFFERENT if state is AgentRunState.SUCCEEDED else Verdict.UNFINISHED), here
        if state is AgentRunState.SUCCEEDED:
            return self._compared_output(ended)
        if state is AgentRunState.FAILED:
            return self._compared_error(ended)
        return Verdict.UNFINISHED, f"it is {state}: there is no recorded end to compare with"

    def _compared_output(self, ended: _Ended) -> tuple[Verdict, str]:
        if ended.error is not None:
            return Verdict.DIFFERENT, f"it fails here, where it had succeeded: {ended.error.message}"
        if ended.output == json.loads(self._past.output or "null"):
            return Verdict.SAME, "its output is the recorded one"
        return Verdict.DIFFERENT, "its output is another one than is recorded"

    def _compared_error(self, ended: _Ended) -> tuple[Verdict, str]:
        recorded = ErrorInfo.model_validate_json(self._past.error or '{"code":"error","message":""}')
        if recorded.code in _FROM_OUTSIDE:
            return Verdict.UNFINISHED, f"what ended it is not the agent's and not met here: {recorded.message}"
        if ended.error is None:
            return Verdict.DIFFERENT, f"it returns here, where it had failed: {recorded.message}"
        info = self._info(ended.error)
        if (info.code, info.message) == (recorded.code, recorded.message):
            return Verdict.SAME, "its error is the recorded one"
        return Verdict.DIFFERENT, f"its error is another one than is recorded, which was: {recorded.message}"

    def _info(self, error: NightfleetError) -> ErrorInfo:
        return ErrorInfo.model_validate({**error.to_data(), "task": self._past.claim.task})


def _in_thread_of_its_own(work: Callable[[], T]) -> T:
    """Call in a thread: here an event loop may be running."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, work).result()


def _shown(entry: Entry) -> ReplayedEffect:
    failed = entry.state is EntryState.FAILED
    outcome = (entry.error or {}).get("message", "") if failed else json.dumps(entry.outcome, ensure_ascii=False)
    return ReplayedEffect(
        slot=str(entry.slot),
        kind=entry.kind,
        request=entry.request and _cut(entry.request),
        state="failed" if failed else "done",
        outcome=_cut(str(outcome)),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
