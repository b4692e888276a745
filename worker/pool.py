"""The pool: threads that run Celery's own tracer, one event loop for async agents, and limits that hold.

The stock threads pool ignores time limits and revocation in silence. Here a job that has passed its hard limit is given
up: Celery is told, its slot is free again, and what its thread does later reaches nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from celery.concurrency.base import BasePool, apply_target

from orchestrator.clock import system_clock
from orchestrator.observability.logging import get_logger
from worker.scopes import task_factory

T = TypeVar("T")

log = get_logger("nightfleet.worker")

_current = threading.local()

_SLOT, _BLOCKING = "nightfleet-slot", "nightfleet-blocking"
#: How the names of threads begin that execute what agents do.
AGENT_THREADS = (_SLOT, _BLOCKING)
#: The share of the slots, and the number in any case, whose threads may be stuck before the process is replaced.
_STUCK_SHARE = 0.1
_STUCK_AT_LEAST = 1


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
        #: What waits for a thread; None tells one of them to end.
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._waiting = 0
        self._threads = 0
        self._running: set[Job] = set()
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
            self._waiting = 0
            threads = self._threads
        for _ in range(threads):
            self._queue.put(None)

    def on_terminate(self) -> None:
        self.on_stop()

    def wait_until_done(self, timeout_seconds: float) -> bool:
        """Wait for running jobs; false when some still run."""
        with self._lock:
            return self._ended.wait_for(lambda: not self._running, timeout_seconds)

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
            if job not in self._running:
                return True  # it has ended, or never begins
            self._running.remove(job)
            self._threads -= 1
            self._left_behind[job] = False
            if self._waiting:
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
        while (job := self._queue.get()) is not None:
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
            _current.give_up = partial(self.give_up, job)
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
        with self._lock:
            self._threads -= 1
            if self._waiting and self._threads < self.slots:
                # It was told to end when there were fewer slots.
                self._start_thread()

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = dict(super()._get_info())
        with self._lock:
            info.update({"max-concurrency": self.slots, "threads": self._threads, "running": len(self._running)})
            info["stuck"] = sum(self._left_behind.values())
        return info

    @property
    def num_processes(self) -> int:
        return self.slots


def give_up_current_job() -> Callable[[float | None], None]:
    """Give the function that gives up the job of this thread; outside a pool it does nothing."""
    return getattr(_current, "give_up", lambda _: None)


@dataclass(slots=True)
class _Deadline:
    """What happens at a time; nothing any more, once it has been called or cancelled."""

    action: Callable[[], None] | None


class Deadlines:
    """Calls functions at their time, from one thread that is started when it is first needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, _Deadline]] = []
        #: How many in the heap are cancelled: they go when they are half of it.
        self._cancelled = 0
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` in that many seconds, unless the function that this gives is called before."""
        deadline = _Deadline(action)
        with self._changed:
            # The number decides between equal times.
            heapq.heappush(self._heap, (system_clock.monotonic() + seconds, next(self._numbers), deadline))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="nightfleet-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

        def cancel() -> None:
            with self._changed:
                if deadline.action is None:
                    return
                # It holds on to an execution, with all its input.
                deadline.action = None
                self._cancelled += 1
                if 2 * self._cancelled > len(self._heap):
                    self._heap = [entry for entry in self._heap if entry[2].action is not None]
                    heapq.heapify(self._heap)
                    self._cancelled = 0

        return cancel

    def _run(self) -> None:
        while True:
            # One slow action must not delay the next deadline.
            threading.Thread(target=self._next(), name="nightfleet-deadline", daemon=True).start()

    def _next(self) -> Callable[[], None]:
        """Wait for the next deadline that is not cancelled; gives its action."""
        with self._changed:
            while True:
                if not self._heap:
                    self._changed.wait()
                    continue
                at, _, deadline = self._heap[0]
                left = at - system_clock.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._heap)
                action, deadline.action = deadline.action, None
                if action is not None:
                    return action
                self._cancelled -= 1


class EventLoop:
    """One event loop in a thread of its own, started when the first async agent runs, so always after a fork."""

    def __init__(self, blocking_threads: int = 64) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._blocking_threads = blocking_threads
        self._executor: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running())

    async def run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Run a blocking function in a thread, from the loop."""
        import contextvars

        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: context.run(function, *args))

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
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_task_factory(task_factory)
                self._executor = ThreadPoolExecutor(self._blocking_threads, thread_name_prefix=_BLOCKING)
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="nightfleet-loop", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
