"""Sub-work: agent runs that an agent run asks for, of the same run; created once, counted as they end, ended with their caller.

Whoever changes sub-work, or ends an agent run of it, holds the row of the agent run that has asked: so its counts need no
locks of their own, and its last end meets the caller's suspension in one row. Rows are held from the caller down, by id: what
is asked for has a later position, and so a higher id, than who asks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import MAX_POSITIONS, agent_run_id
from orchestrator.contracts.dispatch import Dispatch, Priority, queue_of
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.lineage import child_task, tasks_text
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing, SubworkState, listened_to
from orchestrator.errors import CallLimitExceeded, ClaimLost
from orchestrator.group_commit import GroupCommit
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim, Ending, Finish, Outcome, finish_in
from orchestrator.store.creation import database_now
from orchestrator.store.database import Database, Session
from orchestrator.store.subwork_steps import stop, stop_below
from orchestrator.store.unsending import unsend

_COLUMNS = (
    "id", "tenant_id", "run_id", "task", "position", "agent", "queue", "priority", "state", "predecessors", "gated", "input",
    "parent_id", "subwork_id", "dispatch", "queued_at", "published_at",
)  # fmt: skip
#: How many ends are read at once.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Begun:
    """How sub-work stands that was asked for, and what of it is to be published now."""

    standing: Standing
    ready: tuple[Dispatch, ...] = ()


@dataclass(frozen=True, slots=True)
class _Held:
    """An agent run whose row is held: how it stands, and what wakes it if it is suspended."""

    state: AgentRunState
    listening: str | None

    def waits_for(self, subwork_id: str) -> bool:
        """Tell whether the end of this sub-work is to wake it; one that is not suspended looks for itself."""
        return self.state is AgentRunState.SUSPENDED and subwork_id in listened_to(_parsed(self.listening))


@dataclass(frozen=True, slots=True)
class _Freed:
    """What ends have queued, and the callers that are running and may look at once."""

    released: tuple[Dispatch, ...] = ()
    callers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _End:
    """A request to record how an agent run of sub-work has ended."""

    claim: Claim
    outcome: Outcome
    #: Whether it may have asked for sub-work itself.
    asked: bool

    @property
    def alone(self) -> bool:
        """Whether others are cancelled by it perhaps: then it holds more rows than a group could hold in one order."""
        return self.asked or self.outcome.state is not AgentRunState.SUCCEEDED


class Subworks:
    """The aggregate of sub-work; every method is one transaction, ends share theirs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.forked()

    def forked(self) -> None:
        """Forget the threads of the parent; call it in the child after a fork."""
        self._end = GroupCommit(self._end_all, lambda end: end.outcome.size)

    # For who asks -----------------------------------------------------------------------------------------------------

    def begin(self, claim: Claim, plan: Plan, order: Order, begun: Mapping[str, Any], *, most: int) -> Begun:
        """Ask for sub-work at a place: `begun` is the row of the journal that says that its effect has, stored with it.

        What was asked for there before is taken up if it has come to nothing: what has succeeded of it stays. So the same
        request again, after a reply that was lost, changes nothing. Raises `ClaimLost`, and `CallLimitExceeded` where the
        run would have more than `most` of them.
        """

        def work(session: Session) -> Begun:
            if session.row("lock_active_run", run_id=claim.run_id) is None or not _hold_caller(session, claim):
                raise ClaimLost("cancelled, or taken over by another worker")
            place = {"parent_id": claim.id, "scope": begun["scope"], "number": begun["number"]}
            found = session.row("subwork_at", **place)
            if found is None:
                return _create(session, claim, plan, order, begun, most=most)
            identity, state, fingerprint, first_number, size, effect = found
            tasks = tasks_text(claim.task, first_number, size)
            if effect == "begun" and state != SubworkState.STOPPED:
                return Begun(Standing(identity, SubworkState(state), tasks))
            if fingerprint != begun["fingerprint"] or state == SubworkState.DONE:
                stop(session, identity)
                session.run("void_subwork", id=identity)
                return _create(session, claim, plan, order, begun, most=most)
            session.run("journal_write", outcome=None, **begun)
            ready = () if state == SubworkState.OPEN else _resume(session, claim.run_id, identity, order)
            return Begun(Standing(identity, SubworkState.OPEN, tasks), ready)

        return self._database.transact(work)

    def standing(self, claim: Claim, slot: Slot) -> Standing | None:
        """Give how the sub-work stands that was asked for at a place; None if there is none."""
        place = {"parent_id": claim.id, "scope": slot.scope, "number": slot.number}
        row = self._database.execute(lambda session: session.row("subwork_at", **place))
        return None if row is None else Standing(row[0], SubworkState(row[1]), tasks_text(claim.task, row[3], row[4]))

    def ends(self, identity: str, after: int = -1, most: int = _PAGE) -> tuple[list[Ended], int | None]:
        """Give how agent runs of sub-work have ended, in the order of the inputs, and behind which position there are more."""
        rows = self._database.execute(lambda session: session.rows("subwork_ends", id=identity, after=after, most=most))
        found = [Ended(row[1], row[2], _parsed(row[3]), _parsed(row[4])) for row in rows]
        return found, rows[-1][0] if len(rows) == most else None

    def ends_ahead(self, parent_id: str, identity: str, most: int = _PAGE) -> dict[str, Ended]:
        """Give how calls of single agents have ended that an agent run has made, from one of them on, by their sub-work.

        Who is executed again asks for one after the other. What is done changes no more.
        """
        rows = self._database.execute(
            lambda session: session.rows("subwork_ends_ahead", parent_id=parent_id, id=identity, most=most)
        )
        return {row[0]: Ended(row[1], row[2], _parsed(row[3]), _parsed(row[4])) for row in rows}

    def failure(self, identity: str) -> Failure | None:
        """Give the first failure of sub-work in the order of the inputs; None without one."""
        row = self._database.execute(lambda session: session.row("subwork_failure", id=identity))
        return None if row is None else Failure(row[0], _parsed(row[1]), row[2], row[3])

    def of_task(self, run_id: str, task: str) -> str | None:
        """Give the id of the agent run of a task of a run, of sub-work too; None if there is none."""
        row = self._database.execute(lambda session: session.row("agent_run_of_task", run_id=run_id, task=task))
        return None if row is None else str(row[0])

    # For who ends -----------------------------------------------------------------------------------------------------

    def finish(self, claim: Claim, outcome: Outcome, *, asked: bool) -> Finish | None:
        """Store how an agent run of sub-work has ended, release the next one, or queue who waits for all: all of it or None.

        `asked` says that it may have asked for sub-work itself, which ends with it.
        """
        end = _End(claim, outcome, asked)
        return self._end_all([end])[0] if end.alone else self._end(end)

    def finish_caller(self, claim: Claim, plan: Plan, outcome: Outcome) -> Finish | None:
        """Store how a task has ended that may have asked for sub-work, which ends with it."""

        def work(session: Session) -> Finish | None:
            if session.row("lock_active_run", run_id=claim.run_id) is None or not _hold_caller(session, claim):
                return None
            stop_below(session, [claim.id])
            return finish_in(session, Ending(claim, plan, outcome))

        return self._database.transact(work)

    def queued_around(self, claim: Claim) -> tuple[Dispatch, ...]:
        """Give what the end of an agent run of sub-work may have queued: to be published when that end got no answer."""
        rows = self._database.execute(
            lambda session: session.rows("queued_around", id=claim.subwork_id, parent_id=claim.parent_id)
        )
        return tuple(Dispatch(*row) for row in rows)

    def _end_all(self, group: Sequence[_End]) -> list[Finish | None]:
        return self._database.transact(lambda session: _end_in(session, group))


