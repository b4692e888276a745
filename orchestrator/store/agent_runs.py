"""Agent runs: claim, finish, put back, release. Every write names the epoch of the claim that makes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import run_id_of
from orchestrator.contracts.dispatch import Dispatch, queue_of
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.usage import Usage
from orchestrator.planning.frontier import Plan
from orchestrator.store.database import Database, Session


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to execute an agent run until another claim has a higher `epoch`.

    `run_input` and `upstream` are JSON text, decoded by whoever needs them; `upstream` is a list of
    `[task, state, output, error]`, in topological order, None for a first task.
    """

    id: str
    task: str
    position: int
    agent: str
    epoch: int
    failures: int
    crashes: int
    workflow_id: str
    tenant_id: str
    run_input: str
    upstream: str | None

    @property
    def run_id(self) -> str:
        return run_id_of(self.id)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an agent run ended: `output` and `error` are JSON text, as they will be stored."""

    state: AgentRunState
    output: str | None = None
    error: str | None = None
    usage: Usage | None = None
    model: str | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "output": self.output,
            "error": self.error,
            "usage": None if self.usage is None else self.usage.model_dump_json(exclude_defaults=True),
            "model": self.model,
            "failed": int(self.state is AgentRunState.FAILED),
        }


@dataclass(frozen=True, slots=True)
class Finish:
    """What the end of an agent run set free. `undecided` says that a condition waits for `advance`."""

    ended: bool
    undecided: bool
    released: tuple[Dispatch, ...]


class AgentRuns:
    """The aggregate of one agent run; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_statement = database.dialect == "postgresql"

    def claim(self, agent_run_id: str, worker_id: str) -> Claim | None:
        """Take a queued, due agent run: exactly one claim of an epoch succeeds. None: there is nothing to do."""
        keys = {"id": agent_run_id, "run_id": run_id_of(agent_run_id), "worker_id": worker_id}
        if self._one_statement:
            row = self._database.execute(lambda session: session.row("claim", **keys))
        else:
            row = self._database.transact(lambda session: self._claim_in_steps(session, keys))
        if row is None:
            return None
        task, position, agent, epoch, failures, crashes, workflow_id, tenant_id, run_input, upstream = row
        return Claim(
            agent_run_id, task, position, agent, epoch, failures, crashes, workflow_id, tenant_id, run_input, upstream
        )

    def finish(self, claim: Claim, plan: Plan, outcome: Outcome) -> Finish | None:
        """Store the outcome, join and release successors, end the run: all of it or, with a lost claim, None.

        A failure that is finished so is one that the workflow lives with (`on_error: continue`).
        """
        keys: dict[str, Any] = {"id": claim.id, "run_id": claim.run_id, "epoch": claim.epoch, **outcome.parameters()}
        waiting = plan.waiting_on(claim.run_id, claim.position)
        if not self._one_statement:
            return self._database.transact(lambda session: self._finish_in_steps(session, plan, keys, waiting))
        rows = self._database.execute(lambda session: session.rows("finish", waiting=waiting, **keys))
        if not rows:
            return None
        released = tuple(
            Dispatch(row[2], row[4], plan.tasks[row[3]].agent, row[5]) for row in rows if row[2] is not None
        )
        return Finish(ended=bool(rows[0][0]), undecided=bool(rows[0][1]), released=released)

    def requeue(
        self, claim: Claim, *, delay_seconds: float, error: str | None, failed: bool, agent: str | None = None
    ) -> bool:
        """Put a claimed agent run back, due after a delay and not yet published; false when the claim was lost.

        `agent` hands it to another agent from now on (a fallback), which starts without failures.
        """
        count = self._database.execute(
            lambda session: session.run(
                "requeue",
                id=claim.id,
                run_id=claim.run_id,
                epoch=claim.epoch,
                delay=float(delay_seconds),
                error=error,
                failed=int(failed),
                agent=agent,
                queue=None if agent is None else queue_of(agent),
            )
        )
        return count == 1

    def unpublished(self, dispatches: Iterable[Dispatch]) -> None:
        """Note that publications failed: the sweep publishes these rows again as soon as it can."""
        listed = sorted(dispatches, key=lambda dispatch: dispatch.id)

        def work(session: Session) -> None:
            for dispatch in listed:
                session.run("unpublished", id=dispatch.id, dispatch=dispatch.number)

        self._database.transact(work)

    def still_held(self, claim: Claim) -> bool:
        """Tell whether the claim is the current one."""
        held = self._database.execute(lambda session: session.row("claim_still_held", id=claim.id, epoch=claim.epoch))
        return held is not None

    def ended_as(self, claim: Claim) -> AgentRunState | None:
        """Tell how this very claim ended, None if it has not or another one has taken over."""
        row = self._database.execute(lambda session: session.row("outcome_of", id=claim.id, epoch=claim.epoch))
        state = AgentRunState(row[0]) if row else None
        return state if state is not None and state.final else None

    def queued_after(self, claim: Claim, plan: Plan) -> tuple[Dispatch, ...]:
        """Give the successors that are queued: what to publish when a completion got no answer but was made."""

        def work(session: Session) -> list[Dispatch]:
            found: list[Dispatch] = []
            for position in plan.successors[claim.position]:
                identity = plan.id_at(claim.run_id, position)
                row = session.row("queued_among", id=identity, run_id=claim.run_id)
                if row is not None:
                    found.append(Dispatch(row[0], row[2], plan.tasks[row[1]].agent, row[3]))
            return found

        return tuple(self._database.transact(work))

    def peek(self, agent_run_id: str) -> tuple[Any, ...] | None:
        """Give (state, output, error, finished_at, epoch, dispatch) of an agent run, JSON as text; None if there is none."""
        return self._database.execute(lambda session: session.row("agent_run_state", id=agent_run_id))

    def _claim_in_steps(self, session: Session, keys: dict[str, str]) -> tuple[Any, ...] | None:
        session.run("start_run", id=keys["id"], run_id=keys["run_id"])
        row = session.row("claim_row", id=keys["id"], worker_id=keys["worker_id"])
        context = session.row("claim_context", run_id=keys["run_id"])
        if row is None or context is None:
            return None
        upstream = None
        if json.loads(row[6]):
            parts = session.rows("upstream", ids=row[6])
            upstream = "[" + ",".join(_upstream_json(*part) for part in parts) + "]"
        return (*row[:6], *context, upstream)

    def _finish_in_steps(
        self, session: Session, plan: Plan, keys: dict[str, Any], waiting: Sequence[str]
    ) -> Finish | None:
        if session.row("lock_active_run", run_id=keys["run_id"]) is None:
            return None
        own = {key: value for key, value in keys.items() if key != "run_id"}
        if session.run("finish_row", **own) != 1:
            return None
        return count_down(session, plan, keys["run_id"], waiting)


def count_down(session: Session, plan: Plan, run_id: str, waiting: Sequence[str]) -> Finish:
    """Bring each of `waiting` nearer by one, inside a transaction: release what waits for nothing more, end the run.

    The decrement that shows 0 is the decision, and nobody else sees that 0.
    """
    released: list[Dispatch] = []
    ended = undecided = False
    for identity in sorted(waiting):
        counted = session.row("count_down", id=identity)
        if counted is not None and counted[0] > 0:
            continue
        if identity == run_id:
            ended = session.run("end_run", run_id=run_id) == 1
            continue
        row = session.row("release_row", id=identity, decided=False)
        if row is None:
            undecided = True
        else:
            released.append(Dispatch(row[0], row[2], plan.tasks[row[1]].agent, row[3]))
    return Finish(ended=ended, undecided=undecided, released=tuple(released))


def _upstream_json(task: str, state: str, output: str | None, error: str | None) -> str:
    return f"[{json.dumps(task)},{json.dumps(state)},{output or 'null'},{error or 'null'}]"
