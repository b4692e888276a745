"""The producer's surface: `Orchestrator` and the handle of a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from orchestrator.clock import system_clock
from orchestrator.errors import RunCancelled, RunFailed, SettingsInvalid

if TYPE_CHECKING:
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.run import RunResult, RunState, RunSummary
    from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
    from orchestrator.service import Service
    from orchestrator.settings import Settings

    Workflow = str | WorkflowDefinition | TaskDefinition

#: How many runs `submit_many` creates in one transaction.
_CHUNK = 500
_FIRST_POLL_SECONDS = 0.002
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
        self._lock = threading.RLock()
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
        self, workflow: Workflow, input: Any = None, *, project: str = "default", idempotency_key: str | None = None
    ) -> RunHandle:
        """Store a run, whole or not at all, and publish its first tasks.

        `workflow` is a definition, an expression (`"reader | summarizer"`) or the path of a file. With the same
        idempotency key a second submit gives the first run; with another input it raises `IdempotencyConflict`. Raises
        `WorkflowInvalid` (every problem at once), `UnknownAgent`, `InputInvalid`, `ValueTooLarge`, and
        `ServiceUnavailable`, before anything is stored.
        """
        given = {} if input is None else input
        ids = self._ready().submit(workflow, [given], project=project, keys=[idempotency_key])
        return RunHandle(self, ids[0])

    def submit_many(self, workflow: Workflow, inputs: Iterable[Any], *, project: str = "default") -> list[RunHandle]:
        """Store a run for each input, hundreds in one transaction, and publish them; gives handles in the same order."""
        from orchestrator.service import submitted

        service = self._ready()
        handles: list[RunHandle] = []
        for chunk in submitted(inputs, _CHUNK):
            ids = service.submit(workflow, chunk, project=project, keys=[None] * len(chunk))
            handles.extend(RunHandle(self, identity) for identity in ids)
        return handles

    def run(self, run_id: str) -> RunHandle:
        """Give the handle of a run, anywhere; using it raises `RunNotFound` when there is none."""
        return RunHandle(self, run_id)

    def runs(self, *, project: str | None = None, state: RunState | None = None, limit: int = 50) -> list[RunSummary]:
        """Give the newest runs first."""
        return self._ready().list(project=project, state=state, limit=limit)

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
        kernel = Kernel.build(settings)
        if settings.embedded:
            schema.upgrade(kernel.store.database)
            self._worker = _start_worker(kernel)
        else:
            schema.check(kernel.store.database)
        return Service(kernel)


class RunHandle:
    """One run, by its id: cheap to make, usable from any process."""

    def __init__(self, orchestrator: Orchestrator, run_id: str) -> None:
        self._orchestrator = orchestrator
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
        service = self._orchestrator.service
        for _ in _polls(timeout, f"run {self.id} has not ended"):
            if service.state(self.id).final:
                break
        return service.snapshot(self.id)

    def result(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the output; raises `RunFailed` with the reason, `RunCancelled`, or `TimeoutError`."""
        done = self.wait(timeout)
        if done.state == "failed":
            error = done.error
            where = f"task {error.task!r}: " if error and error.task else ""
            raise RunFailed(
                f"run {self.id} failed: {where}{error.message if error else 'no reason was recorded'}",
                details={} if error is None else error.model_dump(),
            )
        if done.state == "cancelled":
            raise RunCancelled(f"run {self.id} was cancelled")
        return done.output

    def events(self, after: str | None = None) -> Iterator[RunEvent]:
        """Give what happens in the run until it is final, from its beginning or from behind the cursor `after`."""
        service = self._orchestrator.service
        cursor = after
        for _ in _polls(None, ""):
            final = service.state(self.id).final
            for event in service.events(self.id, cursor):
                cursor = event.cursor
                yield event
            if final:
                return

    def cancel(self) -> bool:
        """Cancel the run: final at once. False when it had ended already."""
        return self._orchestrator.service.cancel(self.id)

    def retry(self) -> None:
        """Open a failed or cancelled run again: what succeeded is kept, the rest runs anew."""
        self._orchestrator.service.retry(self.id)


def _polls(timeout: float | timedelta | None, message: str) -> Iterator[None]:
    """Yield now and then, ever more rarely, until the time is up; raises `TimeoutError` then."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    deadline = None if seconds is None else system_clock.monotonic() + seconds
    pause = _FIRST_POLL_SECONDS
    waiting = threading.Event()
    while True:
        yield
        left = None if deadline is None else deadline - system_clock.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError(f"{message} within {seconds:g} s; it goes on, and can be waited for again")
        waiting.wait(pause if left is None else min(pause, left))
        pause = min(_LAST_POLL_SECONDS, pause * 1.3)


def _start_worker(kernel: Any) -> EmbeddedWorker:
    # By name: the control plane never imports the data plane.
    from orchestrator.imports import require_ours

    require_ours("worker")
    return require_ours("worker.embedded").start(kernel)
