"""The producer's surface: `Orchestrator` and the handle of a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from orchestrator.clock import system_clock
from orchestrator.errors import RunCancelled, RunFailed, SettingsInvalid

if TYPE_CHECKING:
    from orchestrator.contracts.batch import BatchOptions, BatchProgress, BatchResult
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.run import RunFilter, RunResult, RunState, RunSummary
    from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
    from orchestrator.service import Service
    from orchestrator.settings import Settings

    Workflow = str | WorkflowDefinition | TaskDefinition

#: How many runs `submit_many` creates in one transaction.
_CHUNK = 500
#: Between two looks at a run that is waited for; each pause is a little longer than the one before.
FIRST_POLL_SECONDS = 0.002
_LAST_POLL_SECONDS = 0.25


class EmbeddedWorker(Protocol):
    """What an embedded instance has running beside it."""

    def stop(self) -> None: ...


class Orchestrator:
    """Submits workflows and finds runs: thread-safe, fork-safe and lazy, so fit for a module-level variable.

    Nothing is read or connected before the first use; settings come from the environment unless they are given. A fleet
    must be configured: `Orchestrator.embedded()` asks by name for agents that run inside this process.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._embedded = False
        self._locks: dict[int, threading.RLock] = {}
        self._service: Service | None = None
        self._worker: EmbeddedWorker | None = None
        self._pid = os.getpid()

    @classmethod
    def embedded(
        cls, home: str | Path | None = None, *, agents_path: str | None = None, settings: Settings | None = None
    ) -> Self:
        """Give an orchestrator that runs its agents in threads of this process, with its state in SQLite under `home`."""
        made = cls(settings)
        made._embedded = True
        made._overrides = {
            key: value for key, value in (("home", home), ("agents_path", agents_path)) if value is not None
        }
        return made

    _overrides: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    def submit(
        self,
        workflow: Workflow,
        input: Any = None,
        *,
        project: str = "default",
        idempotency_key: str | None = None,
        connection: Any = None,
    ) -> RunHandle:
        """Store a run, whole or not at all, and publish its first tasks.

        `workflow` is a definition, an expression (`"reader | summarizer"`) or the path of a file. With the same
        idempotency key a second submit gives the first run; with another input it raises `IdempotencyConflict`. Raises
        `WorkflowInvalid` (every problem at once), `UnknownAgent`, `InputInvalid`, `ValueTooLarge`, and
        `ServiceUnavailable`, before anything is stored.

        With a `connection` (of psycopg 3, or SQLAlchemy's or Django's on it) the run is part of its open transaction: a
        rollback leaves no run, and what is committed is published, at the latest by the next sweep of a worker; sooner
        by `RunHandle.publish`. Raises `UsageError` for a connection that cannot be joined.
        """
        given = {} if input is None else input
        ids = self._ready().submit(workflow, [given], project=project, keys=[idempotency_key], connection=connection)
        return RunHandle(self, ids[0], joined=connection is not None)

    def submit_many(
        self, workflow: Workflow, inputs: Iterable[Any], *, project: str = "default", connection: Any = None
    ) -> list[RunHandle]:
        """Store a run for each input, hundreds in one transaction, and publish them; gives handles in the same order.

        With a `connection` all of them are part of its open transaction, as with `submit`.
        """
        from orchestrator.service import submitted

        service = self._ready()
        handles: list[RunHandle] = []
        for chunk in submitted(inputs, _CHUNK):
            ids = service.submit(workflow, chunk, project=project, keys=[None] * len(chunk), connection=connection)
            handles.extend(RunHandle(self, identity, joined=connection is not None) for identity in ids)
        return handles

    def publish(self, runs: Iterable[RunHandle]) -> None:
        """Publish what of these runs is committed and not published yet, without waiting for a sweep.

        For runs that were submitted with a `connection`, after its commit; harmless at any other time. A service that is
        away is no error: the sweep publishes then.
        """
        run_ids = [run.id for run in runs]
        if run_ids:
            self._ready().publish(run_ids)

    def batch(
        self,
        data: str | Path,
        workflow: Workflow,
        *,
        out: str | Path,
        project: str = "default",
        options: BatchOptions | None = None,
        on_progress: Callable[[BatchProgress], None] | None = None,
    ) -> BatchResult:
        """Run the workflow on each row of a JSONL or CSV file: exactly one result line for each row in the file `out`.

        Runs are created a window at a time. After a kill, an exception or an outage the same call goes on: no row that
        has a result is computed again. `on_progress` is called after every look at the open runs. Raises
        `UsageError` when `out` belongs to another batch or another process is at it, `ServiceUnavailable` when there is
        no service at the start (one that is lost later is waited for), and `ResultsUnwritable`. Rows that fail raise
        nothing: they are in the result.
        """
        from orchestrator.batch.job import Job, run_batch
        from orchestrator.contracts.batch import BatchOptions

        job = Job(Path(data), workflow, Path(out), project, options or BatchOptions())
        return run_batch(self._ready(), job, on_progress or (lambda _progress: None))

    def run(self, run_id: str) -> RunHandle:
        """Give the handle of a run, anywhere; using it raises `RunNotFound` when there is none."""
        return RunHandle(self, run_id)

    def runs(self, which: RunFilter | None = None, *, limit: int = 50, after: str | None = None) -> list[RunSummary]:
        """Give the newest runs that are meant (all without `which`), at most `limit`; `after` goes on behind that run's id."""
        return self._ready().list(which, limit=limit, after=after)

    def resume(self) -> list[RunHandle]:
        """Take up what an earlier embedded process left unfinished."""
        return [RunHandle(self, identity) for identity in self._ready().resume()]

    def close(self) -> None:
        """Stop embedded workers cleanly and close connections; the next use starts anew."""
        with self._lock:
            service, self._service = self._service, None
            worker, self._worker = self._worker, None
        if os.getpid() != self._pid:
            return
        if worker is not None:
            worker.stop()
        if service is not None:
            service.kernel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def service(self) -> Service:
        """The use cases behind this surface, for the command line."""
        return self._ready()

    @property
    def _lock(self) -> threading.RLock:
        """This process's lock: a thread of the parent may have held its at the fork, and will never let it go here."""
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def _ready(self) -> Service:
        with self._lock:
            if self._pid != os.getpid():
                self._forked()
            if self._service is None:
                self._service = self._start()
            return self._service

    def _forked(self) -> None:
        """Leave the parent its connections and threads; a worker of ours did not survive the fork and starts anew."""
        if self._service is not None:
            self._service.kernel.forked()
        self._service = self._worker = None
        self._pid = os.getpid()

    def _start(self) -> Service:
        from orchestrator.imports import require_ours
        from orchestrator.kernel import Kernel
        from orchestrator.service import Service
        from orchestrator.settings import Settings
        from orchestrator.store import schema

        settings = self._settings or Settings.load()
        if self._embedded:
            changes: dict[str, Any] = {
                "broker_url": None,
                "database_url": None,
                "home": settings.home,
                **self._overrides,
            }
            settings = settings.model_copy(update={**changes, "home": Path(changes["home"])})
        elif settings.embedded:
            raise SettingsInvalid(
                "no fleet is configured: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL, or ask for agents inside "
                "this process by name with Orchestrator.embedded()"
            )
        if settings.embedded:
            require_ours("worker")  # before anything is made
        kernel = Kernel.build(settings)
        if settings.embedded:
            schema.upgrade(kernel.store.database)
            self._worker = _start_worker(kernel)
        else:
            schema.check(kernel.store.database)
        return Service(kernel)


