"""The pool: threads that run Celery's own tracer, one event loop for async agents, and limits that hold.

The stock threads pool ignores time limits and revocation in silence. Here a job that has passed its hard limit is given
up: Celery is told, its slot is free again, and what its thread does later reaches nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from celery.concurrency.base import BasePool, apply_target

from orchestrator.clock import system_clock
from orchestrator.observability.logging import get_logger
from worker.deadlines import Deadlines
from worker.effects.scopes import host_agents

T = TypeVar("T")

log = get_logger("nightfleet.worker")

_current = threading.local()

_SLOT, _BLOCKING = "nightfleet-slot", "nightfleet-blocking"
#: How the names of threads begin that execute what agents do.
AGENT_THREADS = (_SLOT, _BLOCKING)
#: The share of the slots, and the number in any case, whose threads may be stuck before the process is replaced.
_STUCK_SHARE = 0.1
_STUCK_AT_LEAST = 1
#: How long a loop may take to let go of its connections.
_LAST_SECONDS = 2.0


class Job:
    """One task of Celery's in the pool."""

    def __init__(self, target: Callable[..., Any], args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.given_up = False
        self.began = 0.0
        self.lock = threading.Lock()

    def run(self) -> None:
        apply_target(
            self.target,
            self.args,
            self.kwargs,
            callback=self._callback,
            accept_callback=self.options.get("accept_callback"),
        )

    def terminate(self, signal: Any = None) -> None:
        """A thread cannot be killed: who ends a job hands its agent run back (`AgentRequest.cancel`)."""

    def _callback(self, result: Any) -> None:
        with self.lock:
            if self.given_up:
                return
            callback = self.options.get("callback")
        if callback is not None:
            callback(result)


class TaskPool(BasePool):
    """Up to `limit` threads, started as they are needed."""

    body_can_be_buffer = True
    signal_safe = False
    # Celery keeps this one for the whole process: an embedded worker must not forbid its host to wait for results.
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: What waits for a thread; None has one of them look whether it is surplus.
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._waiting = 0
        self._threads = 0
        self._stopped = False
        self._running: set[Job] = set()
        #: The jobs that have lent their slot to others while they wait.
        self._lenders: set[Job] = set()
        self.slots = int(self.limit or 1)
        #: How many jobs have ended so far.
        self.finished = 0
        #: The jobs that were given up and whose threads go on, and whether for so long that these are stuck.
        self._left_behind: dict[Job, bool] = {}
        self._deadlines = Deadlines()
        #: How long a thread may take to notice that its job was given up.
        self.stuck_after_seconds = 5.0
        #: Called when so many threads are stuck that the process should be replaced.
        self.on_stuck: Callable[[], None] = lambda: None

    @property
    def stuck(self) -> int:
        """How many threads are stuck in jobs that were given up."""
        with self._lock:
            return sum(self._left_behind.values())

    @property
    def running(self) -> int:
        """How many jobs have a thread now."""
        with self._lock:
            return len(self._running)

    @property
    def full(self) -> bool:
        """Whether there is no free slot."""
        with self._lock:
            return len(self._running) + self._waiting >= self.slots

    @property
    def longest_running_seconds(self) -> float:
        """How long the oldest running job has been running, 0 when none is."""
        with self._lock:
            began = min((job.began for job in self._running), default=None)
        return 0.0 if began is None else system_clock.monotonic() - began

    def begun_before(self, moment: float) -> int:
        """Count the running jobs that had a thread at a moment of the monotonic clock."""
        with self._lock:
            return sum(job.began < moment for job in self._running)

    def lent(self, since: float = 0.0) -> int:
        """Count the jobs that have lent their slot, of those that began since a moment of the monotonic clock."""
        with self._lock:
            return sum(job.began >= since for job in self._lenders)

    @contextlib.contextmanager
    def _lending(self, job: Job) -> Generator[None]:
        """Lend the slot of a job for as long as the block lasts; after that there may be more jobs than slots for a while.

        At most as many wait without a slot as there are slots: each of them keeps its thread, and its message.
        """
        with self._lock:
            if job in self._running and len(self._lenders) < self.slots:
                self._running.remove(job)
                self._lenders.add(job)
                self._threads -= 1
                if self._waiting and self._threads < self.slots:
                    self._start_thread()
        try:
            yield
        finally:
            with self._lock:
                if job in self._lenders:
                    self._lenders.remove(job)
                    self._running.add(job)
                    self._threads += 1

    def on_apply(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        job = Job(target, args, kwargs, options)
        with self._lock:
            self._waiting += 1
            if len(self._running) + self._waiting > self._threads and self._threads < self.slots:
                self._start_thread()
        self._queue.put(job)
        return job

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; what runs goes on, and surplus threads end when they are free."""
        with self._lock:
            self.slots = slots
            for _ in range(self._threads - slots):
                self._queue.put(None)
            for _ in range(min(self._waiting, slots - self._threads)):
                self._start_thread()

    def on_stop(self) -> None:
        """Let running jobs end; those without a thread are left to the broker, which delivers them again."""
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
        with self._lock:
            self._stopped = True
            self._waiting = 0
            threads = self._threads
        for _ in range(threads):
            self._queue.put(None)

    def on_terminate(self) -> None:
        self.on_stop()

    def wait_until_done(self, timeout_seconds: float) -> bool:
        """Wait for running jobs; false when some still run."""
        with self._lock:
            return self._ended.wait_for(lambda: not (self._running or self._lenders), timeout_seconds)

    def give_up(self, job: Job, limit_seconds: float | None) -> None:
        """Tell Celery that a job is over, and replace its thread."""
        timed_out = job.options.get("timeout_callback")
        if self.abandon(job) and timed_out is not None:
            timed_out(False, limit_seconds)  # noqa: FBT003 - Celery's signature: soft, timeout

    def abandon(self, job: Job) -> bool:
        """Take a job for over, whatever its thread does, and replace the thread; false if that was done before."""
        with job.lock:
            if job.given_up:
                return False
            job.given_up = True
        with self._lock:
            if job in self._lenders:
                self._lenders.remove(job)
            elif job in self._running:
                self._running.remove(job)
                self._threads -= 1
            else:
                return True  # it has ended, or never begins
            self._left_behind[job] = False
            if self._waiting and self._threads < self.slots:
                self._start_thread()
            self._ended.notify_all()
        self._deadlines.after(self.stuck_after_seconds, partial(self._judge, job))
        return True

    def _judge(self, job: Job) -> None:
        """Take the thread of a job that was given up for stuck, if it has not ended since."""
        with self._lock:
            if job not in self._left_behind:
                return
            self._left_behind[job] = True
            too_many = sum(self._left_behind.values()) > max(_STUCK_AT_LEAST, _STUCK_SHARE * self.slots)
        if too_many:
            self.on_stuck()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Revocation reaches the agent run through the backend; a thread cannot be killed."""

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name=_SLOT, daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                with self._lock:
                    if self._is_surplus():
                        return
                continue
            if self.app is not None:
                # Without a current app the thread would fall back to Celery's default one, on localhost; and the job
                # before may have imported an app of the user's, which makes itself the current one.
                self.app.set_current()
            job.began = system_clock.monotonic()
            with self._lock:
                self._waiting = max(0, self._waiting - 1)
                if job.given_up:
                    continue
                self._running.add(job)
            _current.give_up, _current.lending = partial(self.give_up, job), partial(self._lending, job)
            try:
                job.run()
            except Exception:
                log.exception("a job broke out of Celery's tracer")
            with self._lock:
                if job not in self._running:  # given up: another thread has taken this one's place
                    self._left_behind.pop(job, None)
                    return
                self._running.remove(job)
                self.finished += 1
                self._ended.notify_all()
                if self._is_surplus():
                    return

    def _is_surplus(self) -> bool:
        """Tell whether this thread ends, and count it out; the lock is held."""
        if not self._stopped and self._threads <= self.slots:
            return False
        self._threads -= 1
        return True

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = dict(super()._get_info())
        with self._lock:
            info.update({"max-concurrency": self.slots, "threads": self._threads, "running": len(self._running)})
            info.update({"stuck": sum(self._left_behind.values()), "lent": len(self._lenders)})
        return info

    @property
    def num_processes(self) -> int:
        return self.slots


def give_up_current_job() -> Callable[[float | None], None]:
    """Give the function that gives up the job of this thread; outside a pool it does nothing."""
    return getattr(_current, "give_up", lambda _: None)


def slot_lent() -> contextlib.AbstractContextManager[None]:
    """Lend the slot of this thread's job to another one for as long as the block waits; outside a pool it does nothing."""
    return getattr(_current, "lending", contextlib.nullcontext)()


class EventLoop:
    """One event loop in a thread of its own, started when the first async agent runs, so always after a fork."""

    def __init__(self, blocking_threads: int = 64) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._blocking_threads = blocking_threads
        self._executor: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; it ends with the loop at the latest, cancelled."""
        with self._lock:  # what a loop is given behind its end is never begun, and would be waited for without end
            return asyncio.run_coroutine_threadsafe(coroutine, self._running())

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking function in a thread, from the loop."""
        import contextvars

        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: context.run(function, *args))

    def finish(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what a loop has to do before it is closed, if there is one; whatever goes wrong with that is let go."""
        with self._lock:
            if self._loop is None:
                return
        with contextlib.suppress(Exception):
            self.submit(last()).result(_LAST_SECONDS)

    def close(self) -> None:
        """Cancel what runs, close the loop and end its thread; the next use starts anew."""
        with self._lock:
            loop, thread, executor = self._loop, self._thread, self._executor
            self._loop = self._thread = self._executor = None
            if loop is None or thread is None:
                return
            loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _running(self) -> asyncio.AbstractEventLoop:
        """Give the loop, which runs from now on; the lock is held."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            host_agents(self._loop)
            self._executor = ThreadPoolExecutor(self._blocking_threads, thread_name_prefix=_BLOCKING)
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="nightfleet-loop", daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        while not _run(loop):
            log.warning("an agent on the event loop wants to end the process: it is a failure of its own")
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _run(loop: asyncio.AbstractEventLoop) -> bool:
    """Run a loop; false when it has not been stopped, but interrupted."""
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):
        # Raised in a task, which has it as its outcome too: asyncio ends the loop by it, with all other agents on it.
        return False
    return True
