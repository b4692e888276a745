"""Runs: created whole or not at all, cancelled, failed, retried, read."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, queue_of
from orchestrator.contracts.mail import RUNTIME
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import RunNotFound, RunStateConflict
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim, Outcome
from orchestrator.store.compensation import abandon_undoing, end_run, undo_again
from orchestrator.store.creation import (
    Created,
    Creation,
    NewRun,
    Place,
    database_now,
    first_uses,
    is_without_definition,
)
from orchestrator.store.database import Database, Session, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.subwork_steps import forget_others

T = TypeVar("T")

#: How often a definition may be deleted between our look and our insert; a new one is not deleted for an hour.
_PLACES = 2

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Overdue:
    """An open run whose deadline has passed."""

    id: str
    created_at: datetime | None
    deadline_at: datetime | None


class Head(NamedTuple):
    """A run's own row, as the database gives it (see `run_head`)."""

    id: str
    project: str
    workflow: str
    state: str
    input: Any
    error: Any
    created_at: Any
    started_at: Any
    finished_at: Any
    workflow_id: str
    ending: Any
    deadline_at: Any
    forked_from: str | None
    user: str | None
    variant: str | None


class Runs:
    """The aggregate of a run; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._projects: dict[str, str] = {}
        self._names: dict[str, tuple[str, str]] = {}
        self._workflows: dict[str, str] = {}
        self._plans: dict[str, Plan] = {}
        self._lock = threading.Lock()

    # Creation -------------------------------------------------------------------------------------------------------

    def create(self, plan: Plan, runs: Sequence[NewRun], *, project: str) -> Created:
        """Insert runs of one workflow with all their agent runs, in one transaction, marked as published.

        A run whose idempotency key was used before is not inserted: its id is the first one's. Raises
        `IdempotencyConflict` (and inserts nothing) when the key was used with another workflow or input.
        """

        def insert(place: Place) -> Created:
            def work(session: Session) -> Created:
                creation = Creation(plan, place, database_now(session))
                return creation.insert(session, runs, first_uses(session, place, runs))

            return self._database.transact(work)

        return self.placed(plan, project, insert)

    def placed(self, plan: Plan, project: str, insert: Callable[[Place], T]) -> T:
        """Insert what belongs to a workflow and a project; again if retention has deleted the definition since we saw it."""
        for _ in range(_PLACES):
            try:
                return insert(self.place(plan, project))
            except Exception as error:
                if not is_without_definition(error):
                    raise
                self._workflows.pop(plan.workflow.digest, None)
        return insert(self.place(plan, project))

    def place(self, plan: Plan, project: str) -> Place:
        """Give where runs of a workflow and a project belong; either is stored at its first use, in a transaction of its own."""
        return Place(self._project_id(project), self._workflow_id(plan.workflow))

    def make_project(self, name: str) -> None:
        """Make sure that a project is there."""
        self._project_id(name)

    def find_project(self, name: str) -> str | None:
        """Give the id of a project, None if there is none of this name."""
        row = self._database.execute(
            lambda session: session.row("find_project", name=name, tenant_id=DEFAULT_TENANT_ID)
        )
        return None if row is None else str(row[0])

    def names_of(self, project_id: str) -> tuple[str, str]:
        """Give the names of a project's tenant and of the project; they never change."""
        found = self._names.get(project_id)
        if found is None:
            row = self._database.execute(lambda session: session.row("project_names", id=project_id))
            found = self._names[project_id] = ("", "") if row is None else (str(row[0]), str(row[1]))
        return found

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

    def shed(self) -> None:
        """Forget what is known of workflows: it is read again when it is needed."""
        with self._lock:
            self._plans.clear()
            self._workflows.clear()

    def plan_in(self, session: Session, workflow_id: str) -> Plan:
        """Give the same inside a transaction: one that asks for a second connection waits for ever in a busy pool."""
        found = self._plans.get(workflow_id)
        if found is None:
            row = session.row("workflow_definition", id=workflow_id)
            definition = WorkflowDefinition.stored(_only(row), str(row[1]) if row else "")
            with self._lock:
                if len(self._plans) >= 512:
                    self._plans.clear()
                found = self._plans[workflow_id] = Plan(definition)
        return found

    # Endings and new beginnings ----------------------------------------------------------------------------------------

    def fail(self, claim: Claim, outcome: Outcome) -> RunState | None:
        """End an agent run and its whole run as failed; what else is open is cancelled. None when the claim was lost.

        Gives the run's state: `running` while what it did is undone.
        """

        def work(session: Session) -> RunState | None:
            workflow_id = _lock_open(session, claim.run_id)
            if workflow_id is None:
                return None
            parameters = outcome.parameters()
            del parameters["state"], parameters["output"]
            if session.run("fail_row", id=claim.id, epoch=claim.epoch, **parameters) != 1:
                return None
            plan = self.plan_in(session, workflow_id)
            return end_run(session, plan, claim.run_id, RunState.FAILED, outcome.error)

        return self._database.transact(work)

    def cancel(self, run_id: str, if_so: Callable[[Session], bool] = lambda _: True) -> bool:
        """End a run as cancelled, with everything that is open; false when it had ended already.

        Where it did what can be undone, it ends after that; it counts as ended from now on. `if_so` is asked when nobody
        else can change the run any more; if it says no, nothing is done.
        """
        check_id(run_id)

        def work(session: Session) -> bool:
            workflow_id = _lock_open(session, run_id)
            if workflow_id is None or not if_so(session):
                return False
            end_run(session, self.plan_in(session, workflow_id), run_id, RunState.CANCELLED, None)
            return True

        return self._database.transact(work)

    def overdue(self) -> list[Overdue]:
        """Give up to 100 open runs whose deadline has passed, the first one first."""
        rows = self._database.execute(lambda session: session.rows("overdue_runs"))
        return [Overdue(row[0], times(row[1]), times(row[2])) for row in rows]

    def expire(self, run_id: str, error: str) -> RunState | None:
        """End a run whose deadline has passed as failed, with everything that is open; None if that is not so any more.

        Gives the run's state: `running` while what it did is undone.
        """

        def work(session: Session) -> RunState | None:
            row = session.row("lock_overdue", run_id=run_id)
            if row is None:
                return None
            return end_run(session, self.plan_in(session, row[0]), run_id, RunState.FAILED, error)

        return self._database.transact(work)

    def abandon(self, run_id: str) -> bool:
        """End a run that is being undone, at once: what is not undone stays as it is. False for every other run."""
        check_id(run_id)
        return self._database.transact(lambda session: abandon_undoing(session, run_id))

    def reopen(self, run_id: str, also: Callable[[Session], None] | None = None) -> tuple[Dispatch, ...]:
        """Open a failed or cancelled run again: what succeeded stays, the rest starts anew. Gives what is ready.

        Of a run that was undone only compensations that failed start anew; one that was undone whole is not opened. `also`
        is done in the same transaction, before anything is queued; what it raises leaves the run as it is.
        Raises `RunNotFound`, and `RunStateConflict` for what cannot be opened.
        """
        check_id(run_id)

        def work(session: Session) -> tuple[Dispatch, ...]:
            row = session.row("lock_run", run_id=run_id)
            if row is None:
                raise not_found(run_id)
            if row[0] not in {RunState.FAILED, RunState.CANCELLED}:
                raise RunStateConflict(f"run {run_id} is {row[0]}: only a failed or cancelled run can be retried")
            plan = self.plan_in(session, row[1])
            session.run("mail_unsay", run_id=run_id, runtime=RUNTIME)
            if also is not None:
                also(session)
            ready = _reopen_rows(session, plan, run_id) if row[2] is None else undo_again(session, plan, run_id)
            session.run("set_run_state", run_id=run_id, state=RunState.PENDING.value, error=None)
            return ready

        return self._database.transact(work)

    # Reading ----------------------------------------------------------------------------------------------------------

    def head(self, run_id: str) -> Head:
        """Give the run's own row; raises `RunNotFound`."""
        check_id(run_id)
        row = self._database.execute(lambda session: session.row("run_head", run_id=run_id))
        if row is None:
            raise not_found(run_id)
        return Head(*row)

    def parts(self, run_id: str) -> list[tuple[Any, ...]]:
        """Give the rows of its agent runs (see `run_parts`), in topological order."""
        return self._database.execute(lambda session: session.rows("run_parts", run_id=run_id))

    def state(self, run_id: str) -> RunState:
        """Give the run's state; raises `RunNotFound`."""
        check_id(run_id)
        row = self._database.execute(lambda session: session.row("run_pulse", run_id=run_id))
        if row is None:
            raise not_found(run_id)
        return RunState(row[0])

    def states_of(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """Give the states of those of the runs that exist."""
        rows = self._database.execute(lambda session: session.rows("runs_pulse", ids=list(run_ids)))
        return {row[0]: RunState(row[1]) for row in rows}

    def states(self, run_id: str) -> list[tuple[Any, ...]]:
        """Give (position, task, agent, state, epoch, error, at, waiting_for) of its agent runs."""
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


def check_id(run_id: str) -> None:
    """Raise `RunNotFound` for a text that is no id."""
    # Postgres would refuse the text as no UUID, SQLite would find nothing.
    if not _ID.fullmatch(run_id):
        raise not_found(run_id)


def not_found(run_id: str) -> RunNotFound:
    """Make the error for a run that is not there."""
    return RunNotFound(f"there is no run {run_id} in this database; `nightfleet runs` lists them")


def _reopen_rows(session: Session, plan: Plan, run_id: str) -> tuple[Dispatch, ...]:
    found = session.rows("rows_for_retry", run_id=run_id)
    rows = {row[1]: (row[0], AgentRunState(row[3])) for row in found}
    chosen = {row[1]: row[4] for row in found if row[4] is not None}
    last = {row[1]: row[5] for row in found}
    done = {position for position, (_, state) in rows.items() if state is AgentRunState.SUCCEEDED}
    for position in reversed(range(len(plan.tasks))):
        # What failed or was skipped before tasks that have all succeeded without it is settled too.
        if plan.successors[position] and done.issuperset(plan.successors[position]):
            done.add(position)
    ready: list[Dispatch] = []
    others: list[str] = []
    for position, (identity, _) in rows.items():
        missing = sum(1 for index in plan.predecessors[position] if index not in done)
        if position in plan.countdowns:
            session.run("set_countdown", id=identity, remaining=missing)
        if position in done:
            continue
        state = AgentRunState.QUEUED if not missing and not plan.gated[position] else AgentRunState.BLOCKED
        agent = chosen.get(position, plan.tasks[position].agent)
        if agent != last[position]:
            # What its fallback has recorded would fail the agent of the task itself.
            others.append(identity)
        row = session.row("reopen_row", id=identity, state=state.value, agent=agent, queue=queue_of(agent))
        if state is AgentRunState.QUEUED and row is not None:
            ready.append(Dispatch(row[0], row[2], agent, row[3]))
    forget_others(session, run_id, others)
    session.run("set_countdown", id=run_id, remaining=sum(1 for index in plan.ends if index not in done))
    return tuple(ready)


def _lock_open(session: Session, run_id: str) -> str | None:
    """Hold a run alone and give its workflow's id; None for one that has ended, or only undoes what it did."""
    row = session.row("lock_run", run_id=run_id)
    if row is None:
        raise not_found(run_id)
    state, workflow_id, ending = row
    return None if RunState(state).final or ending is not None else workflow_id


def _only(row: tuple[Any, ...] | None) -> Any:
    if row is None:
        raise LookupError("a row that must exist is not there")
    return row[0]


def parse(text: str | None) -> Any:
    """Decode stored JSON text; None stays None."""
    return None if text is None else json.loads(text)
