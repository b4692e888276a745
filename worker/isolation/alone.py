"""Runs agents in processes of their own: those that ask for it, and suspects, which ran on a worker that died.

The child runs the author's code and nothing else. What it asks of the outside is done here, by who holds connections and
keys. Whatever becomes of its process, the worker and all its other agents live on, and it is known who was to blame.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.clock import system_clock
from orchestrator.contracts.composite import COMPOSITES, STEP
from orchestrator.contracts.interest import Interest, InterestKind
from orchestrator.contracts.policy import Timeouts
from orchestrator.contracts.usage import Usage
from orchestrator.errors import AgentTimeout, ClaimLost, NightfleetError, ValueTooLarge, from_exception
from orchestrator.planning.subwork import names_called
from orchestrator.settings import Settings
from orchestrator.store.store import Store
from worker.deadlines import Deadlines
from worker.effects.base import Account
from worker.effects.callees import Callees
from worker.effects.scopes import Suspended
from worker.execution import Execution
from worker.host import Host
from worker.isolation.channel import ChannelClosed
from worker.isolation.processes import Child, ForkServer
from worker.isolation.serving import Serving
from worker.nodes.builtin import is_built_in
from worker.plugin import LoadedAgent
from worker.pool import AGENT_THREADS, slot_lent
from worker.post import Post
from worker.timelimits import timeouts_of

#: How many suspects run at a time; others wait, and lend their slots. A child takes a few megabytes, and what its plugin imports.
SUSPECTS_AT_ONCE = 16
#: How long an agent whose outcome nobody wants may take to notice, at its next effect, before its process is killed.
GRACE_SECONDS = 5.0
#: How long a process may take to end after it has let go of its pipe, and its end to be told: on a busy machine who tells it
#: may be late, and an agent is not to be charged with a death that was not its own.
_LAST_SECONDS = 10.0
#: What all children together may have under way at a time: model calls, which take long, and what takes none.
_CALLS, _ASKS = 256, 64


class DiedAlone(Exception):
    """The process of an agent has ended without an outcome, and nothing else was in it."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """The children of one worker process; thread-safe."""

    settings: Settings
    store: Store
    #: Gives what performs effects for an execution.
    host: Callable[[Execution], Host]
    #: Gives who calls agents for an execution.
    callees: Callable[[Execution], Callees]
    #: Gives what an agent says of itself.
    describe: Callable[[str], str]
    deadlines: Deadlines
    post: Post
    #: The folder that plugins were looked for in, whatever an agent makes of the working directory.
    base: Path = field(default_factory=Path.cwd)
    _threads: Threads = field(default_factory=lambda: Threads(_CALLS, _ASKS))
    _server: ForkServer = field(default_factory=ForkServer)
    _suspects: Turns = field(default_factory=lambda: Turns(SUSPECTS_AT_ONCE))

    @staticmethod
    def wants(execution: Execution, loaded: LoadedAgent) -> bool:
        """Tell whether an agent run gets a process of its own. A Celery task does: that of its own app's worker."""
        alone = execution.claim.suspect or loaded.agent_class.isolation == "process"
        return alone and not (is_built_in(loaded) and execution.task.celery is not None)

    def execute(self, execution: Execution, loaded: LoadedAgent, data: Any) -> str:
        """Run an agent on its input in a child; gives its output as JSON text, or raises its error.

        Raises `AgentTimeout` at the hard limit, `ClaimLost` for one that was stopped, `Suspended`, `DiedAlone` for one whose
        process ended otherwise, and `ForkServerLost` when nobody knows why.
        """
        timeouts = timeouts_of(execution.task, loaded.agent_class.timeouts)
        poke = _Poke()
        mail = self.post.mailbox(execution, poke)
        events = self.store.waits
        serving = Serving(
            execution.claim, self.host(execution), self.store.journal, events, mail, self.callees(execution)
        )
        with self._suspects.taken(execution) if execution.claim.suspect else nullcontext():
            child = self._server.fork()
            try:
                session = _Session(child, execution, serving, self._threads, self.deadlines)
                poke.told = session.poke
                end = session.run(self._order(execution, loaded, data), timeouts)
            finally:
                execution.interrupt = execution.tell_stopped = None
                child.close()
                serving.close()
        return _output(execution.account, end)

    def close(self) -> None:
        """End every child."""
        self._server.close()
        self._threads.close()

    def _order(self, execution: Execution, loaded: LoadedAgent, data: Any) -> dict[str, Any]:
        return {
            "claim": asdict(execution.claim),
            "data": data,
            **self._node(execution, loaded),
            "card": loaded.card.model_dump(mode="json"),
            "agents_path": self.settings.agents_path,
            "base": str(self.base),
            "adapters_file": self._adapters_file(),
            "model": execution.account.model,
            "system": execution.account.system,
            "moment_seconds": self.settings.suspend_after.total_seconds(),
            "limit_bytes": self.settings.max_value_bytes,
            "memory_mb": loaded.agent_class.limits.memory_mb,
            "log_level": logging.getLogger().getEffectiveLevel(),
        }

    def _node(self, execution: Execution, loaded: LoadedAgent) -> dict[str, Any]:
        """Give what a built-in agent stands for, and what it has to know of the agents inside."""
        if not is_built_in(loaded):
            return {"node": None, "descriptions": {}}
        # What was called for has an id that no task of a workflow has.
        task = execution.task.model_copy(update={"id": STEP})
        names = names_called(task) if task.agent in COMPOSITES else ()
        return {"node": task.model_dump(mode="json"), "descriptions": {name: self.describe(name) for name in names}}

    def _adapters_file(self) -> str | None:
        path = self.settings.adapters_file
        return None if path is None else str(self.base / path)


