"""The producer's surface for asyncio: `AsyncOrchestrator`, with the names and parameters of `Orchestrator`.

What asks a service is awaited and done in one of a few threads; waiting holds none.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from orchestrator.client import Orchestrator
from orchestrator.endings import Endings
from orchestrator.polling import FIRST_POLL_SECONDS, longer, output_of, seconds_of, too_late

if TYPE_CHECKING:
    from decimal import Decimal

    from orchestrator.aio_agents import AsyncAgentRegistry
    from orchestrator.contracts.batch import BatchOptions, BatchProgress, BatchResult
    from orchestrator.contracts.budget import Budget, BudgetSummary, Period
    from orchestrator.contracts.cost import CostFilter, CostLine, Dimension
    from orchestrator.contracts.dead import DeadAgentRun
    from orchestrator.contracts.evaluation import Comparison, Evaluation, EvaluationReport, EvaluationSummary
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.experiment import Experiment, ExperimentReport
    from orchestrator.contracts.mail import MailRecord, Sent
    from orchestrator.contracts.policy import Retention
    from orchestrator.contracts.project import ProjectSummary
    from orchestrator.contracts.question import Answered, Question
    from orchestrator.contracts.run import RunFilter, RunResult, RunState, RunSummary
    from orchestrator.contracts.shared import SharedValues
    from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
    from orchestrator.settings import Settings

    Workflow = str | WorkflowDefinition | TaskDefinition

T = TypeVar("T")

log = logging.getLogger("nightfleet.aio")

#: Calls are short; more of them at a time than connections in the pool would only wait for those.
_THREADS = 8


class AsyncOrchestrator:
    """Submits workflows and finds runs from asyncio: `Orchestrator` with `await`, lazy, and fit for any event loop.

    Cancelling a task that awaits something here leaves runs alone: what was being submitted is stored whole or not at
    all, and an idempotency key tells which.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._bridge = _Bridge(Orchestrator(settings))

    @classmethod
    def embedded(
        cls, home: str | Path | None = None, *, agents_path: str | None = None, settings: Settings | None = None
    ) -> Self:
        """Give an orchestrator that runs its agents in threads of this process, with its state in SQLite under `home`."""
        made = cls(settings)
        made._bridge = _Bridge(Orchestrator.embedded(home, agents_path=agents_path, settings=settings))
        return made

    async def submit(  # noqa: PLR0913 - all of it by name
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
    ) -> AsyncRunHandle:
        """Store a run, whole or not at all, and publish its first tasks; see `Orchestrator.submit`.

        A `connection` is a blocking one, as there; nothing else may use it meanwhile.
        """
        submit = partial(self._bridge.blocking.submit, workflow, input, project=project, deadline=deadline)
        submit = partial(submit, user=user, budget=budget)
        run = await self._bridge.call(submit, idempotency_key=idempotency_key, connection=connection)
        return AsyncRunHandle(self._bridge, run.id, joined=connection is not None)

    async def submit_many(  # noqa: PLR0913
        self,
        workflow: Workflow,
        inputs: Iterable[Any],
        *,
        project: str = "default",
        deadline: float | timedelta | None = None,
        user: str | None = None,
        budget: Budget | Decimal | float | None = None,
        connection: Any = None,
    ) -> list[AsyncRunHandle]:
        """Store a run for each input, hundreds in one transaction, and publish them; gives handles in the same order."""
        submit_many = partial(self._bridge.blocking.submit_many, project=project, deadline=deadline)
        submit_many = partial(submit_many, user=user, budget=budget)
        runs = await self._bridge.call(submit_many, workflow, inputs, connection=connection)
        return [AsyncRunHandle(self._bridge, run.id, joined=connection is not None) for run in runs]

    async def publish(self, runs: Iterable[AsyncRunHandle]) -> None:
        """Publish what of these runs is committed and not published yet, without waiting for a sweep."""
        found = [self._bridge.blocking.run(run.id) for run in runs]
        await self._bridge.call(self._bridge.blocking.publish, found)

    async def batch(
        self,
        data: str | Path,
        workflow: Workflow,
        *,
        out: str | Path,
        project: str = "default",
        options: BatchOptions | None = None,
        on_progress: Callable[[BatchProgress], None] | None = None,
    ) -> BatchResult:
        """Run the workflow on each row of a file: exactly one result line for each in `out`; see `Orchestrator.batch`.

        `on_progress` is called on the event loop. Cancelled, it stops at its next look at the open runs; the same call
        goes on with them.
        """
        batch = partial(self._bridge.blocking.batch, data, workflow, out=out, project=project, options=options)
        return await _watched(batch, on_progress, "batch")

    async def evaluate(
        self,
        evaluation: Evaluation | str | Path,
        *,
        project: str = "default",
        window: int = 50,
        user: str | None = None,
        budget: Budget | Decimal | float | None = None,
        on_progress: Callable[[BatchProgress], None] | None = None,
    ) -> EvaluationReport:
        """Run every case under every variant, grade them, and give the report; see `Orchestrator.evaluate`.

        `on_progress` is called on the event loop. Cancelled, it stops at its next look at the open runs; the same call
        goes on with them.
        """
        evaluate = partial(self._bridge.blocking.evaluate, evaluation, project=project, window=window)
        return await _watched(partial(evaluate, user=user, budget=budget), on_progress, "evaluation")

    async def evaluation(self, evaluation_id: str) -> EvaluationReport:
        """Give an evaluation and what came of it so far; see `Orchestrator.evaluation`."""
        return await self._bridge.call(self._bridge.blocking.evaluation, evaluation_id)

    async def evaluations(self, *, limit: int = 50) -> list[EvaluationSummary]:
        """Give evaluations, the newest first."""
        return await self._bridge.call(self._bridge.blocking.evaluations, limit=limit)

    async def compare(self, baseline: str, variant: str) -> Comparison:
        """Give two evaluations case by case; see `Orchestrator.compare`."""
        return await self._bridge.call(self._bridge.blocking.compare, baseline, variant)

    async def set_experiment(self, experiment: Experiment) -> Experiment:
        """Begin an experiment on live runs, or change its share; see `Orchestrator.set_experiment`."""
        return await self._bridge.call(self._bridge.blocking.set_experiment, experiment)

    async def stop_experiment(self, name: str) -> Experiment:
        """Give no more runs the variant; see `Orchestrator.stop_experiment`."""
        return await self._bridge.call(self._bridge.blocking.stop_experiment, name)

    async def experiment(self, name: str) -> ExperimentReport:
        """Give an experiment and how its arms do; see `Orchestrator.experiment`."""
        return await self._bridge.call(self._bridge.blocking.experiment, name)

    def run(self, run_id: str) -> AsyncRunHandle:
        """Give the handle of a run, anywhere; using it raises `RunNotFound` when there is none."""
        return AsyncRunHandle(self._bridge, run_id)

    async def runs(
        self, which: RunFilter | None = None, *, limit: int = 50, after: str | None = None
    ) -> list[RunSummary]:
        """Give the newest runs first; see `Orchestrator.runs`."""
        return await self._bridge.call(self._bridge.blocking.runs, which, limit=limit, after=after)

    async def questions(
        self, run_id: str | None = None, *, project: str | None = None, limit: int = 1000
    ) -> list[Question]:
        """Give the questions of agents that an answer is awaited for, oldest first: of all runs, or of one."""
        return await self._bridge.call(self._bridge.blocking.questions, run_id, project=project, limit=limit)

    async def answer(self, question: str, value: Any, *, by: str | None = None, digest: str | None = None) -> Answered:
        """Answer a question, once and for all; see `Orchestrator.answer`."""
        return await self._bridge.call(self._bridge.blocking.answer, question, value, by=by, digest=digest)

    async def send(  # noqa: PLR0913 - what may be said of a message
        self,
        run: AsyncRunHandle | str,
        to: str,
        body: Any = None,
        *,
        type: str = "message",
        priority: int = 4,
        ttl: float | timedelta | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send a message to an agent of a run; see `Orchestrator.send`."""
        return await self._bridge.call(
            self._bridge.blocking.send,
            run if isinstance(run, str) else run.id,
            to,
            body,
            type=type,
            priority=priority,
            ttl=ttl,
            idempotency_key=idempotency_key,
        )

    async def messages(self, run: AsyncRunHandle | str) -> list[MailRecord]:
        """Give all messages of a run's agents; see `Orchestrator.messages`."""
        return await self._bridge.call(self._bridge.blocking.messages, run if isinstance(run, str) else run.id)

    async def fork(
        self,
        run: AsyncRunHandle | str,
        *,
        from_task: str,
        input: dict[str, Any] | None = None,
        deadline: float | timedelta | None = None,
    ) -> AsyncRunHandle:
        """Store and publish a run that shares the recorded past of one that has ended; see `Orchestrator.fork`."""
        run_id = run if isinstance(run, str) else run.id
        fork = partial(self._bridge.blocking.fork, from_task=from_task, input=input, deadline=deadline)
        made = await self._bridge.call(fork, run_id)
        return AsyncRunHandle(self._bridge, made.id)

    async def dead(
        self, which: RunFilter | None = None, *, quarantined: bool = False, limit: int = 50, after: str | None = None
    ) -> list[DeadAgentRun]:
        """Give the agent runs that failed for good; see `Orchestrator.dead`."""
        dead = partial(self._bridge.blocking.dead, quarantined=quarantined)
        return await self._bridge.call(dead, which, limit=limit, after=after)

    async def redrive(self, agent_run: str, *, input: Any = ...) -> AsyncRunHandle:
        """Put a dead agent run on its way again; see `Orchestrator.redrive`."""
        run = await self._bridge.call(self._bridge.blocking.redrive, agent_run, input=input)
        return AsyncRunHandle(self._bridge, run.id)

    async def purge(self, which: RunFilter) -> int:
        """Delete the runs that are meant and have ended, for good; see `Orchestrator.purge`."""
        return await self._bridge.call(self._bridge.blocking.purge, which)

    async def projects(self) -> list[ProjectSummary]:
        """Give every project, by name, and how long it keeps its runs."""
        return await self._bridge.call(self._bridge.blocking.projects)

    async def set_retention(self, project: str, retention: Retention) -> None:
        """Say how long a project keeps the runs that have ended; see `Orchestrator.set_retention`."""
        await self._bridge.call(self._bridge.blocking.set_retention, project, retention)

    async def budgets(self, scope: str | None = None, *, of_runs: bool = False) -> list[BudgetSummary]:
        """Give budgets and how much of them is used; see `Orchestrator.budgets`."""
        return await self._bridge.call(self._bridge.blocking.budgets, scope, of_runs=of_runs)

    async def set_budget(self, scope: str, budget: Budget | Decimal | float) -> BudgetSummary:
        """Say how much may be spent in a scope, or change it; see `Orchestrator.set_budget`."""
        return await self._bridge.call(self._bridge.blocking.set_budget, scope, budget)

    async def raise_budget(
        self, scope: str, usd: Decimal | float, *, by: bool = False, period: Period | None = None
    ) -> BudgetSummary:
        """Raise a budget to an amount, or `by` one; see `Orchestrator.raise_budget`."""
        return await self._bridge.call(self._bridge.blocking.raise_budget, scope, usd, by=by, period=period)

    async def remove_budget(self, scope: str, *, period: Period | None = None) -> BudgetSummary:
        """End a budget, and give what it was; see `Orchestrator.remove_budget`."""
        return await self._bridge.call(self._bridge.blocking.remove_budget, scope, period=period)

    async def costs(
        self, by: Sequence[Dimension] = ("project",), which: CostFilter | None = None, *, limit: int | None = None
    ) -> list[CostLine]:
        """Give what model calls have used and cost, the dearest first; see `Orchestrator.costs`."""
        return await self._bridge.call(self._bridge.blocking.costs, by, which, limit=limit)

    @property
    def agents(self) -> AsyncAgentRegistry:
        """The agents and workers of the installation, and the pools of its agents."""
        from orchestrator.aio_agents import AsyncAgentRegistry

        return AsyncAgentRegistry(self._bridge.call, self._bridge.blocking.agents)

    async def resume(self) -> list[AsyncRunHandle]:
        """Take up what an earlier embedded process left unfinished."""
        return [AsyncRunHandle(self._bridge, run.id) for run in await self._bridge.call(self._bridge.blocking.resume)]

    async def close(self) -> None:
        """Stop embedded workers cleanly and close connections; the next use starts anew."""
        await self._bridge.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncRunHandle:
    """One run, by its id: `RunHandle` with `await`; its state is a call here, `await run.state()`."""

    def __init__(self, bridge: _Bridge, run_id: str, *, joined: bool = False) -> None:
        self._bridge = bridge
        self._run = bridge.blocking.run(run_id)
        self._joined = joined
        self.id = run_id

    def __repr__(self) -> str:
        return f"AsyncRunHandle({self.id!r})"

    async def snapshot(self) -> RunResult:
        """Give the run as it is now."""
        return await self._bridge.call(self._run.snapshot)

    async def state(self) -> RunState:
        """Give the run's state now."""
        return await self._bridge.call(lambda: self._run.state)

    async def wait(self, timeout: float | timedelta | None = None) -> RunResult:  # noqa: ASYNC109 - the mirror's
        """Wait until the run is final, failed and cancelled ones too; raises `TimeoutError`."""
        seconds = seconds_of(timeout)
        if not (await self._bridge.call(self._look)).final:
            try:
                async with asyncio.timeout(seconds):
                    await self._bridge.endings().wait_for(self.id)
            except TimeoutError:
                raise too_late(self.id, seconds or 0.0) from None
        return await self.snapshot()

    async def result(self, timeout: float | timedelta | None = None) -> Any:  # noqa: ASYNC109
        """Wait for the output; raises `RunFailed` with the reason, `RunCancelled`, or `TimeoutError`."""
        return output_of(await self.wait(timeout))

    async def events(self, after: str | None = None) -> AsyncIterator[RunEvent]:
        """Give what happens in the run until it is final, from its beginning or from behind the cursor `after`."""
        cursor, final, pause = after, False, FIRST_POLL_SECONDS
        await self._bridge.call(self._look)
        while not final:
            news, final = await self._bridge.call(self._news, cursor)
            for event in news:
                cursor = event.cursor
                yield event
            if not final:
                await asyncio.sleep(pause)
                pause = longer(pause)

    async def shared(self, key: str | None = None, *, task: str = "") -> SharedValues:
        """Give what the agents of the run share now; see `RunHandle.shared`."""
        return await self._bridge.call(self._run.shared, key, task=task)

    async def publish(self) -> None:
        """Publish the run's first tasks now if nobody has; see `Orchestrator.publish`."""
        await self._bridge.call(self._run.publish)

    async def cancel(self, *, abandon: bool = False) -> bool:
        """Cancel the run; see `RunHandle.cancel`."""
        return await self._bridge.call(self._run.cancel, abandon=abandon)

    async def retry(self, *, restart: bool = False, repeat_uncertain: bool = False) -> None:
        """Open a failed or cancelled run again; see `RunHandle.retry`."""
        await self._bridge.call(self._run.retry, restart=restart, repeat_uncertain=repeat_uncertain)

    def _news(self, cursor: str | None) -> tuple[Sequence[RunEvent], bool]:
        return self._bridge.blocking.service.news(self.id, cursor)

    def _look(self) -> RunState:
        """Give the run's state; a run of a caller's transaction is published first."""
        service = self._bridge.blocking.service
        if self._joined:
            service.publish_committed(self.id)
            self._joined = False
        return service.state(self.id)


async def _watched(work: Callable[..., T], on_progress: Callable[[BatchProgress], None] | None, what: str) -> T:
    """Do what takes hours in a thread of its own, and tell of its progress on the loop; a cancellation stops it soon."""
    loop, stopped = asyncio.get_running_loop(), threading.Event()

    def tell(progress: BatchProgress) -> None:
        if stopped.is_set():
            raise _Stopped
        if on_progress is not None:
            loop.call_soon_threadsafe(on_progress, progress)

    own = ThreadPoolExecutor(1, thread_name_prefix=f"nightfleet-{what}")  # in no shared thread
    working = loop.run_in_executor(own, partial(work, on_progress=tell))
    own.shutdown(wait=False)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stopped.set()
        try:
            await working
        except _Stopped:
            pass
        except Exception:  # who cancels is told of the cancellation, and of nothing else
            log.exception("a cancelled %s has ended with an error", what)
        raise


class _Stopped(Exception):
    """Ends a batch whose task was cancelled."""


class _Bridge:
    """From event loops to one blocking orchestrator: a few threads for its calls, one question for all who wait."""

    def __init__(self, blocking: Orchestrator) -> None:
        self.blocking = blocking
        self._executor: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._endings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Endings] = weakref.WeakKeyDictionary()

    async def call(self, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Do what blocks in a thread, in the caller's context."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads(), partial(context.run, work, *arguments, **named)
        )

    def endings(self) -> Endings:
        """Give what waits for runs on the running loop."""
        loop = asyncio.get_running_loop()
        found = self._endings.get(loop)
        if found is None:
            found = self._endings[loop] = Endings(self._states)
        return found

    async def close(self) -> None:
        await self.call(self.blocking.close)
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    async def _states(self, run_ids: list[str]) -> dict[str, RunState]:
        return await self.call(lambda: self.blocking.service.states(run_ids))

    def _threads(self) -> ThreadPoolExecutor:
        if self._pid != os.getpid():
            self._executor, self._pid = None, os.getpid()  # its threads did not survive the fork
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="nightfleet-async")
        return self._executor
