"""Processes that call models as agents do, with nothing around it: the whole way of a call, many at a time, until told to end.

What waits sleeps for exactly as long as it was told, and asks again with the progress that it was given.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple, TypeVar

from grounds import StoreGround

from orchestrator.contracts.effect import Slot
from orchestrator.errors import ModelError
from orchestrator.observability.redact import redactor
from orchestrator.settings import Settings
from orchestrator.store.store import Store
from worker.calls.desk import Desk
from worker.calls.models import Models
from worker.calls.place import Place
from worker.effects.patience import patiently
from worker.effects.progress import NotYet, Progress
from worker.llm.base import LLMRequest, Message
from worker.llm.providers import Providers
from worker.streams.show import Show, ShownAnswers

T = TypeVar("T")

#: What takes long to import is there already when a process begins: they are forked from one that has it.
_IMPORTED = ["anthropic", "openai", "redis.asyncio", "psycopg", "sqlalchemy", "orchestrator", "worker.runtime"]
#: A model that nothing limits.
UNLIMITED = "unlimited"
_PATIENCE_SECONDS = 300
_THREADS = 16


class Job(NamedTuple):
    """What each process is to call: so many calls at a time, their prompts of about so many bytes."""

    environment: Mapping[str, str]
    model: str
    lanes: int
    prompt_bytes: int
    max_output_tokens: int

    def prompts(self) -> Iterator[str]:
        """Give prompts without end, no two of them equal, in sizes from half to one and a half of what was asked for."""
        for number in itertools.count():
            size = self.prompt_bytes * (2 + number % 5) // 4
            yield f"{os.getpid()} {number} ".ljust(size, "x")


@dataclass
class Counts:
    """What processes have counted: requests by outcome, waits by reason, and failures of calls in words."""

    requests: Counter[str] = field(default_factory=Counter[str])
    waits: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    @property
    def wakes(self) -> float:
        """How often a call that was answered had slept for a limit, in the mean."""
        return self.waits["limit"] / max(1, self.requests["answered"])

    def add(self, more: Counts) -> None:
        self.requests.update(more.requests)
        self.waits.update(more.waits)
        self.failures += more.failures


@dataclass(frozen=True)
class Broken:
    """What a process says that can't go on."""

    traceback: str


# The processes, as a test sees them -----------------------------------------------------------------------------------


