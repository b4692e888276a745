"""Executes an agent's code again and again against one journal in memory, as claims that follow each other would."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar

import pytest

from orchestrator.clock import agent_run_id, ids, system_clock
from orchestrator.context.base import Sharing
from orchestrator.context.memory import MemoryShared
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.contracts.policy import Limits
from orchestrator.contracts.usage import Usage
from orchestrator.journal.base import Journal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context
from worker.effects.attempt import Writer
from worker.effects.base import Account, Effect, ReadClock
from worker.effects.motion import Motion
from worker.effects.parking import Events, Parking
from worker.effects.progress import Progress
from worker.effects.recorded import in_scope, in_scope_async, run_recorded
from worker.effects.recorder import Recorder
from worker.effects.scopes import Suspended, host_agents
from worker.llm.base import LLMRequest, LLMResponse
from worker.sharing import ClaimSharing
from worker.tools.needs import ServiceLimit

T = TypeVar("T")


class Killed(BaseException):
    """Stands for a kill: whatever is not recorded by now never will be."""


class Desk:
    """Performs effects: model calls by a function of the prompt; `calls` holds the prompts."""

    blocks = False

    def __init__(self, answer: Callable[[str], str]) -> None:
        self._answer = answer
        self.calls: list[str] = []
        #: What the run shares, as the claim that executes sees it.
        self.shared: Sharing

    def perform(self, effect: Effect) -> Any:
        match effect:
            case ReadClock():
                return system_clock.now()
            case _:
                return None

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        del slot, progress
        return self._invoke(request)

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        return await asyncio.to_thread(self.call, request, slot, progress)

    def memory(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        raise AssertionError(f"nobody remembers {request} at {slot} ({progress})")

    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> AbstractContextManager[None]:
        del limit, slot, progress
        return nullcontext()

    @asynccontextmanager
    async def admitted_async(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> AsyncGenerator[None]:
        with self.admitted(limit, slot, progress):
            yield

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    def log(self, event: str, fields: Mapping[str, Any]) -> None: ...

    def _invoke(self, request: LLMRequest) -> LLMResponse:
        prompt = request.messages[-1].text
        self.calls.append(prompt)
        usage = Usage(model_calls=1, input_tokens=len(prompt), output_tokens=1)
        return LLMResponse(text=self._answer(prompt), model="desk:1", usage=usage, stop_reason="end_turn")


class Replays:
    """One agent run; each `run` is a claim of it."""

    def __init__(self, journal: Journal | None = None, answer: Callable[[str], str] = str.upper) -> None:
        self.journal: Journal = journal or MemoryJournal()
        self.id = agent_run_id(ids.new(), 0)
        self.epoch = 0
        self.desk = Desk(answer)
        in_memory = self.journal if isinstance(self.journal, MemoryJournal) else MemoryJournal()
        self.shared = MemoryShared(in_memory)
        self.account = Account("desk:1")
        self.recorder: Recorder
        #: Whom effects that wait ask, if any can, and how long a moment is.
        self.events: Events | None = None
        self.moment_seconds = 0.05

    def run(
        self,
        execute: Callable[[Any], Any],
        *,
        digest: str = "version 1",
        on_change: str = "fail",
        limits: Limits | None = None,
    ) -> Any:
        """Claim and execute; gives what `execute` returns, and raises what it raises. It is given a context."""
        self.epoch += 1
        claim = Claim(self.id, "task", 0, "agent", self.epoch, 0, 0, self.id, self.id, "null", None)
        self.account = Account("desk:1", limits or Limits())
        self.desk.shared = ClaimSharing(self.shared, claim)
        is_async = inspect.iscoroutinefunction(execute)

        def make() -> Recorder:
            self.account.begin_again()
            writer = Writer(
                claim,
                self.journal,
                Motion(self.account),
                lambda text: text.replace("secret", "***"),
                digest=digest,
                plugin=__name__,
                limit_bytes=1_000_000,
            )
            parking = None if self.events is None else Parking(writer.motion, self.events, self.moment_seconds)
            self.recorder = Recorder(writer, self.journal.read(claim), self.desk, parking)
            return self.recorder

        def call(recorder: Recorder) -> Any:
            kind = AsyncContext if is_async else Context
            ctx = kind(recorder, self.account, run_id="run", task="task", run_input=None, upstream={})
            if not is_async:
                return in_scope(recorder.scopes.root, execute, ctx)
            with asyncio.Runner() as runner:
                host_agents(runner.get_loop())
                return runner.run(in_scope_async(recorder.scopes.root, execute, ctx))

        return run_recorded(make, call, on_change=on_change)

    def suspended(self, execute: Callable[[Any], Any]) -> Suspended:
        """Execute until it suspends."""
        with pytest.raises(Suspended) as caught:
            self.run(execute)
        return caught.value

    @property
    def entries(self) -> Sequence[Entry]:
        """All that is recorded and not void."""
        return [entry for entry in self.journal.entries(self.id) if entry.state is not EntryState.VOID]

    @property
    def shape(self) -> dict[str, str]:
        """The kind of effect in each slot."""
        return {str(entry.slot): entry.kind for entry in self.entries}