def end_one(session: Session, agent_run_id: str, parent_id: str, subwork_id: str) -> tuple[Dispatch, ...]:
    """Count an agent run of sub-work that has just failed, in a transaction that holds the run alone; gives what is queued."""
    held = _hold(session, [parent_id])
    stop_below(session, [agent_run_id])
    return _counted(session, {subwork_id: (1, 1)}, held).released


def calls_have_ended(session: Session, claim: Claim, data: Sequence[JsonValue]) -> bool:
    """Tell whether any sub-work that an agent run waits for has an outcome: the arrival of the kind `calls`."""
    del claim
    return session.row("subwork_states", ids=sorted(listened_to({"calls": data}))) is not None


# Steps of transactions ------------------------------------------------------------------------------------------------


def _hold_caller(session: Session, claim: Claim) -> bool:
    return session.row("hold_caller", id=claim.id, epoch=claim.epoch) is not None


def _create(session: Session, claim: Claim, plan: Plan, order: Order, begun: Mapping[str, Any], *, most: int) -> Begun:
    size, run_id = len(order.inputs), claim.run_id
    allowed = min(most, MAX_POSITIONS - plan.size)
    positions = {"run_id": run_id, "tenant_id": claim.tenant_id, "size": size, "most": allowed}
    taken = None if size > allowed else session.row("take_positions", **positions)
    if taken is None:
        raise CallLimitExceeded(
            f"the run would have more than {allowed:,} agent runs beside its tasks (NIGHTFLEET_MAX_CALLS): call agents for "
            "less, or with more in each input"
        )
    [[last]] = session.rows("last_number", parent_id=claim.id)
    first_position, first_number = plan.size + taken[0] - size, last + 1
    identity, first = agent_run_id(run_id, first_position), order.first
    session.run(
        "add_subwork",
        id=identity,
        tenant_id=claim.tenant_id,
        run_id=run_id,
        parent_id=claim.id,
        scope=begun["scope"],
        number=begun["number"],
        fingerprint=begun["fingerprint"],
        agent=order.whose(0),
        first_number=first_number,
        first_position=first_position,
        size=size,
        max_concurrency=order.max_concurrency or size,
        fail_fast=order.fail_fast,
        return_exceptions=order.return_exceptions,
        next_position=first_position + first,
        options=order.options,
        label=order.label,
    )
    now = database_now(session)
    session.insert(
        "agent_run",
        _COLUMNS,
        [
            (
                agent_run_id(run_id, first_position + index), claim.tenant_id, run_id,
                child_task(claim.task, first_number + index), first_position + index, order.whose(index),
                queue_of(order.whose(index)), int(Priority.LATER),
                (AgentRunState.QUEUED if index < first else AgentRunState.BLOCKED).value, [], False, text, claim.id, identity,
                int(index < first), now if index < first else None, now if index < first else None,
            )
            for index, text in enumerate(order.inputs)
        ],
    )  # fmt: skip
    session.run("journal_write", outcome=None, **begun)
    ready = (
        Dispatch(agent_run_id(run_id, first_position + index), 1, order.whose(index), Priority.LATER)
        for index in range(first)
    )
    return Begun(Standing(identity, SubworkState.OPEN, tasks_text(claim.task, first_number, size)), tuple(ready))


