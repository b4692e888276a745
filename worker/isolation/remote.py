"""What an agent in a child process has in place of the worker's: a host and a journal that ask the worker."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from orchestrator.clock import system_clock
from orchestrator.context.base import Sharing
from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.memory import MemoryOutcome, MemoryRequest
from orchestrator.contracts.question import Inquiry, Reply
from orchestrator.contracts.shared import Change, Look
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing
from orchestrator.store.agent_runs import Claim
from worker.effects.base import Effect, ReadClock, Report
from worker.effects.progress import NotYet, Progress
from worker.effects.window import FitWindow
from worker.isolation import wire
from worker.isolation.link import Link
from worker.llm.base import LLMRequest, LLMResponse
from worker.tools.needs import ServiceLimit

T = TypeVar("T")

_THREADS = 64


class RemoteSharing:
    """What the run shares, asked of the worker, which knows the claim."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def look(self, look: Look) -> JsonValue:
        return self._link.ask("look", look=look.model_dump(mode="json"))

    def change(self, change: Change, entry: Entry) -> JsonValue:
        return self._link.ask("change", change=change.model_dump(mode="json"), entry=wire.entry_out(entry))

    def turn(self, namespace: str, key: str) -> AbstractContextManager[None]:  # noqa: ARG002 - the port's
        return nullcontext()

    def line(self, namespace: str, key: str, *, lost: bool) -> AbstractContextManager[bool]:  # noqa: ARG002
        return nullcontext(enter_result=False)


class RemoteHost:
    """Performs effects: model calls by the worker, who has the keys; the clock is the same here and there."""

    blocks = True

    def __init__(self, link: Link) -> None:
        self._link = link
        self.shared: Sharing = RemoteSharing(link)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="nightfleet-blocking")

    def perform(self, effect: Effect) -> Any:
        match effect:
            case ReadClock():
                return system_clock.now()
            case Report():
                return None  # it is told with its record
            case FitWindow(request):
                return self._link.ask("window", request=request.model_dump(mode="json"))
            case _:
                raise NotImplementedError(f"no way to perform {effect.kind}")

    def call(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        answer = self._link.ask(
            "model", request=request.model_dump(mode="json"), slot=list(slot), progress=list(progress)
        )
        return LLMResponse.model_validate(_now(answer)["response"])

    async def call_async(self, request: LLMRequest, slot: Slot, progress: Progress) -> LLMResponse:
        raise NotImplementedError(
            "the loop of a child ends with its agent, what it has paid for does not: see `blocks`"
        )

    def memory(self, request: MemoryRequest, slot: Slot, progress: Progress) -> MemoryOutcome:
        answer = self._link.ask(
            "memory", request=request.model_dump(mode="json"), slot=list(slot), progress=list(progress)
        )
        return MemoryOutcome.model_validate(_now(answer)["outcome"])

    @contextmanager
    def admitted(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> Generator[None]:
        _now(self._link.ask("admit", limit=limit.model_dump(mode="json"), slot=list(slot), progress=list(progress)))
        try:
            yield
        finally:
            self._link.ask("leave", slot=list(slot))

    @asynccontextmanager
    async def admitted_async(self, limit: ServiceLimit, slot: Slot, progress: Progress) -> AsyncGenerator[None]:
        turn = self.admitted(limit, slot, progress)
        await self.in_thread(turn.__enter__)
        try:
            yield
        finally:
            await self.in_thread(partial(turn.__exit__, None, None, None))

    async def in_thread(self, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(work))

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        self._link.tell("log", event=event, fields=json.loads(json.dumps(fields, default=str)))


def _now(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give an answer of the worker; raises `NotYet` for one that says to ask later."""
    match answer:
        case {"later": [seconds, waiting_for, progress]}:
            raise NotYet(seconds, waiting_for, Progress.of(progress))
        case _:
            return answer


class RemoteJournal:
    """The worker's journal. Claims are known there, so that no child writes under another one's."""

    blocks = True

    def __init__(self, link: Link) -> None:
        self._link = link

    def read(self, claim: Claim) -> RemoteRecording:
        if claim.epoch > 1:
            self._link.ask("read")
        return RemoteRecording(self._link, empty=claim.epoch == 1)

    def record(self, claim: Claim, entry: Entry) -> None:
        del claim
        self._link.ask("record", entry=wire.entry_out(entry))

    def begin(self, claim: Claim, entry: Entry) -> None:
        del claim
        self._link.ask("begin", entry=wire.entry_out(entry))

    def void(self, claim: Claim, slots: Sequence[Slot] | None) -> None:
        del claim
        self._link.ask("void", slots=None if slots is None else [list(slot) for slot in slots])

    def entries(self, agent_run_id: str) -> Iterator[Entry]:
        raise NotImplementedError("an agent does not read its journal")

    def conversation(self, run_id: str, head: str) -> list[JsonValue]:
        raise NotImplementedError("an agent does not read its journal")


class RemoteRecording:
    """What earlier claims have recorded, asked for slot by slot."""

    def __init__(self, link: Link, *, empty: bool) -> None:
        self._link = link
        self._empty = empty

    def take(self, slot: Slot) -> Entry | None:
        found = None if self._empty else self._link.ask("take", slot=list(slot))
        return None if found is None else wire.entry_in(found)

    def at_hand(self, slot: Slot) -> bool:  # noqa: ARG002 - the port's
        return self._empty

    def left(self) -> Entry | None:
        found = None if self._empty else self._link.ask("left")
        return None if found is None else wire.entry_in(found)


class RemoteEvents:
    """The worker's view of what waits ask: the database's time, and people."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def now(self) -> datetime:
        return datetime.fromisoformat(self._link.ask("now"))

    def has_come(self, moment: datetime) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        del claim
        return str(self._link.ask("question", slot=list(slot), inquiry=asdict(inquiry)))

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        del agent_run_id
        return wire.reply_in(self._link.ask("reply", slot=list(slot)))


class RemoteCallees:
    """The worker's agent runs for calls: nobody else knows the fleet, or may write to its database."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def begin(self, claim: Claim, begun: Entry, order: Order) -> Standing:
        del claim
        return wire.standing_in(self._link.ask("call", begun=wire.entry_out(begun), order=asdict(order)))

    def standing(self, claim: Claim, slot: Slot) -> Standing | None:
        del claim
        found = self._link.ask("standing", slot=list(slot))
        return None if found is None else wire.standing_in(found)

    def at_hand(self, identity: str) -> bool:  # noqa: ARG002 - the port's
        return False

    def ends(self, identity: str) -> list[Ended]:
        return [Ended(*each) for each in self._link.ask("ends", identity=identity)]

    def failure(self, identity: str) -> Failure | None:
        found = self._link.ask("failure", identity=identity)
        return None if found is None else Failure(*found)


class RemoteLog(logging.Handler):
    """Log lines of whatever the agent uses go into the worker's log, which knows run and task."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._link.tell("line", logger=record.name, level=record.levelno, text=self.format(record))
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)
