"""Agent runs: claim, finish, put back, release. Every write names the epoch of the claim that makes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import run_id_of
from orchestrator.contracts.dispatch import Dispatch, queue_of
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.usage import Usage
from orchestrator.group_commit import GroupCommit
from orchestrator.planning.frontier import Plan
from orchestrator.store.database import Database, Session
from orchestrator.store.subwork_steps import give_up
from orchestrator.store.unsending import unsend


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
    #: It was running on a worker that died: it runs in a process of its own until it has ended well there.
    suspect: bool = False
    #: JSON text: what it gets in place of what its task says.
    own_input: str | None = None
    project_id: str = ""
    #: Of sub-work: who has asked for it, as part of what, and with which options of that (JSON text).
    parent_id: str | None = None
    subwork_id: str | None = None
    options: str | None = None
    #: Whether an earlier claim has asked for sub-work.
    has_subwork: bool = False

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
    #: It ended its own process: that is counted among the crashes, and not among the failures too.
    crashed: bool = False

    def parameters(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "output": self.output,
            "error": self.error,
            "usage": None if self.usage is None else json.dumps(self.usage.stored()),
            "model": self.model,
            "failed": int(self.state is AgentRunState.FAILED and not self.crashed),
        }

    @property
    def size(self) -> int:
        """About how many bytes this takes in a statement."""
        return len(self.output or "") + len(self.error or "")


@dataclass(frozen=True, slots=True)
class Finish:
    """What the end of an agent run set free. `undecided` says that a condition waits for `advance`.

    `state` is what the run has ended as, if it has.
    """

    ended: bool
    undecided: bool
    released: tuple[Dispatch, ...]
    state: RunState = RunState.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a claim."""

    id: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class Ending:
    """A request to finish a claim."""

    claim: Claim
    plan: Plan
    outcome: Outcome

    @property
    def waiting(self) -> list[str]:
        return self.plan.waiting_on(self.claim.run_id, self.claim.position)

    def as_json(self) -> str:
        """Give the row of the statement that finishes it; JSON values are wrapped, since a bare null would become NULL."""
        claim, values = self.claim, self.outcome.parameters()
        fields = [
            f'"id":"{claim.id}","run_id":"{claim.run_id}","epoch":{claim.epoch},"failed":{values["failed"]}',
            f'"state":"{values["state"]}","waiting":{json.dumps(self.waiting)}',
        ]
        fields += [f'"{name}":[{values[name]}]' for name in ("output", "error", "usage") if values[name] is not None]
        if values["model"] is not None:
            fields.append(f'"model":{json.dumps(values["model"])}')
        return "{" + ",".join(fields) + "}"


class AgentRuns:
    """The aggregate of one agent run; every method is one transaction, claims and completions share theirs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_statement = database.dialect == "postgresql"
        self.forked()

    def forked(self) -> None:
        """Forget the threads of the parent; call it in the child after a fork."""
        self._claim = GroupCommit(self.claim_all)
        self._finish = GroupCommit(self.finish_all, lambda ending: ending.outcome.size)

    def claim(self, agent_run_id: str, worker_id: str) -> Claim | None:
        """Take a queued, due agent run: exactly one claim of an epoch succeeds. None: there is nothing to do."""
        return self._claim(Wanted(agent_run_id, worker_id))

    def finish(self, claim: Claim, plan: Plan, outcome: Outcome) -> Finish | None:
        """Store the outcome, join and release successors, end the run: all of it or, with a lost claim, None.

        A failure that is finished so is one that the workflow lives with (`on_error: continue`).
        """
        return self._finish(Ending(claim, plan, outcome))

    def claim_in(self, session: Session, agent_run_id: str, worker_id: str) -> Claim | None:
        """Claim as a step of a transaction."""
        if not self._one_statement:
            return _claim(session, Wanted(agent_run_id, worker_id))
        row = session.row(
            "claim",
            ids=_uuids([agent_run_id]),
            run_ids=_uuids([run_id_of(agent_run_id)]),
            workers=_uuids([worker_id]),
        )
        return None if row is None else Claim(*row)

    def claim_all(self, group: Sequence[Wanted]) -> list[Claim | None]:
        """Claim each of a group in one transaction; of two requests for one agent run the first gets it."""
        if not self._one_statement:
            return self._database.transact(lambda session: [_claim(session, wanted) for wanted in group])
        first = {wanted.id: wanted for wanted in reversed(group)}  # of two deliveries of one agent run
        ids = sorted(first)  # locks are taken in one order everywhere
        parameters = {
            "ids": _uuids(ids),
            "run_ids": _uuids(sorted({run_id_of(identity) for identity in ids})),
            "workers": _uuids(first[identity].worker_id for identity in ids),
        }
        rows = self._database.execute(lambda session: session.rows("claim", **parameters))
        found = {row[0]: Claim(*row) for row in rows}
        return [found.get(wanted.id) if first[wanted.id] is wanted else None for wanted in group]

    def finish_all(self, group: Sequence[Ending]) -> list[Finish | None]:
        """Finish each of a group in one transaction, all or none; what two of them set free together is told to one."""
        if not self._one_statement:
            return self._database.transact(lambda session: [finish_in(session, ending) for ending in group])
        # A claim has one end: of two for one claim (a time limit and the agent itself), the first counts.
        first = {(ending.claim.id, ending.claim.epoch): ending for ending in reversed(group)}
        endings = sorted(first.values(), key=lambda ending: ending.claim.id)
        parameters = {
            "endings": "[" + ",".join(ending.as_json() for ending in endings) + "]",
            "ids": _uuids(ending.claim.id for ending in endings),
            "run_ids": _uuids(sorted({ending.claim.run_id for ending in endings})),
            "waiting": _uuids(sorted({identity for ending in endings for identity in ending.waiting})),
        }
        rows = self._database.execute(lambda session: session.rows("finish", **parameters))
        done = {(identity, epoch) for what, identity, epoch, *_ in rows if what == "done"}
        effects = {identity: (what, *rest) for what, identity, *rest in rows if what != "done"}
        return [
            _finished(ending, effects) if first[key] is ending and key in done else None
            for ending in group
            for key in [(ending.claim.id, ending.claim.epoch)]
        ]

    def requeue(
        self, claim: Claim, *, delay_seconds: float, error: str | None, failed: bool, agent: str | None = None
    ) -> bool:
        """Put a claimed agent run back, due after a delay and not yet published; false when the claim was lost.

        `agent` hands it to another agent from now on (a fallback), which starts without failures, and without what this one
        has recorded and asked for.
        """

        def work(session: Session) -> bool:
            count = session.run(
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
            if count == 1 and agent is not None:
                session.run("journal_void_all", id=claim.id)
                unsend(session, claim.run_id)
                give_up(session, claim.id)
            return count == 1

        return self._database.execute(work) if agent is None else self._database.transact(work)

    def charge_crash(self, claim: Claim) -> bool:
        """Count a death of a claim's own process; false when the claim was lost."""
        return self._database.execute(lambda session: session.run("charge_crash", id=claim.id, epoch=claim.epoch)) == 1

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
                    found.append(Dispatch(row[0], row[2], row[4], row[3]))
            return found

        return tuple(self._database.transact(work))

    def peek(self, agent_run_id: str) -> tuple[Any, ...] | None:
        """Give (state, output, error, finished_at, epoch, dispatch) of an agent run, JSON as text; None if there is none."""
        return self._database.execute(lambda session: session.row("agent_run_state", id=agent_run_id))


