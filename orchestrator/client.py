"""The producer's surface: `Orchestrator` and the handle of a run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from orchestrator.errors import SettingsInvalid
from orchestrator.polling import deadline_of, output_of, polls

if TYPE_CHECKING:
    from orchestrator.contracts.batch import BatchOptions, BatchProgress, BatchResult
    from orchestrator.contracts.dead import DeadAgentRun
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.policy import Retention
    from orchestrator.contracts.project import ProjectSummary
    from orchestrator.contracts.question import Answered, Question
    from orchestrator.contracts.run import RunFilter, RunResult, RunState, RunSummary
    from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
    from orchestrator.service import Service
    from orchestrator.settings import Settings

    Workflow = str | WorkflowDefinition | TaskDefinition

#: How many runs `submit_many` creates in one transaction.
_CHUNK = 500


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
        deadline: float | timedelta | None = None,
        connection: Any = None,
    ) -> RunHandle:
        """Store a run, whole or not at all, and publish its first tasks.

        `workflow` is a definition, an expression (`"reader | summarizer"`) or the path of a file. With the same
        idempotency key a second submit gives the first run; with another input it raises `IdempotencyConflict`. If the run
        has not ended `deadline` seconds from now it fails, whatever its workflow says. Raises
        `WorkflowInvalid` (every problem at once), `UnknownAgent`, `InputInvalid`, `ValueTooLarge`, and
        `ServiceUnavailable`, before anything is stored.

        With a `connection` (of psycopg 3, or SQLAlchemy's or Django's on it) the run is part of its open transaction: a
        rollback leaves no run, and what is committed is published, at the latest by the next sweep of a worker; sooner
        by `RunHandle.publish`. Raises `UsageError` for a connection that cannot be joined.
        """
        ids = self._ready().submit(
            workflow,
            [{} if input is None else input],
            project=project,
            keys=[idempotency_key],
            deadline=deadline_of(deadline),
            connection=connection,
        )
        return RunHandle(self, ids[0], joined=connection is not None)

    def submit_many(
        self,
        workflow: Workflow,
        inputs: Iterable[Any],
        *,
        project: str = "default",
        deadline: float | timedelta | None = None,
        connection: Any = None,
    ) -> list[RunHandle]:
        """Store a run for each input, hundreds in one transaction, and publish them; gives handles in the same order.

        With a `connection` all of them are part of its open transaction, as with `submit`.
        """
        from orchestrator.service import submitted

        submit = partial(self._ready().submit, workflow, project=project, deadline=deadline_of(deadline))
        handles: list[RunHandle] = []
        for chunk in submitted(inputs, _CHUNK):
            ids = submit(chunk, keys=[None] * len(chunk), connection=connection)
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

    def questions(self, run_id: str | None = None, *, project: str | None = None, limit: int = 1000) -> list[Question]:
        """Give the questions of agents that an answer is awaited for, oldest first: of all runs, or of one."""
        return self._ready().questions.open(run_id, project=project, limit=limit)

    def answer(self, question: str, value: Any, *, by: str | None = None, digest: str | None = None) -> Answered:
        """Answer a question, once and for all, by its id or that of a run that asks just one; the agent goes on.

        `value` is one of the question's choices, text, or JSON of its schema; `by` says who answers. Whoever decides on
        what a person has seen passes its `digest` on. Raises `QuestionNotFound`, and `AnswerRefused` for a value that the
        question does not take, one that is answered or expired, whose run has ended, or that has another digest.
        """
        return self._ready().questions.answer(question, value, by=by, digest=digest)

    def fork(
        self,
        run: RunHandle | str,
        *,
        from_task: str,
        input: dict[str, Any] | None = None,
        deadline: float | timedelta | None = None,
    ) -> RunHandle:
        """Store and publish a run that shares the recorded past of one that has ended, and runs anew from a task on.

        That task and all after it run again, on the workflow's definition of then; the others keep how they ended, and no
        effect of theirs happens again. `input` is what the task gets, written as in a workflow, with `${...}`; `deadline` is
        the new run's. Raises `RunNotFound`, `RunStateConflict` for an open run, and `UsageError` for a task that is none.
        """
        from orchestrator.forking import fork_run

        run_id, until = run if isinstance(run, str) else run.id, deadline_of(deadline)
        return RunHandle(self, fork_run(self._ready(), run_id, from_task=from_task, input=input, deadline=until))

    def dead(
        self, which: RunFilter | None = None, *, quarantined: bool = False, limit: int = 50, after: str | None = None
    ) -> list[DeadAgentRun]:
        """Give the agent runs that failed for good, of at most `limit` failed runs, newest first.

        `quarantined`: only those whose process ended each time that they ran alone. `after` goes on behind that run's id.
        """
        from orchestrator.dead import DeadLetters

        return DeadLetters(self._ready().kernel).list(which, quarantined=quarantined, limit=limit, after=after)

    def redrive(self, agent_run: str, *, input: Any = ...) -> RunHandle:
        """Put a dead agent run, by its id or its run's, on its way again, and all that failed with it in its run.

        What is recorded of it is not repeated. With an `input` its agent gets that, and begins anew. Raises `RunNotFound`,
        and `RunStateConflict` for one that has not failed.
        """
        from orchestrator.dead import DeadLetters

        return RunHandle(self, DeadLetters(self._ready().kernel).redrive(agent_run, input))

    def purge(self, which: RunFilter) -> int:
        """Delete the runs that are meant and have ended, with all that is theirs, for good; gives how many they were.

        An idempotency key of theirs can be used again, as if for the first time.
        """
        from orchestrator.purging import purge

        return sum(purge(self._ready(), which))

    def projects(self) -> list[ProjectSummary]:
        """Give every project, by name, and how long it keeps its runs."""
        from orchestrator.purging import projects

        return projects(self._ready())

    def set_retention(self, project: str, retention: Retention) -> None:
        """Say how long a project keeps the runs that have ended; `Retention()` is as the settings say.

        A project that is not there yet is made.
        """
        from orchestrator.purging import set_retention

        set_retention(self._ready(), project, retention)

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
                self._service, self._worker = _started(self._settings, self._overrides if self._embedded else None)
            return self._service

    def _forked(self) -> None:
        """Leave the parent its connections and threads; a worker of ours did not survive the fork and starts anew."""
        if self._service is not None:
            self._service.kernel.forked()
        self._service = self._worker = None
        self._pid = os.getpid()


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
        for _ in polls(self.id, timeout):
            if service.state(self.id).final:
                break
        return service.snapshot(self.id)

    def result(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the output; raises `RunFailed` (its `__cause__` is the error), `RunCancelled`, or `TimeoutError`."""
        return output_of(self.wait(timeout))

    def events(self, after: str | None = None) -> Iterator[RunEvent]:
        """Give what happens in the run until it is final, from its beginning or from behind the cursor `after`."""
        service = self._awaited()
        cursor = after
        for _ in polls(self.id, None):
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

    def cancel(self, *, abandon: bool = False) -> bool:
        """Cancel the run: final at once, or when what it did is undone. False when it had ended already, or does so.

        With `abandon` compensations that have not ended are given up, and what they have not undone stays.
        """
        return self._orchestrator.service.cancel(self.id, abandon=abandon)

    def retry(self, *, restart: bool = False, repeat_uncertain: bool = False) -> None:
        """Open a failed or cancelled run again: what succeeded is kept, and recorded effects of the rest are not repeated.

        With `restart` the rest begins anew. `repeat_uncertain` lets steps happen (again) that may happen at most once and
        may have happened. Of a run that was undone, compensations that failed are tried again. Raises `RunStateConflict`.
        """
        self._orchestrator.service.retry(self.id, restart=restart, repeat_uncertain=repeat_uncertain)


