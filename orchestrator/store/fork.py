"""The rows of a fork: those of a new run, of which some have the ends that they had in another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from orchestrator.contracts.budget import Budget, Charge, Mode, OnCap
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.money import to_usd
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.errors import RunStateConflict
from orchestrator.planning.fork import Beginning, beginning
from orchestrator.planning.frontier import Plan
from orchestrator.store.creation import Creation, NewRun, Place, database_now
from orchestrator.store.database import Database, Session
from orchestrator.store.mail_past import copy_mail
from orchestrator.store.runs import Runs, not_found
from orchestrator.store.shared_past import copy_shared


@dataclass(frozen=True, slots=True)
class NewFork:
    """A fork to create: of which run, and which of the plan's tasks begin anew.

    `given` are those whose input in this plan is another one than in the run's own.
    """

    id: str
    source: str
    plan: Plan
    anew: Collection[int]
    given: Collection[int] = ()
    deadline: timedelta | None = None


def create_fork(database: Database, runs: Runs, new: NewFork, *, project: str) -> tuple[Dispatch, ...]:
    """Insert a fork whole or not at all, marked as published; gives what is ready.

    It needs nothing of the other run from then on. Raises `RunNotFound`, and `RunStateConflict` for one that is open.
    """

    def insert(place: Place) -> tuple[Dispatch, ...]:
        return database.transact(lambda session: _insert(session, new, place))

    return runs.placed(new.plan, project, insert)


def _insert(session: Session, new: NewFork, place: Place) -> tuple[Dispatch, ...]:
    row = session.row("run_for_fork", run_id=new.source)
    if row is None:
        raise not_found(new.source)
    state, run_input = RunState(row[0]), row[1]
    if not state.final:
        raise RunStateConflict(f"run {new.source} is {state}: it can be forked when it has ended; cancel it, or wait")
    plan = new.plan
    rows = session.rows("states_for_fork", run_id=new.source)
    stood = {position: (AgentRunState(found), bool(began)) for position, found, began, _ in rows}
    chosen = {position: str(agent) for position, _, _, agent in rows if agent is not None}
    undone, doubtful = _undone(plan, stood)
    # What was taken back is to be done again, and all after it.
    begin = beginning(plan, [stood[position][0] for position in range(len(plan.tasks))], undone.union(new.anew))
    if unsure := sorted(doubtful.intersection(begin.kept)):
        task = plan.tasks[unsure[0]].id
        raise RunStateConflict(
            f"run {new.source}: nothing tells whether what task {task!r} did is undone, since that was given up while it "
            f"ran: fork from {task!r}, or from a task before it"
        )
    charge = _charge(*row[2:])
    run = NewRun(new.id, run_input, deadline=new.deadline, forked_from=new.source, charge=charge, agents=chosen)
    created = Creation(plan, place, database_now(session)).insert(session, [run], {})
    kept = {plan.id_at(new.id, position) for position in begin.kept}
    first = [dispatch for dispatch in created.ready[0] if dispatch.id not in kept]
    return (*first, *_begin(session, new, begin))


def _charge(user: str | None, variant: str | None, limit: int | None, mode: Mode, on_cap: OnCap) -> Charge:
    """Give whom a fork is charged to and counted with: as its source, with as much to spend as that had in all."""
    budget = None if limit is None else Budget(usd=to_usd(limit), mode=mode, on_cap=on_cap)
    return Charge(user, budget, variant=variant)


def _undone(plan: Plan, stood: Mapping[int, tuple[AgentRunState, bool]]) -> tuple[set[int], set[int]]:
    """Give the tasks that were undone, and those that may have been; their compensations stand behind the tasks."""
    undone, doubtful = set[int](), set[int]()
    for position, undo in enumerate(plan.undos, len(plan.tasks)):
        state, began = stood.get(position, (AgentRunState.BLOCKED, False))
        if state is AgentRunState.SUCCEEDED:
            undone.add(undo.of)
        elif state is AgentRunState.CANCELLED and began:
            doubtful.add(undo.of)
    return undone, doubtful


def _begin(session: Session, new: NewFork, begin: Beginning) -> list[Dispatch]:
    """Bring the rows of a run that would begin at its first tasks to where it begins; gives what that releases."""
    plan = new.plan
    session.run("copy_past", run_id=new.id, source=new.source, positions=list(begin.kept))
    # What somebody has redriven a task with holds for as long as all before it is what it was.
    redriven = [*begin.kept, *(position for position in begin.first if position not in new.given)]
    session.run("copy_inputs", run_id=new.id, source=new.source, positions=redriven)
    kept = {plan.tasks[position].id for position in begin.kept}
    copy_shared(session, new.source, new.id, kept)
    settled = {*begin.kept, *begin.skipped}
    open_ones = (position for position in range(len(plan.tasks)) if position not in settled)
    anew = {plan.tasks[position].id: plan.id_at(new.id, position) for position in open_ones}
    copy_mail(session, new.source, new.id, kept=kept, anew=anew, now=database_now(session))
    for position in begin.skipped:
        session.run("skip_row", id=plan.id_at(new.id, position))
    for position, left in begin.left.items():
        if left != plan.countdowns[position]:
            session.run("set_countdown", id=plan.id_at(new.id, position), remaining=left)
    session.run("set_countdown", id=new.id, remaining=begin.ends_left)
    if not begin.ends_left:
        session.run("end_run", run_id=new.id)
    released: list[Dispatch] = []
    for position in begin.ready:
        row = session.row("release_row", id=plan.id_at(new.id, position), decided=False)
        if row is not None:  # a first task is queued already
            released.append(Dispatch(row[0], row[2], row[4], row[3]))
    return released