def _finished(ending: Ending, effects: dict[str, tuple[Any, ...]]) -> Finish:
    """Take out what this ending brought about; what two of a group did together counts for the first."""
    released: list[Dispatch] = []
    ended = undecided = False
    for identity in ending.waiting:
        match effects.pop(identity, None):
            case ("released", number, priority, agent):
                released.append(Dispatch(identity, number, agent, priority))
            case ("undecided", *_):
                undecided = True
            case ("ended", *_):
                ended = True
            case _:
                pass
    return Finish(ended=ended, undecided=undecided, released=tuple(released))


def _claim(session: Session, wanted: Wanted) -> Claim | None:
    """Claim inside a transaction, on SQLite."""
    run_id = run_id_of(wanted.id)
    session.run("start_run", id=wanted.id, run_id=run_id)
    row = session.row("claim_row", id=wanted.id, worker_id=wanted.worker_id)
    context = session.row("claim_context", run_id=run_id)
    if row is None or context is None:
        return None
    upstream = None
    if json.loads(row[6]):
        parts = session.rows("upstream", ids=row[6])
        upstream = "[" + ",".join(_upstream_json(*part) for part in parts) + "]"
    task, position, agent, epoch, failures, crashes, _, suspect, own_input, *asked = row
    workflow_id, tenant_id, run_input, project_id = context
    return Claim(
        *(wanted.id, task, position, agent, epoch, failures, crashes, workflow_id, tenant_id, run_input, upstream),
        suspect=bool(suspect),
        own_input=own_input,
        project_id=project_id,
        parent_id=asked[0],
        subwork_id=asked[1],
        options=asked[2],
        has_subwork=bool(asked[3]),
    )


def finish_in(session: Session, ending: Ending) -> Finish | None:
    """Finish inside a transaction, step by step."""
    claim = ending.claim
    if session.row("lock_active_run", run_id=claim.run_id) is None:
        return None
    if session.run("finish_row", id=claim.id, epoch=claim.epoch, **ending.outcome.parameters()) != 1:
        return None
    return count_down(session, claim.run_id, ending.waiting)


def count_down(session: Session, run_id: str, waiting: Sequence[str]) -> Finish:
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
            released.append(Dispatch(row[0], row[2], row[4], row[3]))
    return Finish(ended=ended, undecided=undecided, released=tuple(released))


def _uuids(identities: Iterable[str]) -> str:
    """Give an array as Postgres writes it: ids need no quotes."""
    return "{" + ",".join(identities) + "}"


def _upstream_json(task: str, state: str, output: str | None, error: str | None) -> str:
    return f"[{json.dumps(task)},{json.dumps(state)},{output or 'null'},{error or 'null'}]"