class Process:
    """One caller; `environment` is that of its installation."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(_IMPORTED)
        self._ours, theirs = forks.Pipe()
        self._process = forks.Process(target=main, args=(theirs, dict(environment)), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, what: Job | Literal["go", "end"]) -> None:
        """Give it a job, for which it gets ready; let it begin; end it."""
        self._ours.send(what)

    def told(self) -> Any:
        """Wait for what it says: that it is ready, or in the end what it has counted."""
        assert self._ours.poll(_PATIENCE_SECONDS), "a caller says nothing"
        said = self._ours.recv()
        assert not isinstance(said, Broken), f"a caller is broken: {said.traceback}"
        return said

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


class Callers:
    """So many processes that work together, and spare ones that take the place of those that are killed."""

    def __init__(self, environment: Mapping[str, str], count: int, spares: int) -> None:
        self._environment = environment
        self._count = count
        self._spares = spares
        self._working: list[Process] = []
        self._spare: list[Process] = []

    def prepare(self, job: Job) -> None:
        """Give all of them a job, and wait until they are ready for it."""
        self._working += [Process(self._environment) for _ in range(self._count - len(self._working))]
        self._spare += [Process(self._environment) for _ in range(self._spares - len(self._spare))]
        everybody = (*self._working, *self._spare)
        for process in everybody:
            process.tell(job)
        assert {process.told() for process in everybody} == {"ready"}

    def begin(self) -> None:
        """Let all of them call, but for the spare ones."""
        for process in self._working:
            process.tell("go")

    def kill_one(self) -> None:
        """Kill the one that has worked longest; a spare one takes its place."""
        self._working.pop(0).kill()
        self._working.append(self._spare.pop())
        self._working[-1].tell("go")

    def end(self) -> Counts:
        """Let none begin another call, and those that they have begun come to their end; gives what all have counted."""
        counts = Counts()
        everybody = (*self._working, *self._spare)
        for process in everybody:
            process.tell("end")
        for process in everybody:
            counts.add(process.told())
        return counts

    def close(self) -> None:
        """Kill all; the next job has others."""
        for process in (*self._working, *self._spare):
            process.kill()
        self._working, self._spare = [], []


# One process, from within ---------------------------------------------------------------------------------------------


def main(told: Connection, environment: Mapping[str, str]) -> None:
    """Do one job after the other, until killed."""
    os.environ |= environment
    store = Store.from_settings(Settings.load())
    try:
        while True:
            job: Job = told.recv()
            told.send(asyncio.run(_Work(store, job).run(told)))
    except Exception:
        told.send(Broken(traceback.format_exc()))
        raise


class _Database:
    """A database that may be away for a moment, as executions see it: many processes connect to it at once."""

    def patiently(self, work: Callable[[], T]) -> T:
        return patiently(work, _PATIENCE_SECONDS, threading.Event().wait)


class _Work:
    """One job."""

    def __init__(self, store: Store, job: Job) -> None:
        os.environ |= job.environment
        settings = Settings.load()
        claim = StoreGround(store).claim()
        self._desk = Desk.of(settings, Providers(os.environ, settings.models_file), store.ledger, store.answers)
        shown = ShownAnswers(Show.of(store.streams, redactor(os.environ)), claim, _Database())
        self._models = Models(self._desk, Place(claim, "default", "default"), _Database(), shown)
        self._job = job
        self._calls = enumerate(job.prompts())
        self._pool = ThreadPoolExecutor(_THREADS)
        self._ending = False
        self._counts = Counts()

    async def run(self, told: Connection) -> Counts:
        """Get ready, call from `go` to `end`, and give what was counted."""
        await self._warm_up()
        told.send("ready")
        if await asyncio.to_thread(told.recv) == "go":
            lanes = [asyncio.create_task(self._lane()) for _ in range(self._job.lanes)]
            await asyncio.to_thread(told.recv)
            self._ending = True
            await asyncio.gather(*lanes)
        await self._desk.limiter.aclose()
        self._desk.close()
        self._pool.shutdown()
        counted = self._desk.tallies.counts()
        for (_, outcome), calls in counted.calls.items():
            self._counts.requests[outcome] += calls
        self._counts.waits.update(counted.waits)
        return self._counts

    async def _warm_up(self) -> None:
        """Make a call past all limits: the first one of a process makes its client, and is let through long before it is sent."""
        asked = (Message(role="user", content="Are you there?"),)
        name = self._job.model.partition(":")[0]
        [provider] = self._desk.providers.providers_for(self._job.model)
        await provider.invoke_async(LLMRequest(model=f"{name}:{UNLIMITED}", messages=asked))

    async def _lane(self) -> None:
        while not self._ending:
            number, prompt = next(self._calls)
            try:
                await self._call(Slot("", number), prompt)
            except ModelError as error:
                self._counts.failures.append(str(error))

    async def _call(self, slot: Slot, prompt: str) -> None:
        asked = (Message(role="user", content=prompt),)
        request = LLMRequest(model=self._job.model, messages=asked, max_output_tokens=self._job.max_output_tokens)
        later: NotYet | None = NotYet(0.0, "has not begun", Progress())
        while later is not None:
            later = await self._try(request, slot, later)

    async def _try(self, request: LLMRequest, slot: Slot, later: NotYet) -> NotYet | None:
        """Wait as told and ask again; None when there is an answer."""
        assert later.seconds is not None, later.waiting_for
        await asyncio.sleep(later.seconds)
        try:
            await self._models.call_async(request, slot, later.progress, self._in_thread)
        except NotYet as again:
            return again
        return None

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