def _resume(session: Session, run_id: str, identity: str, order: Order) -> tuple[Dispatch, ...]:
    """Put back what did not succeed of sub-work that nothing goes on of; gives what is ready."""
    own, agents = order.whose(0), list(order.able or (order.agent,))
    others = [row[0] for row in session.rows("subwork_fallbacks", id=identity, agents=agents)]
    for other in others:
        session.run("journal_void_all", id=other)
        session.run("void_subwork_of", parent_id=other)
    if others:
        unsend(session, run_id)
    count = session.run("resume_subwork_rows", id=identity, agents=agents, agent=own, queue=queue_of(own))
    concurrency = order.max_concurrency or len(order.inputs)
    [[first]] = session.rows(
        "resume_subwork",
        id=identity,
        remaining=count,
        max_concurrency=concurrency,
        fail_fast=order.fail_fast,
        return_exceptions=order.return_exceptions,
        options=order.options,
        label=order.label,
    )
    return _release(session, identity, first, concurrency)


def _end_in(session: Session, group: Sequence[_End]) -> list[Finish | None]:
    """Record ends; each caller is held with the agent runs that have ended for it, and gets what followed once."""
    open_runs = {row[0] for row in session.rows("open_runs_among", ids=sorted({end.claim.run_id for end in group}))}
    rows = {end.claim.id for end in group} | {str(end.claim.parent_id) for end in group}
    for end in group:
        if end.outcome.state is AgentRunState.FAILED and session.row("cancels_rest", id=end.claim.subwork_id):
            # Those that it may cancel, together with it: in one order.
            rows |= {row[0] for row in session.rows("open_of_subwork", id=end.claim.subwork_id)}
    held = _hold(session, sorted(rows))
    done = [end.claim.run_id in open_runs and _finish_row(session, end) for end in group]
    counts: dict[str, Counter[str]] = {}
    for end, recorded in zip(group, done, strict=True):
        if recorded:
            count = counts.setdefault(str(end.claim.subwork_id), Counter())
            count["ended"] += 1
            count["failed"] += end.outcome.state is AgentRunState.FAILED
            if end.asked:
                stop_below(session, [end.claim.id])
    ends = {key: (count["ended"], count["failed"]) for key, count in counts.items()}
    return _shared(done, _counted(session, ends, held))


