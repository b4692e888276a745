"""One effect that is not recorded: perform it, and record what came of it before anybody sees that."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from orchestrator.clock import system_clock
from orchestrator.context.base import Sharing
from orchestrator.contracts.effect import PREVIEW, Entry, EntryState, EventLine, Slot, fingerprint, preview
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.errors import (
    ClaimLost,
    EffectUncertain,
    InputInvalid,
    NondeterminismError,
    OutputInvalid,
    ValueTooLarge,
)
from orchestrator.failpoints import failpoint
from orchestrator.journal.base import Journal
from orchestrator.observability.redact import Redact
from orchestrator.process_lock import ProcessLock
from orchestrator.store.agent_runs import Claim
from worker.effects import steps
from worker.effects.base import Effect, RunStep
from worker.effects.motion import Motion
from worker.effects.progress import NotYet, Progress
from worker.effects.raised import describe, rebuild
from worker.effects.said import clean
from worker.effects.scopes import Mark, Scope, leave_scope, marks_of, set_marks
from worker.llm.base import LLMRequest, LLMResponse
from worker.tools.needs import ServiceLimit

T = TypeVar("T")

#: A conversation of more messages is long. It takes several times its size until it is written: a few of a process at a time.
_LONG = 200
_long_ones = ProcessLock(lambda: threading.BoundedSemaphore(2))


class Host(Protocol):
    """Who performs effects: the live runtime, a test, or a proxy of either. Steps are called where the agent is."""

    @property
    def blocks(self) -> bool:
        """Whether model calls are made in threads, from event loops too, so that none ends with its loop."""
        ...

    def perform(self, effect: Effect) -> Any:
        """Do an effect that is neither a step nor a model call."""
        ...

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        """Ask a model for the effect at a slot; raises `NotYet`, or a `ModelError` when no further try is worth it."""
        ...

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        """Ask a model from an event loop."""
        ...

    def memory(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        """Ask the memory for the effect at a slot; raises `NotYet` where vectors have to be waited for."""
        ...

    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> AbstractContextManager[None]:
        """Hold a place within the limit of a service for the length of a `with` block; raises `NotYet`."""
        ...

    def admitted_async(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> AbstractAsyncContextManager[None]:
        """Do the same from an event loop."""
        ...

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what blocks, from an event loop."""
        ...

    @property
    def shared(self) -> Sharing:
        """What the agents of the run share."""
        ...

    def log(self, event: str, fields: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Blocking:
    """An operation that asks the database for the effect at a slot; it is under way meanwhile."""

    motion: Motion
    slot: Slot
    work: Callable[[], Any]

    def run(self, host: Host) -> Any:  # noqa: ARG002
        with self.motion.flight(self.slot):
            return self.motion.patiently(self.work)

    async def run_async(self, host: Host) -> Any:
        with self.motion.flight(self.slot):  # from now on, not from when there is a thread for it
            return await host.in_thread(lambda: self.run(host))


@dataclass(frozen=True, slots=True)
class Stored:
    """What an effect gives that was recorded together with what it did: nothing is left to be recorded."""

    outcome: JsonValue


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the entries of one execution and writes them under its claim."""

    claim: Claim
    journal: Journal
    motion: Motion
    redact: Redact
    #: The version of the agent, and the name of its module.
    digest: str
    plugin: str
    limit_bytes: int

    def entry(self, effect: Effect, slot: Slot, state: EntryState, **fields: Any) -> Entry:
        """Make the entry of an effect; its request is cut and without secrets."""
        asked = effect.asked()
        text = effect.told() or (None if asked is None else preview(asked))
        if text is not None:
            # A conversation is long: of its beginning, more is read than kept, so that no half of a secret is left.
            text = preview(clean(text[: 4 * PREVIEW], self.redact))
        what = fingerprint(effect.kind, asked)
        return Entry(slot, effect.kind, what, state, request=text, digest=self.digest, **fields)

    def masked(self, event: EventLine | None) -> EventLine | None:
        """Give a line for watchers as it may be stored."""
        return None if event is None else replace(event, message=clean(event.message, self.redact))

    def begin(self, effect: Effect, slot: Slot, **fields: Any) -> None:
        """Store that an effect may happen from now on."""
        entry = self.entry(effect, slot, EntryState.BEGUN, **fields)
        self.motion.patiently(lambda: self.journal.begin(self.claim, entry))

    def record(self, effect: Effect, slot: Slot, state: EntryState, **fields: Any) -> None:
        """Store what came of an effect."""
        with _long_ones.here if len(fields.get("conversation") or ()) > _LONG else nullcontext():
            entry = self.entry(effect, slot, state, **fields)
            self.motion.patiently(lambda: self.journal.record(self.claim, entry))


def mark_failed(error: Exception, mark: Mark, *, final: bool, came_from: BaseException | None = None) -> None:
    """Note that an error came out of a slot, and which slots inside of it brought it about. `final`: none is repeated."""
    if final:
        vars(error)["retryable"] = False
        set_marks(error, [])
        return
    inner = [each for each in marks_of(came_from) or () if str(each.slot).startswith(f"{mark.slot}.")]
    set_marks(error, [mark, *inner])


class Attempt:
    """The operation that performs one effect; it gives the recorded outcome, or raises the recorded error."""

    __slots__ = ("_began", "_effect", "_scope", "_slot", "_wanted", "_writer")

    def __init__(self, writer: Writer, effect: Effect, scope: Scope, slot: Slot) -> None:
        self._writer = writer
        self._effect = effect
        self._scope = scope
        self._slot = slot
        self._began = 0.0
        self._wanted = True

    def __str__(self) -> str:
        claim = self._writer.claim
        return f"{claim.task} {claim.epoch} {self._slot} {self._effect.told() or self._effect.kind}"

    def run(self, host: Host) -> JsonValue:
        return self.perform(self._call if isinstance(self._effect, RunStep) else lambda: host.perform(self._effect))

    def perform(self, work: Callable[[], Any]) -> JsonValue:
        """Do it; raises `NotYet`, where nothing was done and so nothing is recorded."""
        with self._writer.motion.flight(self._slot):
            self._begin()
            inside = self._scope.inside(self._slot)
            try:
                with inside.entered():
                    value = work()
            except NotYet:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raised is its outcome
                return self._failed(error, inside)
            return self._done(value, inside)

    async def perform_async(self, host: Host, work: Callable[[], Awaitable[Any]]) -> JsonValue:
        """Do what is awaited; what was paid for is recorded even if nobody waits for it any more."""
        context = copy_context()
        context.run(leave_scope)
        task = context.run(asyncio.get_running_loop().create_task, self._awaited(host, work))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await self._within_flight(lambda: asyncio.shield(task))

    async def _within_flight(self, work: Callable[[], Awaitable[JsonValue]]) -> JsonValue:
        with self._writer.motion.flight(self._slot):
            try:
                return await work()
            except BaseException as error:
                self._interrupted(error)
                raise

    async def _awaited(self, host: Host, work: Callable[[], Awaitable[Any]]) -> JsonValue:
        with self._writer.motion.flight(self._slot):
            self._begin()
            inside = self._scope.inside(self._slot)
            try:
                value = await work()
            except NotYet:
                raise
            except (Exception, SystemExit) as raised:  # noqa: BLE001
                error = raised
            else:
                return await self._stored(host, lambda: self._done(value, inside))
            return await self._stored(host, lambda: self._failed(error, inside))

    async def run_async(self, host: Host) -> JsonValue:
        effect = self._effect
        if not (isinstance(effect, RunStep) and steps.is_coroutine_step(effect.function)):
            # Performed and recorded in one go: what was paid for is recorded even if nobody waits for it any more.
            return await self._within_flight(lambda: host.in_thread(lambda: self.run(host)))
        return await self._within_flight(lambda: self._run_coroutine(effect, host))

    def store(self, write: Callable[[Entry], JsonValue], outcome: JsonValue = None) -> Stored:
        """Let `write` do the effect and store its entry in one go, if anybody still waits for that; again, while that is away."""
        if not self._wanted:
            return Stored(None)
        entry = self._writer.entry(
            self._effect, self._slot, EntryState.DONE, outcome=outcome, milliseconds=self._milliseconds()
        )
        return Stored(self.patiently(lambda: write(entry)))

    def patiently(self, work: Callable[[], T]) -> T:
        """Ask the database, again and again while it is away; raises what has ended or stopped the execution."""
        self._writer.motion.check()
        return self._writer.motion.patiently(work)

    async def perform_in_thread(self, host: Host, work: Callable[[], Any]) -> JsonValue:
        """Do what blocks."""
        return await self._within_flight(lambda: host.in_thread(lambda: self.perform(work)))

    async def _run_coroutine(self, step: RunStep, host: Host) -> JsonValue:
        if step.at_most_once:
            await self._stored(host, self._begin)
        else:
            self._begin()
        inside = self._scope.inside(self._slot)
        try:
            with inside.entered():
                value = await steps.call(step.function, step.args, step.kwargs, self._key)
        except (Exception, SystemExit) as raised:  # noqa: BLE001
            error = raised
        else:
            return await self._stored(host, lambda: self._done(value, inside))
        return await self._stored(host, lambda: self._failed(error, inside))

    async def _stored(self, host: Host, work: Callable[[], T]) -> T:
        """Store from an event loop: in a thread where that waits for the database."""
        return await host.in_thread(work) if self._writer.journal.blocks else work()

    def _key(self) -> str:
        """Give the key of this very call: what is asked in this place after it was begun anew may be another one."""
        mark = fingerprint(self._effect.kind, self._effect.asked())[:12]
        return f"{self._writer.claim.id}:{self._slot.scope}:{self._slot.number}:{mark}"

    def _call(self) -> Any:
        step = self._effect
        assert isinstance(step, RunStep)
        value = steps.call(step.function, step.args, step.kwargs, self._key)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise InputInvalid(
                f"a {step.kind} of a plain `execute` is a coroutine function: make `execute` async, or the function plain"
            )
        return value

    def _begin(self) -> None:
        if self._effect.at_most_once:
            self._writer.begin(self._effect, self._slot)
        failpoint("before_effect", self)
        self._began = system_clock.monotonic()

    def _done(self, value: Any, inside: Scope) -> JsonValue:
        self._let_stop(inside)
        if isinstance(value, Stored):
            return value.outcome
        try:
            outcome = self._effect.encode(value, self._writer.limit_bytes)
            event = self._writer.masked(self._effect.event(outcome))
            self._record(EntryState.DONE, outcome=outcome, event=event, **self._effect.spent(value))
        except (OutputInvalid, ValueTooLarge) as error:
            return self._failed(error, inside)
        return outcome

    def _failed(self, error: BaseException, inside: Scope) -> JsonValue:
        self._let_stop(inside)
        motion = self._writer.motion
        if isinstance(error, ClaimLost | NondeterminismError | EffectUncertain):
            raise error
        with motion.recording_failure() as wanted:
            # Where the agent itself is over, nobody has seen this failure: the next one may have better luck.
            if not wanted:
                raise error
            described = describe(error, self._writer.redact)
            self._record(EntryState.FAILED, error=described)
            given = rebuild(described, self._writer.plugin).with_traceback(error.__traceback__)
            mark = Mark(self._slot, self._scope)
            mark_failed(given, mark, final=self._effect.at_most_once, came_from=error)
            motion.failures.append(mark)
        raise given from given.__cause__

    def _let_stop(self, inside: Scope) -> None:
        """Raise again what its code was told inside, whatever it made of that: it gives not what it would give."""
        if inside.refused:
            self._scope.refuse()
            self._writer.motion.check()

    def _record(self, state: EntryState, **fields: Any) -> None:
        if not self._wanted:
            return
        took, messages = self._milliseconds(), self._effect.conversation()
        self._writer.record(self._effect, self._slot, state, milliseconds=took, conversation=messages, **fields)

    def _milliseconds(self) -> int:
        return round((system_clock.monotonic() - self._began) * 1000)

    def _interrupted(self, error: BaseException) -> None:
        """Take note that the agent waits no more: nobody can say that its outcome was seen."""
        if isinstance(error, Exception):
            return
        # It has no outcome that would have to be repeated, whatever the agent raises because of this.
        set_marks(error, [])
        if self._writer.motion.ended is None and self._writer.motion.account.stopped is None:
            # The agent itself has gone another way: an outcome that comes now would be news to who repeats it.
            self._wanted = False
