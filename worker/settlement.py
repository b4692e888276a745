"""What is recorded of an agent run that has ended, failed or died, and what is published because of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.advance import Advancer
from orchestrator.clock import system_clock
from orchestrator.contracts.lineage import parent_task
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.workflow import Fallback
from orchestrator.errors import AgentCrashed, ClaimLost, NightfleetError
from orchestrator.failpoints import failpoint
from orchestrator.observability.logging import get_logger
from orchestrator.observability.redact import Redact
from orchestrator.planning.canvas import uncarried
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Finish, Outcome
from orchestrator.store.compensation import finish_undo
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.store import Store
from worker.effects.patience import patiently
from worker.effects.said import masked
from worker.effects.scopes import Suspended
from worker.execution import Done, Execution, Failed, Ignored, Retrying, Verdict
from worker.isolation.processes import ForkServerLost
from worker.meter import Meter
from worker.suspension import suspend

log = get_logger("nightfleet.worker")

#: How long an agent run waits whose worker could start no process for it.
_PUT_BACK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """Takes an execution from its outcome to its next recorded state: one transaction, fenced by the claim."""

    store: Store
    advancer: Advancer
    settings: Settings
    meter: Meter
    redact: Redact
    #: Tells callers of a run that are running to look, by id and task.
    tell_callers: Callable[[str, Mapping[str, str]], None]
    worker_id: str

    def death(self, execution: Execution, how: str) -> Verdict:
        """Charge an agent run with the end of its own process; the last one that it may have ends the agent run."""
        claim = execution.claim
        crashes = claim.crashes + 1
        died = f"its process ended without an outcome while it ran alone in it: {how}"
        if crashes < self.settings.max_crashes:
            log.warning("died alone, will be tried again", how=how, crashes=crashes)
            orphan = Orphan(claim.id, claim.run_id, claim.epoch, claim.crashes, self.worker_id)
            released = self._patiently(lambda: self.store.repairs.release(orphan, Loss.DIED_ALONE) or None)
            return Retrying(AgentCrashed(died), 0.0) if released else Ignored()
        if self._patiently(lambda: self.store.agent_runs.charge_crash(claim) or None) is None:
            return Ignored()
        times = "once" if crashes == 1 else f"{crashes} times"
        return self.failure(
            execution,
            AgentCrashed(
                f"{died}; that was {times}, and it is not tried again (NIGHTFLEET_MAX_CRASHES) before "
                "`nightfleet runs dead redrive`"
            ),
        )

    def put_back(self, execution: Execution, lost: ForkServerLost) -> Verdict:
        """Put an agent run back that could not be isolated: nobody knows anything against it."""
        log.error("no process of its own, will be tried again", error=lost.message)
        info = ErrorInfo(code=lost.code, message=lost.message, retryable=True, task=execution.task.id)
        return self._requeue(
            execution,
            Retrying(lost, _PUT_BACK_SECONDS),
            info.model_dump_json(),
            delay_seconds=_PUT_BACK_SECONDS,
            failed=False,
        )

    def success(self, execution: Execution, output: str, carries: frozenset[str]) -> Verdict:
        """Store the output and publish what it released, but for what the request carries."""
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

    def failure(self, execution: Execution, error: NightfleetError) -> Verdict:
        """Store a failure: as a retry, for a fallback, or for good."""
        claim, task, account = execution.claim, execution.task, execution.account
        error = masked(error, self.redact)
        info = ErrorInfo.model_validate({**error.to_data(), "task": task.id}).model_dump_json()
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
        failpoint("before_failure")
        crashed = isinstance(error, AgentCrashed)
        outcome = Outcome(AgentRunState.FAILED, None, info, account.usage, account.answered_by, crashed)
        if claim.parent_id is not None or task.on_error == "continue":
            finished = self._patiently(lambda: self._finish(execution, outcome))
            if finished is None:
                return Ignored()
            failpoint("after_failure")
            self._count_end(execution, finished)
            # The task has not returned normally, so Celery publishes nothing of what its request carries.
            self.advancer.publish(execution.plan, claim.run_id, finished.released)
            if finished.undecided:
                self.advancer.advance(claim.run_id)
            return Failed(error)
        ended = self._patiently(lambda: self.store.runs.fail(claim, outcome) or None)
        if not ended:
            return Ignored()
        failpoint("after_failure")
        if ended.final:
            self.meter.run_ended(claim.run_id, ended)
        else:
            self.advancer.republish(self.store.repairs.take_due([claim.run_id]))  # what is to be undone first
        return Failed(error)

    def wait(self, execution: Execution, suspended: Suspended) -> Verdict:
        """Suspend an agent run until it is woken."""
        verdict = self._patiently(lambda: suspend(self.store.waits, execution, suspended))
        if verdict is None:
            return Ignored()
        log.info("suspended", reason=verdict.reason)
        if verdict.again is not None:
            self.advancer.republish([verdict.again])
        return verdict

    def _count_end(self, execution: Execution, finished: Finish) -> None:
        claim = execution.claim
        if finished.ended:
            self.meter.run_ended(claim.run_id, finished.state)
        if finished.callers:
            self.tell_callers(claim.run_id, dict.fromkeys(finished.callers, parent_task(claim.task) or claim.task))

    def _requeue(self, execution: Execution, verdict: Retrying, info: str, **how: Any) -> Verdict:
        failpoint("before_requeue")
        queued = self._patiently(lambda: self.store.agent_runs.requeue(execution.claim, error=info, **how) or None)
        failpoint("after_requeue")
        return verdict if queued else Ignored()

    def _finish(self, execution: Execution, outcome: Outcome) -> Finish | None:
        claim, plan, asked = execution.claim, execution.plan, execution.has_subwork
        if plan.undo_at(claim.position) is not None:
            return finish_undo(self.store.database, claim, plan, outcome, asked=asked)
        if claim.parent_id is not None:
            finished = self.store.subwork.finish(claim, outcome, asked=asked)
        elif asked:
            finished = self.store.subwork.finish_caller(claim, plan, outcome)
        else:
            finished = self.store.agent_runs.finish(claim, plan, outcome)
        if finished is None and self.store.agent_runs.ended_as(claim) is outcome.state:
            # An earlier try got no answer but was made: what it released nobody has published.
            if claim.parent_id is not None:
                return Finish(ended=False, undecided=False, released=self.store.subwork.queued_around(claim))
            released = self.store.agent_runs.queued_after(claim, plan)
            return Finish(ended=False, undecided=True, released=released)
        return finished

    def _patiently(self, write: Any) -> Any:
        """Write an outcome, again and again while the database is away, for as long as the lease can be ours."""
        try:
            # After that the row stays ours until a beat, or another worker's sweep, finds that nobody executes it.
            return patiently(write, self.settings.lease_ttl.total_seconds(), threading.Event().wait)
        except ClaimLost:
            return None