def _finish_row(session: Session, end: _End) -> bool:
    values = end.outcome.parameters()
    return session.run("finish_row", id=end.claim.id, epoch=end.claim.epoch, **values) == 1


def _shared(done: Sequence[bool], freed: _Freed) -> list[Finish | None]:
    """Give each end its answer; what all of them set free is told to the first that was recorded."""
    answers: list[Finish | None] = []
    for recorded in done:
        finish = Finish(ended=False, undecided=False, released=freed.released, callers=freed.callers)
        answers.append(finish if recorded else None)
        if recorded:
            freed = _Freed()
    return answers


def _hold(session: Session, ids: Sequence[str]) -> dict[str, _Held]:
    """Hold agent runs, all in one order; gives how they stand."""
    rows = session.rows("hold_agent_runs", ids=list(ids))
    return {row[0]: _Held(AgentRunState(row[1]), row[3]) for row in rows}


def _counted(session: Session, counts: Mapping[str, tuple[int, int]], held: Mapping[str, _Held]) -> _Freed:
    """Count ends of sub-work whose callers are held; gives what is queued by that: the next ones, or who waits for all."""
    found: list[Dispatch] = []
    running: list[str] = []
    for identity in sorted(counts):
        ended, failed = counts[identity]
        row = session.row("count_ends", id=identity, ended=ended, failed=failed)
        if row is None:
            continue
        state, remaining, failures, fail_fast, return_exceptions, next_position, parent_id, more = row
        fails = bool(failures) and not return_exceptions
        if state != SubworkState.OPEN:
            continue
        if remaining and not (fails and fail_fast):
            found += _release(session, identity, next_position, ended) if more else ()
            continue
        if remaining:
            stop(session, identity)
        session.run("close_subwork", id=identity, state=(SubworkState.FAILED if fails else SubworkState.DONE).value)
        if held[parent_id].waits_for(identity):
            found += _wake(session, parent_id)
        elif held[parent_id].state is AgentRunState.RUNNING:
            running.append(parent_id)
    return _Freed(tuple(found), tuple(dict.fromkeys(running)))


def _release(session: Session, identity: str, first: int, most: int) -> tuple[Dispatch, ...]:
    rows = sorted(session.rows("release_subwork", id=identity, first=first, most=most), key=lambda row: row[1])
    if rows:
        session.run("move_on", id=identity, next_position=rows[-1][1] + 1)
    return tuple(Dispatch(row[0], row[3], row[2], row[4]) for row in rows)


def _wake(session: Session, parent_id: str) -> list[Dispatch]:
    # Two calls of one caller may have ended in this transaction: it is woken once.
    row = session.row("wake_caller", id=parent_id)
    return [] if row is None else [Dispatch(parent_id, row[1], row[0], row[2])]


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)