class _Poke:
    """Tells a child that something has come, once there is one."""

    def __init__(self) -> None:
        self.told: Callable[[InterestKind | None], None] = lambda _: None

    def poke(self, kind: InterestKind | None = None) -> None:
        self.told(kind)


class Threads:
    """Who serves the children: what they record does not wait behind what models are asked."""

    def __init__(self, calls: int, asks: int) -> None:
        self._calls = ThreadPoolExecutor(calls, AGENT_THREADS[-1])
        self._asks = ThreadPoolExecutor(asks, AGENT_THREADS[-1])

    def of(self, message: Mapping[str, Any]) -> ThreadPoolExecutor:
        return self._calls if message["ask"] == "model" else self._asks

    def close(self) -> None:
        for pool in (self._calls, self._asks):
            pool.shutdown(wait=False, cancel_futures=True)


class _Session:
    """One execution in one child; `run` belongs to the slot's thread."""

    def __init__(
        self, child: Child, execution: Execution, answers: Serving, threads: Threads, deadlines: Deadlines
    ) -> None:
        self._child = child
        self._execution = execution
        self._answers = answers
        self._threads = threads
        self._deadlines = deadlines
        self._killed_for: AgentTimeout | None = None
        self._lock = threading.Lock()
        #: How many asks have no answer yet, and when the last one came.
        self._open_asks = 0
        self._asked_at = 0.0

    def run(self, order: Mapping[str, Any], timeouts: Timeouts) -> dict[str, Any]:
        self._execution.interrupt = self._interrupt
        self._execution.tell_stopped = partial(self._tell_stopped, at_once=False)
        self._execution.account.check()  # stopped before it could be told
        limits = ((timeouts.soft, self._soft_limit), (timeouts.hard, self._hard_limit))
        cancels = [
            self._deadlines.after(limit.total_seconds(), partial(action, limit.total_seconds()))
            for limit, action in limits
            if limit is not None
        ]
        try:
            ended = self._listen(order)
        finally:
            for cancel in cancels:
                cancel()
        return self._without_outcome() if ended is None else ended

    def _listen(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Serve the child until it says how it has ended; None if it never does."""
        channel = self._child.channel
        with suppress(ChannelClosed):
            channel.send(order)
        while (message := channel.receive()) is not None:
            if "ask" in message:
                self._note_ask(1)
                # In a thread: an agent may ask for many things at once, and this one is to hear of its end.
                self._threads.of(message).submit(copy_context().run, self._serve, message)
            elif "tell" in message:
                self._answers.told(message)
            else:
                return message
        return None

    def _serve(self, message: Mapping[str, Any]) -> None:
        reply: dict[str, Any] = {"answer": message["number"]}
        try:
            reply["value"] = self._answers.answer(message)
        except Exception as error:  # noqa: BLE001 - raised again in the child
            reply["error"] = from_exception(error).to_data()
        self._note_ask(-1)
        try:
            self._send(reply)
        except ValueTooLarge as error:
            self._send({"answer": message["number"], "error": error.to_data()})

    def poke(self, kind: InterestKind | None) -> None:
        """Tell the child to look for what it waits for; holds up nobody."""
        self._deadlines.after(0.0, lambda: self._send({"poke": kind}))

    def _note_ask(self, change: int) -> None:
        with self._lock:
            self._open_asks += change
            self._asked_at = system_clock.monotonic()

    def _send(self, message: Mapping[str, Any]) -> None:
        with suppress(ChannelClosed):
            self._child.channel.send(message)

    def _without_outcome(self) -> dict[str, Any]:
        if self._killed_for is not None:
            raise self._killed_for
        stopped = self._execution.account.stopped
        if isinstance(stopped, ClaimLost):
            raise stopped
        code = self._child.wait(_LAST_SECONDS)
        if code is None:
            raise DiedAlone("it closed what connects it to its worker")
        raise DiedAlone(_explained(code))

    # Stopping ---------------------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """Tell the child that it is to stop; called by whoever finds that out, and holds up nobody."""
        self._tell_stopped(at_once=True)
        if isinstance(self._execution.account.stopped, ClaimLost):
            self._deadlines.after(GRACE_SECONDS, self._kill_what_goes_on)

    def _tell_stopped(self, *, at_once: bool) -> None:
        """Tell the child that it is to stop at its next effect, or at once what awaits something."""
        error = self._execution.account.stopped
        if error is not None:
            self._deadlines.after(0.0, lambda: self._send({"stop": error.to_data(), "at_once": at_once}))

    def _kill_what_goes_on(self) -> None:
        """Kill an agent that has not noticed that it was stopped, but not while what it was at is still to be recorded.

        A child that has been told makes no new effects: what it asks for belongs to one that was under way.
        """
        with self._lock:
            busy = self._open_asks > 0 or system_clock.monotonic() - self._asked_at < GRACE_SECONDS
        if busy and not self._execution.motion.given_up:
            self._deadlines.after(GRACE_SECONDS, self._kill_what_goes_on)
        else:
            self._child.kill()

    def _soft_limit(self, seconds: float) -> None:
        account = self._execution.account
        if account.stopped is None:
            account.stopped = AgentTimeout(f"the soft time limit of {seconds:g} s has passed")
            self._interrupt()

    def _hard_limit(self, seconds: float) -> None:
        self._killed_for = AgentTimeout(f"the hard time limit of {seconds:g} s has passed")
        self._child.kill()


def _output(account: Account, end: Mapping[str, Any]) -> str:
    """Give the output that a child has told, or raise what else has ended its agent."""
    match end:
        case {"ended": ended, "usage": usage, "answered_by": answered_by}:
            account.usage, account.answered_by = Usage.model_validate(usage), answered_by
        case _:
            ended = None
    match ended:
        case {"output": str(output)}:
            return output
        case {"error": error}:
            raise NightfleetError.from_data(error)
        case {"suspended": {"waiting_for": waiting_for, "left_seconds": left, "heard": heard, "interests": interests}}:
            until = None if left is None else system_clock.monotonic() + left
            raise Suspended(waiting_for, until, heard=heard, interests=[Interest.from_data(each) for each in interests])
        case _:
            raise DiedAlone("what it said to its worker cannot be understood")


def _explained(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = ": out of memory, perhaps" if -code == signal.SIGKILL else ""
    return f"it was killed by signal {-code} ({name}){hint}"


class Turns:
    """Lets so many in at a time; who is stopped meanwhile waits no longer."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, execution: Execution) -> Generator[None]:
        execution.interrupt = execution.tell_stopped = self._wake
        if not self._take(execution, 0.0):
            with slot_lent():
                self._take(execution, None)
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def _take(self, execution: Execution, timeout_seconds: float | None) -> bool:
        """Take a turn; false when there is none in time. Raises what the execution was stopped with."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or execution.account.stopped is not None, timeout_seconds)
            execution.account.check()
            taken = self._free > 0
            self._free -= taken
        return taken

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