class RunHandle:
    """One run, by its id: cheap to make, usable from any process."""

    def __init__(self, orchestrator: Orchestrator, run_id: str, *, joined: bool = False) -> None:
        self._orchestrator = orchestrator
        self._joined = joined
        self.id = run_id

    def __repr__(self) -> str:
        return f"RunHandle({self.id!r})"

    def snapshot(self) -> RunResult:
        """Give the run as it is now."""
        return self._orchestrator.service.snapshot(self.id)

    @property
    def state(self) -> RunState:
        """The run's state now."""
        return self._orchestrator.service.state(self.id)

    def wait(self, timeout: float | timedelta | None = None) -> RunResult:
        """Wait until the run is final, failed and cancelled ones too; raises `TimeoutError`."""
        service = self._awaited()
        for _ in _polls(self.id, timeout):
            if service.state(self.id).final:
                break
        return service.snapshot(self.id)

    def result(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the output; raises `RunFailed` with the reason, `RunCancelled`, or `TimeoutError`."""
        return output_of(self.wait(timeout))

    def events(self, after: str | None = None) -> Iterator[RunEvent]:
        """Give what happens in the run until it is final, from its beginning or from behind the cursor `after`."""
        service = self._awaited()
        cursor = after
        for _ in _polls(self.id, None):
            news, final = service.news(self.id, cursor)
            for event in news:
                cursor = event.cursor
                yield event
            if final:
                return

    def publish(self) -> None:
        """Publish the run's first tasks now if nobody has; see `Orchestrator.publish`."""
        self._orchestrator.publish([self])

    def _awaited(self) -> Service:
        """Give the use cases for what waits for the run: one of a caller's transaction is published first."""
        service = self._orchestrator.service
        if self._joined:
            service.publish_committed(self.id)
            self._joined = False
        return service

    def cancel(self) -> bool:
        """Cancel the run: final at once. False when it had ended already."""
        return self._orchestrator.service.cancel(self.id)

    def retry(self) -> None:
        """Open a failed or cancelled run again: what succeeded is kept, the rest runs anew."""
        self._orchestrator.service.retry(self.id)


def output_of(done: RunResult) -> Any:
    """Give the output of a run that has ended; raises `RunFailed` with the reason, or `RunCancelled`."""
    if done.state == "failed":
        error = done.error
        where = f"task {error.task!r}: " if error and error.task else ""
        raise RunFailed(
            f"run {done.id} failed: {where}{error.message if error else 'no reason was recorded'}",
            details={} if error is None else error.model_dump(),
        )
    if done.state == "cancelled":
        raise RunCancelled(f"run {done.id} was cancelled")
    return done.output


def seconds_of(timeout: float | timedelta | None) -> float | None:
    """Give a timeout in seconds."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def longer(pause: float) -> float:
    """Give the pause after this one, between two looks at what is waited for."""
    return min(_LAST_POLL_SECONDS, pause * 1.3)


def too_late(run_id: str, seconds: float) -> TimeoutError:
    """Make the error for a run that has not ended in time."""
    return TimeoutError(f"run {run_id} has not ended within {seconds:g} s; it goes on, and can be waited for again")


def _polls(run_id: str, timeout: float | timedelta | None) -> Iterator[None]:
    """Yield now and then, ever more rarely, until the time is up; raises `TimeoutError` then."""
    seconds = seconds_of(timeout)
    deadline = None if seconds is None else system_clock.monotonic() + seconds
    pause = FIRST_POLL_SECONDS
    waiting = threading.Event()
    while True:
        yield
        left = None if deadline is None else deadline - system_clock.monotonic()
        if seconds is not None and left is not None and left <= 0:
            raise too_late(run_id, seconds)
        waiting.wait(pause if left is None else min(pause, left))
        pause = longer(pause)


def _start_worker(kernel: Any) -> EmbeddedWorker:
    # By name: the control plane never imports the data plane.
    from orchestrator.imports import require_ours

    return require_ours("worker.embedded").start(kernel)
