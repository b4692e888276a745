"""The orchestrator's step: decide what is ready and not decided yet, then publish. Short and idempotent.

There is no other way to enqueue work: submit, the end of a stage, a wake-up and the sweep all come here. Decisions are
made in the database under the run's lock and published after the commit; what a crash leaves unpublished shows there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.broker.message import TaskMessage
from orchestrator.broker.publisher import Publisher
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.run import AgentRunState, ErrorInfo, RunState
from orchestrator.errors import NightfleetError, OutputInvalid, ServiceUnavailable
from orchestrator.failpoints import failpoint
from orchestrator.planning.canvas import compose, messages_of, signature_of
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream
from orchestrator.planning.settling import Settled, settle
from orchestrator.store.agent_runs import count_down
from orchestrator.store.compensation import end_run
from orchestrator.store.database import Session
from orchestrator.store.store import Store


@dataclass(slots=True)
class _Decided:
    """What the decisions of one transaction have brought about."""

    plan: Plan
    released: list[Dispatch] = field(default_factory=list[Dispatch])
    ended: RunState | None = None


class Advancer:
    """Moves runs on: `advance` decides and publishes, `publish` sends what a transaction has released."""

    def __init__(self, store: Store, publisher: Publisher, *, limit_bytes: int = sys.maxsize) -> None:
        self._store = store
        self._publisher = publisher
        #: Of an output that is put together here.
        self._limit_bytes = limit_bytes
        #: Hears of each run that a decision or a repair of this process has ended.
        self.on_run_ended: Callable[[str, RunState], None] = lambda _id, _state: None

    def advance(self, run_id: str) -> None:
        """Take every decision of a run that is due (conditions, what they skip) and publish what that releases."""
        failpoint("before_decision")
        decided = self._store.database.transact(lambda session: self._decide(session, run_id))
        if decided is None:
            return
        failpoint("after_decision")
        if decided.ended is not None:
            self.on_run_ended(run_id, decided.ended)
        self.publish(decided.plan, run_id, decided.released)

    def publish(self, plan: Plan, run_id: str, released: Sequence[Dispatch], parent_id: str | None = None) -> None:
        """Publish agent runs of one run as canvas.

        A broker that is away costs time, not work: they stay in the database as unpublished, for the sweep.
        """
        if released:
            failpoint("after_commit_before_publish")
            canvases = compose(plan, run_id, released)
            self.send([message for canvas in canvases for message in messages_of(canvas, parent_id)])

    def republish(self, dispatches: Iterable[Dispatch]) -> bool:
        """Publish single agent runs of any runs again: retries, takeovers, lost messages. False: the broker is away."""
        messages = [message for dispatch in dispatches for message in messages_of(signature_of(dispatch))]
        if messages:
            failpoint("before_republish")
        return self.send(messages)

    def send(self, messages: Sequence[TaskMessage]) -> bool:
        """Hand messages to the publisher, which reports what it could not send. False: the broker is away."""
        try:
            self._publisher.publish(messages)
        except ServiceUnavailable:
            # `on_lost` has marked them; the sweep sends them when the broker is back.
            return False
        return True

    # Decisions --------------------------------------------------------------------------------------------------------

    def _decide(self, session: Session, run_id: str) -> _Decided | None:
        row = session.row("run_for_advance", run_id=run_id)
        if row is None:
            return None
        plan, run_input = self._store.runs.plan_in(session, row[0]), json.loads(row[1])
        decided = _Decided(plan)
        todo = [position for _, position in session.rows("gated_ready", run_id=run_id)]
        while todo:
            position = todo.pop(0)
            upstream = _upstream(session, run_id)
            verdict = self._verdict(plan, position, run_input, upstream)
            if isinstance(verdict, NightfleetError):
                state = _fail_run(session, plan, run_id, position, verdict)
                return _Decided(plan, ended=state if state.final else None)
            if verdict is True:
                decided.released.extend(_queue(session, plan, run_id, position))
            else:
                output = verdict if isinstance(verdict, str) else None
                todo.extend(_end(session, run_id, position, decided, output))
        return decided

    def _verdict(
        self, plan: Plan, position: int, run_input: Any, upstream: dict[str, Upstream]
    ) -> bool | str | NightfleetError:
        """Decide a task whose predecessors are final: whether it runs, or what it gives as JSON text if nobody has to run it.

        An error is what cannot be decided.
        """
        try:
            verdict = settle(plan, position, run_input, upstream)
            if not isinstance(verdict, Settled):
                return verdict
            is_output = position == plan.output_position
            what = "the output of the workflow" if is_output else f"the output of task {plan.tasks[position].id!r}"
            return dump(verdict.output, what=what, limit_bytes=self._limit_bytes, error=OutputInvalid)
        except NightfleetError as error:
            return error


def _queue(session: Session, plan: Plan, run_id: str, position: int) -> list[Dispatch]:
    row = session.row("release_row", id=plan.id_at(run_id, position), decided=True)
    return [] if row is None else [Dispatch(row[0], row[2], row[4], row[3])]


def _end(session: Session, run_id: str, position: int, decided: _Decided, output: str | None) -> list[int]:
    """Skip a task, or end it with an output; gives the positions that have become ready to be decided by that."""
    plan = decided.plan
    identity = plan.id_at(run_id, position)
    done = (
        session.run("skip_row", id=identity)
        if output is None
        else session.run("settle_row", id=identity, output=output)
    )
    if done != 1:
        return []
    undecided: list[int] = []
    plain: list[str] = []
    for after in plan.successors[position]:
        counted = session.row("count_down", id=plan.id_at(run_id, after)) if after in plan.countdowns else (0,)
        if counted is not None and counted[0] == 0:
            # Also one without a condition is decided here: it is skipped if everything before it was.
            undecided.append(after)
    if not plan.successors[position]:
        plain.append(run_id)
    finished = count_down(session, run_id, plain)
    decided.released.extend(finished.released)
    if finished.ended:
        decided.ended = RunState.SUCCEEDED
    return undecided


def _fail_run(session: Session, plan: Plan, run_id: str, position: int, error: NightfleetError) -> RunState:
    task = plan.tasks[position].id
    info = ErrorInfo(code=error.code, message=error.message, retryable=False, task=task).model_dump_json()
    session.run("fail_undecided", id=plan.id_at(run_id, position), error=info)
    return end_run(session, plan, run_id, RunState.FAILED, info)


def _upstream(session: Session, run_id: str) -> dict[str, Upstream]:
    return {
        task: Upstream(AgentRunState(state), None if output is None else json.loads(output), error_info(error))
        for task, state, output, error in session.rows("run_upstream", run_id=run_id)
    }


def error_info(text: str | None) -> ErrorInfo | None:
    """Decode a stored error."""
    return None if text is None else ErrorInfo.model_validate_json(text)
