"""The producer's surface: `Orchestrator`. What it gives for a run is in `handle.py`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from orchestrator.handle import RunHandle
from orchestrator.polling import deadline_of
from orchestrator.process_lock import ProcessLock
from orchestrator.starting import EmbeddedWorker, started

if TYPE_CHECKING:
    from decimal import Decimal

    from orchestrator.agents import AgentRegistry
    from orchestrator.contracts.batch import BatchOptions, BatchProgress, BatchResult
    from orchestrator.contracts.budget import Budget, BudgetSummary, Period
    from orchestrator.contracts.cost import CostFilter, CostLine, Dimension
    from orchestrator.contracts.dead import DeadAgentRun
    from orchestrator.contracts.evaluation import Comparison, Evaluation, EvaluationReport, EvaluationSummary
    from orchestrator.contracts.experiment import Experiment, ExperimentReport
    from orchestrator.contracts.mail import MailRecord, Sent
    from orchestrator.contracts.policy import Retention
    from orchestrator.contracts.project import ProjectSummary
    from orchestrator.contracts.question import Answered, Question
    from orchestrator.contracts.run import RunFilter, RunSummary
    from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
    from orchestrator.service import Service
    from orchestrator.settings import Settings

    Workflow = str | WorkflowDefinition | TaskDefinition

#: How many runs `submit_many` creates in one transaction.
_CHUNK = 500


class Orchestrator:
    """Submits workflows and finds runs: thread-safe, fork-safe and lazy, so fit for a module-level variable.

    Nothing is read or connected before the first use; settings come from the environment unless they are given. A fleet
    must be configured: `Orchestrator.embedded()` asks by name for agents that run inside this process.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._embedded = False
        self._lock = ProcessLock(threading.RLock)
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

    def submit(  # noqa: PLR0913 - all of it by name
        self,
        workflow: Workflow,
        input: Any = None,
        *,
        project: str = "default",
        idempotency_key: str | None = None,
        deadline: float | timedelta | None = None,
        user: str | None = None,
        budget: Budget | Decimal | float | None = None,
        connection: Any = None,
    ) -> RunHandle:
        """Store a run, whole or not at all, and publish its first tasks.

        `workflow` is a definition, an expression (`"reader | summarizer"`) or the path of a file. With the same
        idempotency key a second submit gives the first run; with another input it raises `IdempotencyConflict`. If the run
        has not ended `deadline` seconds from now it fails, whatever its workflow says. Its costs are charged to `user`, a
        label of your own, and to its project; `budget` is what it may cost in dollars, or how that is kept. Raises
        `WorkflowInvalid` (every problem at once), `UnknownAgent`, `InputInvalid`, `ValueTooLarge`, and
        `ServiceUnavailable`, before anything is stored.

        With a `connection` (of psycopg 3, or SQLAlchemy's or Django's on it) the run is part of its open transaction: a
        rollback leaves no run, and what is committed is published, at the latest by the next sweep of a worker; sooner
        by `RunHandle.publish`. Raises `UsageError` for a connection that cannot be joined.
        """
        from orchestrator.contracts.budget import Charge

        ids = self._ready().submit(
            workflow,
            [{} if input is None else input],
            project=project,
            keys=[idempotency_key],
            deadline=deadline_of(deadline),
            charge=Charge.to(user, budget),
            connection=connection,
        )
        return RunHandle(self, ids[0], joined=connection is not None)

    def submit_many(  # noqa: PLR0913
        self,
        workflow: Workflow,
        inputs: Iterable[Any],
        *,
        project: str = "default",
        deadline: float | timedelta | None = None,
        user: str | None = None,
        budget: Budget | Decimal | float | None = None,
        connection: Any = None,
    ) -> list[RunHandle]:
        """Store a run for each input, hundreds in one transaction, and publish them; gives handles in the same order.

        Each run has the `budget` for itself. With a `connection` all of them are part of its open transaction, as with `submit`.
        """
        from orchestrator.contracts.budget import Charge
        from orchestrator.service import submitted

        charge = Charge.to(user, budget)
        submit = partial(self._ready().submit, workflow, project=project, deadline=deadline_of(deadline), charge=charge)
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

    def evaluate(
        self,
        evaluation: Evaluation | str | Path,
        *,
        project: str = "default",
        window: int = 50,
        user: str | None = None,
        budget: Budget | Decimal | float | None = None,
        on_progress: Callable[[BatchProgress], None] | None = None,
    ) -> EvaluationReport:
        """Run every case under every variant, grade them, and give the report, which is stored too.

        `evaluation` is the path of a file, or an `Evaluation`. After a kill, an exception or an outage the same call goes on:
        nothing that has a result is paid for again; one that has come to its end is begun anew. All of it may cost what
        `budget` says: the report's `stopped_by` says that it was not enough. Raises `UsageError` for an evaluation that will
        not do. Runs that fail, and grades that cannot be given, raise nothing: they are in the report.
        """
        from orchestrator.contracts.batch import BatchOptions
        from orchestrator.contracts.budget import Budget
        from orchestrator.contracts.evaluation import Evaluation
        from orchestrator.evaluation.job import evaluate
        from orchestrator.evaluation.written import load_evaluation

        service = self._ready()
        if not isinstance(evaluation, Evaluation):
            limit = service.kernel.settings.max_value_bytes
            evaluation = load_evaluation(Path(evaluation), limit_bytes=limit)
        kept = None if budget is None else Budget.of(budget)
        if kept is not None and not isinstance(budget, Budget):
            kept = kept.model_copy(update={"on_cap": "fail"})  # a build must not wait for somebody who raises it
        options = BatchOptions(window=window, user=user, budget=kept)
        return evaluate(
            service, evaluation, project=project, options=options, watch=on_progress or (lambda _progress: None)
        )

    def evaluation(self, evaluation_id: str) -> EvaluationReport:
        """Give an evaluation and what came of it so far; raises `UsageError` where there is none."""
        from orchestrator.evaluation.report import report_of

        return report_of(self._ready().kernel.store.evaluations, evaluation_id)

    def evaluations(self, *, limit: int = 50) -> list[EvaluationSummary]:
        """Give evaluations, the newest first."""
        from orchestrator.evaluation.report import summaries

        return summaries(self._ready().kernel.store.evaluations, limit=limit)

    def compare(self, baseline: str, variant: str) -> Comparison:
        """Give two evaluations case by case, each by its id, or `ID/NAME` of one with several variants; raises `UsageError`."""
        from orchestrator.evaluation.report import compare

        return compare(self._ready().kernel.store.evaluations, baseline, variant)

    def set_experiment(self, experiment: Experiment) -> Experiment:
        """Begin an experiment on live runs, or change its share; submits follow within two seconds.

        Raises `UsageError` where one of this name is about something else.
        """
        from orchestrator.experiments import set_experiment

        return set_experiment(self._ready(), experiment)

    def stop_experiment(self, name: str) -> Experiment:
        """Give no more runs the variant; those that have it keep it. Raises `UsageError` where there is none of the name."""
        from orchestrator.experiments import stop_experiment

        return stop_experiment(self._ready(), name)

    def experiment(self, name: str) -> ExperimentReport:
        """Give an experiment and how its arms do; raises `UsageError` where there is none of the name."""
        from orchestrator.experiments import experiment_report

        return experiment_report(self._ready(), name)

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

    def send(  # noqa: PLR0913 - what may be said of a message
        self,
        run: RunHandle | str,
        to: str,
        body: Any = None,
        *,
        type: str = "message",
        priority: int = 4,
        ttl: float | timedelta | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send a message to an agent of a run, which gets it from `@outside`; the same key sends it once.

        `to` is a task of the run, else the only task of that agent, else `capability:<name>`. Raises `RunNotFound`,
        `UnknownRecipient`, `RunStateConflict` for a run that has ended, `RecipientEnded`, `MailboxFull`, and `InputInvalid` or
        `ValueTooLarge` for what no message can be.
        """
        return self._ready().messages.send(
            run if isinstance(run, str) else run.id,
            to,
            body,
            type=type,
            priority=priority,
            ttl=ttl,
            idempotency_key=idempotency_key,
        )

    def messages(self, run: RunHandle | str) -> list[MailRecord]:
        """Give all messages of a run's agents in the order in which they were sent: received, waiting and dead."""
        return list(self._ready().messages.history(run if isinstance(run, str) else run.id))

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

    def budgets(self, scope: str | None = None, *, of_runs: bool = False) -> list[BudgetSummary]:
        """Give budgets and how much of them is used: those of a scope, or all but those of single runs, or all.

        A scope is `tenant`, `project/NAME`, `user/NAME`, `batch/ID`, `run/ID` or `agent-run/ID`.
        """
        from orchestrator.contracts.budget import Scope
        from orchestrator.costs import budgets

        return budgets(self._ready(), None if scope is None else Scope.parse(scope), of_runs=of_runs)

    def set_budget(self, scope: str, budget: Budget | Decimal | float) -> BudgetSummary:
        """Say how much may be spent in a scope, or change it: what was spent there in its period counts.

        A project that is not there yet is made. Whoever waits for it and now has room goes on. Raises `RunNotFound`, and
        `UsageError` for a scope that cannot have it.
        """
        from orchestrator.contracts.budget import Budget, Scope
        from orchestrator.costs import set_budget

        return set_budget(self._ready(), Scope.parse(scope), Budget.of(budget))

    def raise_budget(
        self, scope: str, usd: Decimal | float, *, by: bool = False, period: Period | None = None
    ) -> BudgetSummary:
        """Raise a budget to an amount, or `by` one; whoever waits for it and now has room goes on.

        `period` says which, where a scope has several. Raises `UsageError` for one that is not there, or that has as much.
        """
        from orchestrator.contracts.budget import Budget, Scope
        from orchestrator.costs import raise_budget

        return raise_budget(self._ready(), Scope.parse(scope), Budget.of(usd).usd, by=by, period=period)

    def remove_budget(self, scope: str, *, period: Period | None = None) -> BudgetSummary:
        """End a budget, and give what it was; whoever waits for it goes on. Raises `UsageError` for one that is not there."""
        from orchestrator.contracts.budget import Scope
        from orchestrator.costs import remove_budget

        return remove_budget(self._ready(), Scope.parse(scope), period=period)

    def costs(
        self, by: Sequence[Dimension] = ("project",), which: CostFilter | None = None, *, limit: int | None = None
    ) -> list[CostLine]:
        """Give what model calls have used and cost, a line for each group of what they are added up by, the dearest first.

        `which` says which calls are meant: all of them without it.
        """
        from orchestrator.costs import costs

        return costs(self._ready(), by, which, limit=limit)

    def resume(self) -> list[RunHandle]:
        """Take up what an earlier embedded process left unfinished."""
        return [RunHandle(self, identity) for identity in self._ready().resume()]

    def close(self) -> None:
        """Stop embedded workers cleanly and close connections; the next use starts anew."""
        with self._lock.here:
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
    def agents(self) -> AgentRegistry:
        """The agents and workers of the installation, and the pools of its agents."""
        from orchestrator.agents import AgentRegistry

        return AgentRegistry(self._ready)

    @property
    def service(self) -> Service:
        """The use cases behind this surface, for the command line."""
        return self._ready()

    def _ready(self) -> Service:
        with self._lock.here:
            if self._pid != os.getpid():
                self._forked()
            if self._service is None:
                self._service, self._worker = started(self._settings, self._overrides if self._embedded else None)
            return self._service

    def _forked(self) -> None:
        """Leave the parent its connections and threads; a worker of ours did not survive the fork and starts anew."""
        if self._service is not None:
            self._service.kernel.forked()
        self._service = self._worker = None
        self._pid = os.getpid()