def _started(given: Settings | None, overrides: dict[str, Any] | None) -> tuple[Service, EmbeddedWorker | None]:
    """Give the use cases of the installation that the settings describe, with a worker of its own if it is embedded.

    `overrides` are those of an installation that is asked for as embedded, by name.
    """
    from orchestrator.imports import require_ours
    from orchestrator.kernel import Kernel
    from orchestrator.service import Service
    from orchestrator.settings import Settings
    from orchestrator.store import schema

    settings = given or Settings.load()
    if overrides is not None:
        changes: dict[str, Any] = {"broker_url": None, "database_url": None, "home": settings.home, **overrides}
        settings = settings.model_copy(update={**changes, "home": Path(changes["home"])})
    elif settings.embedded:
        raise SettingsInvalid(
            "no fleet is configured: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL, or ask for agents inside "
            "this process by name with Orchestrator.embedded()"
        )
    if settings.embedded:
        require_ours("worker")  # before anything is made
    kernel = Kernel.build(settings)
    if not settings.embedded:
        schema.check(kernel.store.database)
        return Service(kernel), None
    schema.upgrade(kernel.store.database)
    return Service(kernel), _start_worker(kernel)


def _start_worker(kernel: Any) -> EmbeddedWorker:
    # By name: the control plane never imports the data plane.
    from orchestrator.imports import require_ours

    return require_ours("worker.embedded").start(kernel)
