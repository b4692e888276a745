"""Claim, execute, complete: what a worker does with one delivery. The live driver of an agent's effects."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.advance import Advancer
from orchestrator.clock import system_clock
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.policy import Timeouts
from orchestrator.contracts.run import AgentRunState, ErrorInfo, RunState
from orchestrator.contracts.workflow import Fallback, TaskDefinition
from orchestrator.errors import (
    AgentTimeout,
    ClaimLost,
    DatabaseUnavailable,
    InputInvalid,
    NightfleetError,
    OutputInvalid,
    from_exception,
)
from orchestrator.failpoints import failpoint
from orchestrator.observability.logging import get_logger, log_scope
from orchestrator.observability.redact import Redact, redactor
from orchestrator.planning.canvas import uncarried
from orchestrator.planning.inputs import Upstream, task_input
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Claim, Finish, Outcome
from orchestrator.store.repairs import Orphan
from orchestrator.store.store import Store
from worker.agent import AsyncContext, Context
from worker.effects import Account
from worker.execution import Done, Execution, Executions, Failed, Ignored, Retrying, Verdict, storable
from worker.host import Host
from worker.llm.providers import Providers
from worker.loader import LoadedAgent, LoadedAgents
from worker.meter import Meter, NoMeter
from worker.nodes.builtin import Nodes
from worker.pool import Deadlines, EventLoop, give_up_current_job

T = TypeVar("T")

log = get_logger("nightfleet.worker")


@dataclass(slots=True)
class Runtime:
    """Executes agent runs for one worker process; thread-safe: one call of `run` for each delivery."""

    store: Store
    advancer: Advancer
    agents: LoadedAgents
    providers: Providers
    settings: Settings
    worker_id: str
    loop: EventLoop = field(default_factory=EventLoop)
    deadlines: Deadlines = field(default_factory=Deadlines)
    executions: Executions = field(default_factory=Executions)
    meter: Meter = field(default_factory=NoMeter)
    #: Masks what is secret in this process.
    redact: Redact = field(default_factory=lambda: redactor(os.environ))
    #: What stands behind tasks that name a function or a Celery task.
    nodes: Nodes = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = Nodes(self.settings, self.store.agent_runs)

    def run(self, agent_run_id: str, carries: frozenset[str], claimed: Callable[[], None] = lambda: None) -> Verdict:
        """Claim an agent run and take it to its next recorded state; `carries` is what its request would publish.

        `claimed` is called once it is ours.
        """
        claim = self.store.agent_runs.claim(agent_run_id, self.worker_id)
        if claim is None:
            return Ignored()
        claimed()
        failpoint("after_claim")
        plan = self.store.runs.plan(claim.workflow_id)
        task = plan.tasks[claim.position]
        account = Account(model=self.providers.default_model())
        execution = Execution(claim, plan, account, task, system_clock.monotonic())
        older = self.executions.get(claim.id)
        if older is not None and older.claim.epoch < claim.epoch:
            # Cancelled and retried, say. Nothing would stop it once the new one has taken its place.
            self.stop(older, ClaimLost("claimed again by the same worker"))
        with self.executions.holding(execution), _logged(execution.claim):
            verdict = self._conclude(execution, carries)
        if not execution.given_up:
            self._count(execution, verdict)
        return verdict

    def stop(self, execution: Execution, error: NightfleetError) -> None:
        """Stop an execution at its next effect, an async one at its await."""
        execution.account.stopped = error if isinstance(error, ClaimLost) else ClaimLost(error.message)
        if execution.interrupt is not None:
            execution.interrupt()

    def hand_back(self, executions: list[Execution], *, crashed: bool = False) -> None:
        """Give back what is still running, without a failure and at once: another worker takes it over.

        `crashed` counts it as a crash of what executed it.
        """
        for execution in executions:
            self.stop(execution, ClaimLost("handed back by a worker that stops"))
        for execution in executions:
            claim = execution.claim
            orphan = Orphan(claim.id, claim.run_id, claim.epoch, claim.crashes, self.worker_id)
            try:
                if self.store.repairs.release(orphan, crashed=crashed):
                    log.info("handed back", run_id=claim.run_id, task=claim.task)
            except NightfleetError as error:
                log.warning(
                    "not handed back, another worker takes it over when the lease has expired",
                    run_id=claim.run_id,
                    task=claim.task,
                    error=error.message,
                )

    # Execution --------------------------------------------------------------------------------------------------------

    def _conclude(self, execution: Execution, carries: frozenset[str]) -> Verdict:
        """Execute a claim and record what came of it."""
        try:
            output = self._execute(execution)
        except ClaimLost:
            log.warning("claim lost", reason="cancelled, or taken over by another worker")
            return Ignored()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an agent raises is its outcome
            return self._settle_failure(execution, from_exception(error))
        return self._settle_success(execution, output, carries)

    def _count(self, execution: Execution, verdict: Verdict) -> None:
        self.meter.executed(execution.claim.agent, verdict, system_clock.monotonic() - execution.began)

    def _execute(self, execution: Execution) -> str:
        """Run the agent; gives its output as JSON text."""
        claim = execution.claim
        loaded = self._bound(execution)
        agent_class = loaded.agent_class
        execution.account.model = agent_class.model or execution.account.model
        execution.account.limits = agent_class.limits
        run_input = json.loads(claim.run_input)
        upstream = _upstream(claim)
        data = loaded.parse_input(_input(execution.task, run_input, upstream))
        timeouts = _timeouts(execution.task, agent_class.timeouts)
        context_class = AsyncContext if loaded.is_async else Context
        context = context_class(
            Host(execution.claim, self.store, self.providers, self.loop, self.redact),
            execution.account,
            run_id=claim.run_id,
            task=claim.task,
            run_input=run_input,
            upstream=upstream,
        )
        result = self._call(execution, loaded, data, context, timeouts)
        what = f"the output of agent {claim.agent!r}"
        return dump(
            loaded.dump_output(result), what=what, limit_bytes=self.settings.max_value_bytes, error=OutputInvalid
        )

    def _bound(self, execution: Execution) -> LoadedAgent:
        """Give what executes a claim."""
        loaded, hard = self.agents.get(execution.claim.agent), execution.task.timeouts.hard
        if execution.task.function is None or hard is None:
            return self.nodes.bind(loaded, execution)
        # This imports a module of the user's, which may hang.
        return self._within(execution, hard.total_seconds(), lambda: self.nodes.bind(loaded, execution))

    def _call(self, execution: Execution, loaded: LoadedAgent, data: Any, context: Any, timeouts: Timeouts) -> Any:
        agent = loaded.agent_class()
        soft = None if timeouts.soft is None else timeouts.soft.total_seconds()
        hard = None if timeouts.hard is None else timeouts.hard.total_seconds()
        if loaded.is_async:
            return self._call_async(execution, agent.execute(data, context), soft, hard)
        cancel_soft = self._at(soft, lambda: _stop_softly(execution, soft))
        try:
            return self._within(execution, hard, lambda: agent.execute(data, context))
        finally:
            cancel_soft()

    def _within(self, execution: Execution, hard: float | None, work: Callable[[], T]) -> T:
        """Do what may be stuck in this thread; at the hard limit its end is recorded without it."""
        give_up = give_up_current_job()
        cancel = self._at(hard, lambda: self._expire(execution, hard, give_up))
        try:
            return work()
        finally:
            cancel()
            if execution.given_up:
                raise ClaimLost("the hard time limit has passed")

    def _call_async(self, execution: Execution, coroutine: Any, soft: float | None, hard: float | None) -> Any:
        future = self.loop.submit(_bounded(execution, coroutine, soft, hard))
        give_up = give_up_current_job()
        # An agent that swallows its cancellation is left to itself a second later.
        cancel = self._at(None if hard is None else hard + 1, lambda: self._expire(execution, hard, give_up))
        try:
            return future.result()
        finally:
            cancel()

    def _at(self, seconds: float | None, action: Any) -> Any:
        return (lambda: None) if seconds is None else self.deadlines.after(seconds, action)

    def _expire(self, execution: Execution, hard: float | None, give_up: Any) -> None:
        """Record the end of an agent that is stuck in its thread, and give its slot back."""
        execution.given_up = True
        execution.account.stopped = ClaimLost("the hard time limit has passed")
        with _logged(execution.claim):
            verdict = self._settle_failure(execution, AgentTimeout(f"the hard time limit of {hard:g} s has passed"))
        self._count(execution, verdict)
        give_up(hard)

    # Settlement -------------------------------------------------------------------------------------------------------

    def _settle_success(self, execution: Execution, output: str, carries: frozenset[str]) -> Verdict:
        account = execution.account
        outcome = Outcome(AgentRunState.SUCCEEDED, output=output, usage=account.usage, model=account.answered_by)
        failpoint("before_completion")
        finished = self._patiently(lambda: self._finish(execution, outcome))
        if finished is None:
            return Ignored()
        failpoint("after_completion")
        log.info("succeeded", seconds=round(system_clock.monotonic() - execution.began, 3))
        self._count_end(execution, finished)
        released = finished.released
        self.advancer.publish(execution.plan, execution.claim.run_id, uncarried(released, carries))
        if finished.undecided:
            self.advancer.advance(execution.claim.run_id)
        return Done(frozenset(dispatch.task_id for dispatch in released) & carries)

    def _settle_failure(self, execution: Execution, error: NightfleetError) -> Verdict:
        claim, task, account = execution.claim, execution.task, execution.account
        error = _masked(error, self.redact)
        info = ErrorInfo(
            code=error.code, message=storable(error.message), retryable=error.retryable, task=task.id
        ).model_dump_json()
        if error.retryable and claim.failures < task.retry.retries:
            delay = task.retry.delay_seconds(claim.failures + 1, error.retry_after)
            log.warning("failed, will be retried", error=error.message, code=error.code, delay_seconds=round(delay, 3))
            return self._requeue(execution, Retrying(error, delay), info, delay_seconds=delay, failed=True)
        if isinstance(task.on_error, Fallback) and claim.agent != task.on_error.fallback:
            log.warning("failed, falls back", error=error.message, code=error.code, agent=task.on_error.fallback)
            return self._requeue(
                execution, Retrying(error, 0.0), info, delay_seconds=0.0, failed=True, agent=task.on_error.fallback
            )
        log.error("failed", error=error.message, code=error.code)
        outcome = Outcome(AgentRunState.FAILED, error=info, usage=account.usage, model=account.answered_by)
        if task.on_error == "continue":
            finished = self._patiently(lambda: self._finish(execution, outcome))
            if finished is None:
                return Ignored()
            self._count_end(execution, finished)
            # The task has not returned normally, so Celery publishes nothing of what its request carries.
            self.advancer.publish(execution.plan, claim.run_id, finished.released)
            if finished.undecided:
                self.advancer.advance(claim.run_id)
            return Failed(error)
        ended = self._patiently(lambda: self.store.runs.fail(claim, outcome) or None)
        if not ended:
            return Ignored()
        self.meter.run_ended(claim.run_id, RunState.FAILED)
        return Failed(error)

    def _count_end(self, execution: Execution, finished: Finish) -> None:
        if finished.ended:
            self.meter.run_ended(execution.claim.run_id, RunState.SUCCEEDED)

    def _requeue(self, execution: Execution, verdict: Retrying, info: str, **how: Any) -> Verdict:
        put_back = self._patiently(lambda: self.store.agent_runs.requeue(execution.claim, error=info, **how) or None)
        return verdict if put_back else Ignored()

    def _finish(self, execution: Execution, outcome: Outcome) -> Finish | None:
        claim, plan = execution.claim, execution.plan
        finished = self.store.agent_runs.finish(claim, plan, outcome)
        if finished is None and self.store.agent_runs.ended_as(claim) is outcome.state:
            # An earlier try got no answer but was made: what it released nobody has published.
            released = self.store.agent_runs.queued_after(claim, plan)
            return Finish(ended=False, undecided=True, released=released)
        return finished

    def _patiently(self, write: Any) -> Any:
        """Write an outcome, again and again while the database is away, for as long as the lease can be ours."""
        give_up_at = system_clock.monotonic() + self.settings.lease_ttl.total_seconds()
        pause = 0.1
        while True:
            try:
                return write()
            except DatabaseUnavailable:
                if system_clock.monotonic() + pause > give_up_at:
                    # The row stays ours until the heartbeat, or another worker's sweep, finds that nobody executes it.
                    raise
                threading.Event().wait(pause)
                pause = min(2.0, pause * 2)
            except ClaimLost:
                return None


def _logged(claim: Claim) -> log_scope:
    return log_scope(
        run_id=claim.run_id,
        agent_run_id=claim.id,
        task=claim.task,
        agent=claim.agent,
        epoch=claim.epoch,
        tenant_id=claim.tenant_id,
    )


def _input(task: TaskDefinition, run_input: Any, upstream: Mapping[str, Upstream]) -> Any:
    # A fallback gets what the agent it replaces would have got.
    try:
        return task_input(task, run_input, upstream)
    except InputInvalid as error:
        raise InputInvalid(f"task {task.id!r}: {error.message}") from None


def _masked(error: NightfleetError, redact: Redact) -> NightfleetError:
    """Give the error without the secrets of this process: it goes to the database and to Celery's tools."""
    message = redact(error.message)
    return error if message == error.message else NightfleetError.from_data({**error.to_data(), "message": message})


