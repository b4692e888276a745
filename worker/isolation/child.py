"""What a child process does: load one plugin, run one agent, say how that ended. The worker does all else for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.clock import system_clock
from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import (
    AgentError,
    AgentFailed,
    AgentOutOfMemory,
    ClaimLost,
    NightfleetError,
    OutputInvalid,
    UnknownAgent,
)
from orchestrator.observability.redact import redactor
from orchestrator.store.agent_runs import Claim
from worker.effects.attempt import Writer
from worker.effects.base import Account
from worker.effects.motion import Motion
from worker.effects.parking import Parking
from worker.effects.recorded import in_scope, in_scope_async, run_recorded
from worker.effects.recorder import Recorder
from worker.effects.scopes import Suspended, host_agents
from worker.failure import described
from worker.given import Given
from worker.isolation.channel import Channel
from worker.isolation.link import Link
from worker.isolation.mail import RemoteMail
from worker.isolation.remote import RemoteCallees, RemoteEvents, RemoteHost, RemoteJournal, RemoteLog
from worker.loader import AgentLoader
from worker.nodes.builtin import bound
from worker.plugin import LoadedAgent
from worker.tools.servers.adapters import use_adapters_file

_MEGABYTE = 1024 * 1024
_UNWIND_SECONDS = 0.5


def child_main(end: socket.socket) -> None:
    """Run the agent that the worker at the other end of a socket names, and tell it how that ended."""
    channel = Channel(end)
    order = channel.receive()
    if order is None:
        return
    ended = _Execution(channel, order).run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    channel.send(ended)


class _Execution:
    """One agent run in this process."""

    def __init__(self, channel: Channel, order: Mapping[str, Any]) -> None:
        self._order = order
        self._claim = Claim(**order["claim"])
        self._account = Account(model=order["model"], system=order["system"])
        self._motion = Motion(self._account)
        self._interrupt: Callable[[], None] = lambda: None
        #: Whether it was told to stop at once, perhaps before there was anything to interrupt.
        self._at_once = False
        self._link = Link(channel, self._stop)
        self._host = RemoteHost(self._link)
        self._journal = RemoteJournal(self._link)

    def run(self) -> dict[str, Any]:
        """Give how it ended, as JSON values."""
        logging.basicConfig(
            handlers=[RemoteLog(self._link)], format="%(message)s", level=self._order["log_level"], force=True
        )
        try:
            _limit_memory(self._order["memory_mb"])
            ended: dict[str, Any] = {"output": self._execute()}
        except Suspended as suspended:
            ended = {"suspended": self._let_go(suspended)}
        except MemoryError:
            ended = {"error": self._out_of_memory().to_data()}
        except BaseException as error:  # noqa: BLE001 - whatever an agent raises is its outcome, an exit too
            ended = {"error": described(error).to_data()}
        if isinstance(self._account.stopped, ClaimLost):
            # What was paid for is recorded first. Where nobody wants that any more, the worker ends this process.
            self._motion.wait_until_idle(None)
        usage = self._account.usage.model_dump(mode="json")
        return {"ended": ended, "usage": usage, "answered_by": self._account.answered_by}

    def _execute(self) -> str:
        if self._order["adapters_file"] is not None:
            use_adapters_file(Path(self._order["adapters_file"]))
        loaded = self._loaded()
        self._account.limits = loaded.agent_class.limits
        data = loaded.parse_input(self._order["data"])
        make = partial(self._recorder, loaded)
        result = run_recorded(make, partial(self._call, loaded, data), on_change=loaded.agent_class.on_change)
        what = f"the output of agent {self._claim.agent!r}"
        return dump(loaded.dump_output(result), what=what, limit_bytes=self._order["limit_bytes"], error=OutputInvalid)

    def _loaded(self) -> LoadedAgent:
        order = self._order
        loader = AgentLoader(order["agents_path"], base=Path(order["base"]))
        if order["node"] is not None:
            card, task = AgentCard.model_validate(order["card"]), TaskDefinition.model_validate(order["node"])
            descriptions: dict[str, str] = order["descriptions"]
            return bound(
                card, task, loader.registry, lambda agent: descriptions.get(agent, ""), limit_bytes=order["limit_bytes"]
            )
        try:
            return loader.load_from(order["card"]["origin"], self._claim.agent)
        except UnknownAgent as error:
            # The worker has it, so its files are being replaced, perhaps.
            raise AgentFailed(f"not loaded in a process of its own: {error.message}", retryable=True) from None

    def _recorder(self, loaded: LoadedAgent) -> Recorder:
        self._account.begin_again()
        self._motion = Motion(self._account)
        writer = Writer(
            self._claim,
            self._journal,
            self._motion,
            redactor(os.environ),
            digest=loaded.card.digest,
            plugin=loaded.agent_class.__module__,
            limit_bytes=self._order["limit_bytes"],
        )
        recording = self._motion.patiently(lambda: self._journal.read(self._claim))
        parking = Parking(
            self._motion,
            RemoteEvents(self._link),
            self._order["moment_seconds"],
            RemoteMail(self._link, loaded.agent_class.RECEIVES),
        )
        self._link.on_poke = parking.poke
        return Recorder(writer, recording, self._host, parking, RemoteCallees(self._link))

    def _call(self, loaded: LoadedAgent, data: Any, recorder: Recorder) -> Any:
        given = Given.to(self._claim)
        context = given.context(self._claim, recorder, self._account, loaded)
        execute = loaded.agent_class().execute
        if not loaded.is_async:
            return in_scope(recorder.scopes.root, execute, data, context)
        return asyncio.run(self._awaited(in_scope_async(recorder.scopes.root, execute, data, context)))

    async def _awaited(self, coroutine: Any) -> Any:
        """Await an agent; what interrupts it is told as its cause."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        host_agents(loop)
        self._interrupt = lambda: loop.call_soon_threadsafe(task.cancel) and None
        if self._at_once:
            self._interrupt()
        # It may swallow what unwinds it, or await a task that has.
        self._motion.unwind = lambda: loop.call_soon_threadsafe(loop.call_later, _UNWIND_SECONDS, task.cancel) and None
        try:
            return await coroutine
        except asyncio.CancelledError:
            if self._account.stopped is not None:
                raise self._account.stopped from None
            raise AgentError("the agent has cancelled itself") from None
        finally:
            self._interrupt = lambda: None

    def _stop(self, error: NightfleetError, at_once: bool) -> None:  # noqa: FBT001 - what the pipe says
        """Stop at the next effect, `at_once` an async agent at its await."""
        self._account.stopped = error if isinstance(error, AgentError | ClaimLost) else ClaimLost(error.message)
        if at_once:
            self._at_once = True
            self._interrupt()

    def _let_go(self, suspended: Suspended) -> dict[str, Any]:
        """Give what it waits for, when all that was under way has been recorded."""
        self._motion.wait_until_idle(None)
        left = None if suspended.until is None else suspended.until - system_clock.monotonic()
        interests = [interest.to_data() for interest in suspended.interests]
        return {
            "waiting_for": suspended.waiting_for,
            "left_seconds": left,
            "heard": suspended.heard,
            "interests": interests,
        }

    def _out_of_memory(self) -> AgentError:
        limit = self._order["memory_mb"]
        if limit is None:
            return AgentOutOfMemory("there was no memory left on its machine")
        return AgentOutOfMemory(f"it wanted more than its {limit} MB: raise Limits(memory_mb=...), or use less")


def _limit_memory(megabytes: int | None) -> None:
    """Bound what this process may allocate, where the system can."""
    if megabytes is None or sys.platform != "linux":
        return
    import resource

    # A thread's stack counts in full, and 8 MB of each would be most of the limit.
    threading.stack_size(_MEGABYTE)
    most = megabytes * _MEGABYTE
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
