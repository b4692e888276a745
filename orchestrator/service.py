"""The use cases: submit, read, watch, cancel, retry. The producer's API and the command line both call these."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.assigning import Assigner
from orchestrator.binding import Binder
from orchestrator.cached_property import cached_property
from orchestrator.clock import Clock, ids, system_clock
from orchestrator.contracts.budget import NOBODY, Charge
from orchestrator.contracts.dispatch import queue_of
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.run import (
    RunFilter,
    RunResult,
    RunState,
    RunSummary,
)
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import (
    InputInvalid,
    RunNotFound,
    ServiceUnavailable,
    UsageError,
)
from orchestrator.failpoints import failpoint
from orchestrator.kernel import Kernel
from orchestrator.planner import Planner
from orchestrator.planning.canvas import compose, messages_of
from orchestrator.planning.files import resolve_workflow
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import run_input_of
from orchestrator.snapshot import snapshot_of
from orchestrator.store.arms import create_arms
from orchestrator.store.creation import Arm, Created, NewRun
from orchestrator.store.database import Session
from orchestrator.store.repairs import TAKEN_AT_ONCE
from orchestrator.store.unsending import unsend
from orchestrator.stream import events_of

if TYPE_CHECKING:
    from orchestrator.contracts.shared import SharedValues
    from orchestrator.messages import Messages
    from orchestrator.questions import Questions
    from orchestrator.store.census import Load

log = logging.getLogger("nightfleet.service")

Workflow = str | WorkflowDefinition | TaskDefinition

_CONFIRM_SECONDS = 30.0


class Service:
    """Everything a producer or an operator can do with one installation; thread-safe."""

    def __init__(self, kernel: Kernel, clock: Clock = system_clock) -> None:
        self.kernel = kernel
        self._store = kernel.store
        self._planner = Planner(kernel, clock)
        self.able = self._planner.able
        self.assigner = Assigner(lambda: self._store.experiments, self._planner.plan, clock)
        self.binder = Binder(self.able, self._loads, clock)

    @cached_property
    def messages(self) -> Messages:
        """What agents are told, and tell each other."""
        from orchestrator.messages import Messages

        return Messages(self.kernel)

    @cached_property
    def questions(self) -> Questions:
        """What agents ask people."""
        from orchestrator.questions import Questions

        return Questions(self.kernel)

    # Submitting -------------------------------------------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - all of it by name
        self,
        workflow: Workflow,
        inputs: Sequence[Any],
        *,
        project: str,
        keys: Sequence[str | None],
        deadline: timedelta | None = None,
        charge: Charge = NOBODY,
        connection: Any = None,
    ) -> list[str]:
        """Create one run for each input, whole or not at all, and publish what is ready; gives the runs' ids.

        With a `connection` they are created in its transaction and published after its commit; see `Enlisted`. All others may
        be given a variant by an experiment.

        Raises before anything is stored: `WorkflowInvalid`, `UnknownAgent`, `InputInvalid`, `ValueTooLarge`,
        `IdempotencyConflict`, `BrokerUnavailable`, `DatabaseUnavailable`. A broker that is lost after that costs time
        only: the sweep publishes.
        """
        plan = self.plan(workflow)
        limit = self.kernel.settings.max_value_bytes
        text = partial(dump, what="the input", limit_bytes=limit, error=InputInvalid)
        runs = [
            NewRun(ids.new(), text(run_input_of(plan.workflow, value)), key, deadline, charge=charge)
            for value, key in zip(inputs, keys, strict=True)
        ]
        if not runs:
            return []
        if connection is not None:
            return self._enlist(plan, runs, project, connection)
        arms = self.binder.bound_arms(self.assigner.arms(plan, project, runs))
        self.kernel.publisher.ensure({queue_of(agent) for arm in arms for agent in arm.agents})
        failpoint("before_submit")
        created = _created(self.kernel, arms, project)
        made: dict[str, str] = {}
        for arm, each in zip(arms, created, strict=True):
            self._publish(arm.plan, each)
            made.update(zip((run.id for run in arm.runs), each.ids, strict=True))
        found = [made[run.id] for run in runs]
        _note_submitted(found, plan, project)
        return found

    def _enlist(self, plan: Plan, runs: Sequence[NewRun], project: str, connection: Any) -> list[str]:
        if self.kernel.settings.embedded:
            raise UsageError(
                "an embedded orchestrator keeps its runs in a file of its own, which no transaction of yours reaches: "
                "submit after your commit, without a connection, or use a fleet"
            )
        from orchestrator.store.enlisted import Enlisted

        caller, runs = Enlisted(self._store.database, connection), self.binder.bound(plan, runs)
        created = self._store.runs.placed(plan, project, lambda place: caller.create(plan, runs, place)).ids
        caller.after_commit(lambda: self.publish(created))
        return list(created)

    def publish(self, run_ids: Sequence[str]) -> None:
        """Publish what of these runs is due and not published; what cannot be published now is left to the sweep."""
        from orchestrator.store.enlisted import undecided

        try:
            while due := self._store.repairs.take_due(run_ids):
                if not self.kernel.advancer.republish(due):
                    return
                if len(due) < TAKEN_AT_ONCE:
                    break
            for run_id in undecided(self._store.database, run_ids):
                self.kernel.publisher.ensure()  # raises: without a broker there is no point in going on
                self.kernel.advancer.advance(run_id)
        except ServiceUnavailable as error:
            log.warning("runs of a transaction are left to the sweep: %s", error.message)

    def publish_committed(self, run_id: str) -> None:
        """Publish a run of a caller's transaction; raises `RunNotFound`, saying why, while that is not committed."""
        try:
            self.state(run_id)
        except RunNotFound:
            raise RunNotFound(
                f"run {run_id} is not there: the transaction that it was submitted in is still open, or was rolled back; "
                "wait for it after the commit"
            ) from None
        self.publish([run_id])

    def plan(self, workflow: Workflow) -> Plan:
        """Give the plan of a workflow, checked against the agents that are known; raises everything that is wrong with it."""
        return self._planner.plan(resolve_workflow(workflow))

    def known_agents(self) -> frozenset[str]:
        """Give the agents that some worker has announced."""
        return self._planner.known_agents()

    def _loads(self, agents: Collection[str]) -> Sequence[Load]:
        return self._store.census.loads(agents, lease_ttl_seconds=self.lease_ttl_seconds)

    @property
    def lease_ttl_seconds(self) -> float:
        """How long a worker that gives no sign of life counts as one that lives."""
        return self.kernel.settings.lease_ttl.total_seconds()

    def _publish(self, plan: Plan, created: Created) -> None:
        failpoint("after_commit_before_publish")
        canvases = [canvas for ready in created.ready if ready for canvas in compose(plan, ready[0].run_id, ready)]
        sent = self.kernel.advancer.send([message for canvas in canvases for message in messages_of(canvas)])
        if sent:
            self.kernel.publisher.flush(_CONFIRM_SECONDS)
        if any(plan.gated[position] for position in plan.firsts):
            for run_id in created.ids:
                self.kernel.advancer.advance(run_id)

    # Reading ----------------------------------------------------------------------------------------------------------

    def snapshot(self, run_id: str) -> RunResult:
        """Give the run as it is now; raises `RunNotFound`."""
        return snapshot_of(self.kernel, run_id)

    def state(self, run_id: str) -> RunState:
        """Give the run's state; raises `RunNotFound`."""
        return self._store.runs.state(run_id)

    def states(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """Give the states of those of the runs that exist, in one statement."""
        return self._store.runs.states_of(run_ids)

    def list(self, which: RunFilter | None = None, *, limit: int = 50, after: str | None = None) -> list[RunSummary]:
        """Give the newest runs that are meant, at most `limit`; `after` goes on behind that run. Raises `RunNotFound`."""
        from orchestrator.store.listing import list_runs

        return list_runs(self._store.database, which or RunFilter(), limit=limit, after=after)

    def count(self, which: RunFilter) -> int:
        """Give the number of runs that are meant."""
        from orchestrator.store.listing import count_runs

        return count_runs(self._store.database, which)

    def events(self, run_id: str, after: str | None = None) -> Iterator[RunEvent]:
        """Give what has happened since `after` (from the beginning without it), up to now; see `RunEvent.cursor`."""
        return events_of(self._store, run_id, after)

    def news(self, run_id: str, after: str | None = None) -> tuple[Sequence[RunEvent], bool]:
        """Give what has happened since `after`, and whether that is all there will be."""
        final = self.state(run_id).final
        return tuple(self.events(run_id, after)), final

    def shared(self, run_id: str, key: str | None = None, *, task: str = "") -> SharedValues:
        """Give what the agents of a run share now, or every version of a key; see `RunHandle.shared`."""
        from orchestrator.sharing import shared_values

        return shared_values(self._store, run_id, key, task=task)

    # Changing ---------------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, abandon: bool = False) -> bool:
        """Cancel a run: final at once, or when what it did is undone. False when it had ended already, or does so.

        With `abandon` compensations that have not ended are given up. Raises `RunNotFound`.
        """
        cancelled = self._store.runs.cancel(run_id)
        return (abandon and self._store.runs.abandon(run_id)) or cancelled

    def retry(self, run_id: str, *, restart: bool = False, repeat_uncertain: bool = False) -> None:
        """Open a failed or cancelled run again from its failed tasks; what succeeded is kept, and what they have recorded.

        With `restart` they begin anew. `repeat_uncertain` lets happen (again) what may happen at most once and may have.
        """
        ready = self._store.runs.reopen(
            run_id, partial(_forget, run_id=run_id, restart=restart, repeat_uncertain=repeat_uncertain)
        )
        if self.kernel.own_runs is not None:
            self.kernel.own_runs.add([run_id])
        self.kernel.advancer.republish(ready)
        self.kernel.advancer.advance(run_id)

    def resume(self) -> list[str]:
        """Put every open run of an embedded store back on its way, after its process has died; gives their ids."""
        found = self._store.runs.unfinished()
        if self.kernel.own_runs is not None:
            self.kernel.own_runs.take(found)
        return found


def _created(kernel: Kernel, arms: Sequence[Arm], project: str) -> list[Created]:
    """Create runs; those that an embedded process has created or found by their keys are its own then."""
    own, store = kernel.own_runs, kernel.store
    if own is None:
        return create_arms(store.database, store.runs, arms, project=project)
    new = [run.id for arm in arms for run in arm.runs]
    own.add(new)
    try:
        created = create_arms(store.database, store.runs, arms, project=project)
    except BaseException:
        own.let_go(new)
        raise
    # A key may have led to a run that an earlier process left.
    found = [run_id for each in created for run_id in each.ids]
    own.let_go(set(new).difference(found))
    own.take(found)
    return created


def _forget(session: Session, *, run_id: str, restart: bool, repeat_uncertain: bool) -> None:
    if restart:
        session.run("journal_void_open", run_id=run_id)
        unsend(session, run_id)
        session.run("void_subwork_open", run_id=run_id)
    if repeat_uncertain:
        session.run("journal_void_uncertain", run_id=run_id)


def _note_submitted(run_ids: Sequence[str], plan: Plan, project: str) -> None:
    """Say which run this is, where it was asked for: workers say the same id in every line about it."""
    which = {"run_id": run_ids[0]} if len(run_ids) == 1 else {"first_run_id": run_ids[0], "last_run_id": run_ids[-1]}
    about = {**which, "runs": len(run_ids), "workflow": plan.workflow.name, "project": project}
    log.info("submitted %s", " ".join(which.values()), extra=about)


def submitted(inputs: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut a stream of inputs into lists of at most `size`."""
    chunk: list[Any] = []
    for value in inputs:
        chunk.append(value)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