async def _bounded(execution: Execution, coroutine: Any, soft: float | None, hard: float | None) -> Any:
    """Await an agent within its limits; an interruption is told as what caused it."""
    execution.interrupt = _interrupter()
    hard_limit, soft_limit = asyncio.timeout(hard), asyncio.timeout(soft)
    execution.timed_out = lambda: hard_limit.expired() or soft_limit.expired()
    try:
        async with hard_limit:
            try:
                async with soft_limit:
                    return await coroutine
            except TimeoutError:
                if soft_limit.expired():
                    raise AgentTimeout(f"the soft time limit of {soft:g} s has passed") from None
                raise
    except TimeoutError as error:
        if isinstance(error, AgentTimeout) or hard is None:
            raise
        raise AgentTimeout(f"the hard time limit of {hard:g} s has passed") from None
    except asyncio.CancelledError:
        if execution.account.stopped is not None:
            raise execution.account.stopped from None
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise ClaimLost("the worker stops") from None
        raise  # the agent's own: something that it awaited was cancelled


def _interrupter() -> Any:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    return interrupt


def _stop_softly(execution: Execution, soft: float | None) -> None:
    if execution.account.stopped is None:
        execution.account.stopped = AgentTimeout(f"the soft time limit of {soft:g} s has passed")


def _timeouts(task: TaskDefinition, of_agent: Timeouts) -> Timeouts:
    """Give the limits of one execution: the task's, and the agent's where they do not contradict those."""
    soft, hard = task.timeouts.soft, task.timeouts.hard
    if soft is None and of_agent.soft is not None and (hard is None or of_agent.soft < hard):
        soft = of_agent.soft
    if hard is None and of_agent.hard is not None and (soft is None or soft < of_agent.hard):
        hard = of_agent.hard
    return Timeouts(soft=soft, hard=hard)


def _upstream(claim: Claim) -> dict[str, Upstream]:
    found: dict[str, Upstream] = {}
    for task, state, output, error in json.loads(claim.upstream) if claim.upstream else ():
        info = None if error is None else ErrorInfo.model_validate(error)
        found[task] = Upstream(AgentRunState(state), output, info)
    return found
