"""Runs: created whole or not at all, cancelled, failed, retried, read."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, queue_of
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import RunNotFound, RunStateConflict
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim, Outcome
from orchestrator.store.creation import Created, Creation, NewRun, Place, database_now, first_uses
from orchestrator.store.database import Database, Session
from orchestrator.store.defaults import DEFAULT_TENANT_ID

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Runs:
    """The aggregate of a run; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._projects: dict[str, str] = {}
        self._workflows: dict[str, str] = {}
        self._plans: dict[str, Plan] = {}
        self._lock = threading.Lock()

    # Creation -------------------------------------------------------------------------------------------------------

    def create(self, plan: Plan, runs: Sequence[NewRun], *, project: str) -> Created:
        """Insert runs of one workflow with all their agent runs, in one transaction, marked as published.

        A run whose idempotency key was used before is not inserted: its id is the first one's. Raises
        `IdempotencyConflict` (and inserts nothing) when the key was used with another workflow or input.
        """
        place = self.place(plan, project)

        def work(session: Session) -> Created:
            return Creation(plan, place, database_now(session)).insert(session, runs, first_uses(session, place, runs))

        return self._database.transact(work)

    def place(self, plan: Plan, project: str) -> Place:
        """Give where runs of a workflow and a project belong; either is stored at its first use, in a transaction of its own."""
        return Place(self._project_id(project), self._workflow_id(plan.workflow))

    def _project_id(self, name: str) -> str:
        found = self._projects.get(name)
        if found is None:

            def work(session: Session) -> str:
                row = session.row("find_project", name=name, tenant_id=DEFAULT_TENANT_ID)
                if row is None:
                    session.run("add_project", id=ids.new(), tenant_id=DEFAULT_TENANT_ID, name=name)
                    row = session.row("find_project", name=name, tenant_id=DEFAULT_TENANT_ID)
                return str(_only(row))

            found = self._projects[name] = self._database.transact(work)
        return found

    def _workflow_id(self, workflow: WorkflowDefinition) -> str:
        found = self._workflows.get(workflow.digest)
        if found is None:
            keys = {"tenant_id": DEFAULT_TENANT_ID, "digest": workflow.digest}

            def work(session: Session) -> str:
                row = session.row("find_workflow", **keys)
                if row is None:
                    session.run("add_workflow", id=ids.new(), name=workflow.name, definition=workflow.canonical, **keys)
                    row = session.row("find_workflow", **keys)
                return str(_only(row))

            found = self._workflows[workflow.digest] = self._database.transact(work)
        return found

    def plan(self, workflow_id: str) -> Plan:
        """Give the plan of a stored workflow; definitions never change, so it is read once per process."""
        found = self._plans.get(workflow_id)
        if found is None:
            found = self._database.execute(lambda session: self.plan_in(session, workflow_id))
        return found

    def plan_in(self, session: Session, workflow_id: str) -> Plan:
        """Give the same inside a transaction: one that asks for a second connection waits for ever in a busy pool."""
        found = self._plans.get(workflow_id)
        if found is None:
            text = _only(session.row("workflow_definition", id=workflow_id))
            with self._lock:
                if len(self._plans) >= 512:
                    self._plans.clear()
                found = self._plans[workflow_id] = Plan(WorkflowDefinition.model_validate_json(text))
        return found

    # Endings and new beginnings ----------------------------------------------------------------------------------------

    def fail(self, claim: Claim, outcome: Outcome) -> bool:
        """End an agent run and its whole run as failed; what else is open is cancelled. False when the claim was lost."""

        def work(session: Session) -> bool:
            if not _lock_open(session, claim.run_id):
                return False
            parameters = outcome.parameters()
            del parameters["state"], parameters["output"]
            if session.run("fail_row", id=claim.id, epoch=claim.epoch, **parameters) != 1:
                return False
            _end(session, claim.run_id, RunState.FAILED, outcome.error)
            return True

        return self._database.transact(work)

    def cancel(self, run_id: str, if_so: Callable[[Session], bool] = lambda _: True) -> bool:
        """End a run as cancelled, with everything that is open; false when it had ended already.

        `if_so` is asked when nobody else can change the run any more; if it says no, nothing is done.
        """
        _check_id(run_id)

        def work(session: Session) -> bool:
            if not _lock_open(session, run_id) or not if_so(session):
                return False
            _end(session, run_id, RunState.CANCELLED, None)
            return True

        return self._database.transact(work)

    def reopen(self, run_id: str) -> tuple[Dispatch, ...]:
        """Open a failed or cancelled run again: what succeeded stays, the rest starts anew. Gives what is ready.

        Raises `RunNotFound`, and `RunStateConflict` for a run that is open or has succeeded.
        """
        _check_id(run_id)

        def work(session: Session) -> tuple[Dispatch, ...]:
            row = session.row("lock_run", run_id=run_id)
            if row is None:
                raise not_found(run_id)
            if row[0] not in {RunState.FAILED, RunState.CANCELLED}:
                raise RunStateConflict(f"run {run_id} is {row[0]}: only a failed or cancelled run can be retried")
            plan = self.plan_in(session, row[1])
            session.run("set_run_state", run_id=run_id, state=RunState.PENDING.value, error=None)
            return _reopen_rows(session, plan, run_id)

        return self._database.transact(work)

    # Reading ----------------------------------------------------------------------------------------------------------

    def head(self, run_id: str) -> tuple[Any, ...]:
        """Give the run's own row (see `run_head`); raises `RunNotFound`."""
        _check_id(run_id)
        row = self._database.execute(lambda session: session.row("run_head", run_id=run_id))
        if row is None:
            raise not_found(run_id)
        return row

    def parts(self, run_id: str) -> list[tuple[Any, ...]]:
        """Give the rows of its agent runs (see `run_parts`), in topological order."""
        return self._database.execute(lambda session: session.rows("run_parts", run_id=run_id))

    def state(self, run_id: str) -> RunState:
        """Give the run's state; raises `RunNotFound`."""
        _check_id(run_id)
        row = self._database.execute(lambda session: session.row("run_pulse", run_id=run_id))
        if row is None:
            raise not_found(run_id)
        return RunState(row[0])

    def states_of(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """Give the states of those of the runs that exist."""
        rows = self._database.execute(lambda session: session.rows("runs_pulse", ids=list(run_ids)))
        return {row[0]: RunState(row[1]) for row in rows}

    def states(self, run_id: str) -> list[tuple[Any, ...]]:
        """Give (position, task, agent, state, epoch, error, at) of its agent runs."""
        return self._database.execute(lambda session: session.rows("run_states", run_id=run_id))

    def unfinished(self) -> list[str]:
        """Give the ids of all open runs, oldest first."""
        return [row[0] for row in self._database.execute(lambda session: session.rows("unfinished_runs"))]

    def add_event(self, run_id: str, tenant_id: str, task: str, message: str, data: str | None) -> None:
        """Append a progress line to the stream of a run; `data` is JSON text."""
        self._database.execute(
            lambda session: session.run(
                "add_event", id=ids.new(), tenant_id=tenant_id, run_id=run_id, task=task, message=message, data=data
            )
        )

    def events_after(self, run_id: str, after: str) -> list[tuple[Any, ...]]:
        """Give up to 1,000 progress lines (id, task, message, data, created_at) behind the one with id `after`."""
        return self._database.execute(lambda session: session.rows("events_after", run_id=run_id, after=after))


def _check_id(run_id: str) -> None:
    # Postgres would refuse the text as no UUID, SQLite would find nothing.
    if not _ID.fullmatch(run_id):
        raise not_found(run_id)


def not_found(run_id: str) -> RunNotFound:
    """Make the error for a run that is not there."""
    return RunNotFound(f"there is no run {run_id} in this database; `nightfleet runs` lists them")


def _reopen_rows(session: Session, plan: Plan, run_id: str) -> tuple[Dispatch, ...]:
    rows = {row[1]: (row[0], AgentRunState(row[3])) for row in session.rows("rows_for_retry", run_id=run_id)}
    done = {position for position, (_, state) in rows.items() if state is AgentRunState.SUCCEEDED}
    for position in reversed(range(len(plan.tasks))):
        # What failed or was skipped before tasks that have all succeeded without it is settled too.
        if plan.successors[position] and done.issuperset(plan.successors[position]):
            done.add(position)
    ready: list[Dispatch] = []
    for position, (identity, _) in rows.items():
        missing = sum(1 for index in plan.predecessors[position] if index not in done)
        if position in plan.countdowns:
            session.run("set_countdown", id=identity, remaining=missing)
        if position in done:
            continue
        state = AgentRunState.QUEUED if not missing and not plan.gated[position] else AgentRunState.BLOCKED
        agent = plan.tasks[position].agent
        row = session.row("reopen_row", id=identity, state=state.value, agent=agent, queue=queue_of(agent))
        if state is AgentRunState.QUEUED and row is not None:
            ready.append(Dispatch(row[0], row[2], agent, row[3]))
    session.run("set_countdown", id=run_id, remaining=sum(1 for index in plan.ends if index not in done))
    return tuple(ready)


def _lock_open(session: Session, run_id: str) -> bool:
    row = session.row("lock_run", run_id=run_id)
    if row is None:
        raise not_found(run_id)
    return not RunState(row[0]).final


def _end(session: Session, run_id: str, state: RunState, error: str | None) -> None:
    session.run("cancel_open", run_id=run_id)
    session.run("set_run_state", run_id=run_id, state=state.value, error=error)


def _only(row: tuple[Any, ...] | None) -> Any:
    if row is None:
        raise LookupError("a row that must exist is not there")
    return row[0]


def parse(text: str | None) -> Any:
    """Decode stored JSON text; None stays None."""
    return None if text is None else json.loads(text)
