"""The rows of new runs: who used an idempotency key first, what is inserted, what is to be published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.budget import NOBODY, Charge
from orchestrator.contracts.dispatch import Dispatch, Priority, queue_of
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.errors import IdempotencyConflict
from orchestrator.planning.frontier import Plan
from orchestrator.store.database import Session, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID

_RUN_COLUMNS = (
    "id", "tenant_id", "project_id", "workflow_id", "state", "input", "idempotency_key", "input_digest", "created_at",
    "deadline_at", "forked_from", "user_label", "batch_id", "variant",
)  # fmt: skip
_AGENT_RUN_COLUMNS = (
    "id", "tenant_id", "run_id", "task", "position", "agent", "queue", "priority", "state", "predecessors", "gated",
    "dispatch", "queued_at", "published_at", "assigned",
)  # fmt: skip
_COUNTDOWN_COLUMNS = ("id", "tenant_id", "run_id", "remaining")
_BUDGET_COLUMNS = (
    "id", "tenant_id", "scope", "run_id", "period", "mode", "on_cap", "limit_nanousd", "period_from", "created_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create: `input` is JSON text. `deadline` counts from its creation, and goes before the workflow's.

    `asked` is the digest of the workflow that was asked for, where an experiment may have put another one in its place.
    `agents` are those that its tasks get for the capabilities that they name, by position.
    """

    id: str
    input: str
    idempotency_key: str | None = None
    deadline: timedelta | None = None
    forked_from: str | None = None
    charge: Charge = NOBODY
    asked: str | None = None
    agents: Mapping[int, str] = field(default_factory=dict[int, str])


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that have one plan, and the one that was asked for."""

    plan: Plan
    runs: tuple[NewRun, ...]
    asked: Plan

    @property
    def agents(self) -> frozenset[str]:
        """The agents that its runs may need."""
        return self.plan.agents.union(*(run.agents.values() for run in self.runs))


@dataclass(frozen=True, slots=True)
class Created:
    """Ids in the order asked for (of the first run where a key was used before) and what is ready to be published."""

    ids: tuple[str, ...]
    ready: tuple[tuple[Dispatch, ...], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs belong: rows that are there already. `asked_id` is the workflow that was asked for, if it is another one."""

    project_id: str
    workflow_id: str
    asked_id: str | None = None


@dataclass(frozen=True, slots=True)
class FirstUse:
    """The run that used an idempotency key first, and what it was asked to do.

    `both_digest` is a hash of the workflow that was asked for and the input: what is stored for a run that an experiment is
    about, whose own workflow may be another one.
    """

    run_id: str
    workflow_id: str
    input_digest: str
    both_digest: str | None = None

    def is_asked_again(self, given: FirstUse) -> bool:
        """Tell whether the same is asked for, whatever experiments have made of it then or would make of it now."""
        same = (self.workflow_id, self.input_digest) == (given.workflow_id, given.input_digest)
        return same or self.input_digest == given.both_digest


def first_uses(session: Session, place: Place, runs: Sequence[NewRun]) -> dict[str, FirstUse]:
    """Look up who used the keys of these runs: one statement, however many there are."""
    keys = sorted({new.idempotency_key for new in runs if new.idempotency_key is not None})
    if not keys:
        return {}
    found = session.rows("runs_by_keys", project_id=place.project_id, keys=keys)
    return {row[0]: FirstUse(*row[1:]) for row in found}


def database_now(session: Session) -> datetime:
    """Give the database's time: that of the transaction's begin on Postgres."""
    row = session.row("database_now")
    now = None if row is None else times(row[0])
    if now is None:
        raise LookupError("the database did not tell its time")
    return now


@dataclass(frozen=True, slots=True)
class Creation:
    """What a transaction that creates runs inserts; `published` says whether their first tasks are, right after it."""

    plan: Plan
    place: Place
    now: datetime
    published: bool = True

    def insert(self, session: Session, runs: Sequence[NewRun], used: Mapping[str, FirstUse]) -> Created:
        """Insert those of the runs whose keys are not `used`; raises `IdempotencyConflict` before anything is inserted."""
        first = dict(used)
        identities: list[str] = []
        run_rows: list[tuple[Any, ...]] = []
        budget_rows: list[tuple[Any, ...]] = []
        for new in runs:
            key, digest = new.idempotency_key, None
            if key is not None:
                plain = _digest(new.input)
                both = _digest(f"{new.asked or self.plan.workflow.digest}\n{new.input}")
                digest = plain if new.asked is None else both
                mine = FirstUse(new.id, self.place.asked_id or self.place.workflow_id, plain, both)
                if (earlier := first.setdefault(key, mine)) is not mine:
                    _check_same(earlier, mine, key)
                    identities.append(earlier.run_id)
                    continue
            identities.append(new.id)
            run_rows.append(
                (
                    new.id, DEFAULT_TENANT_ID, self.place.project_id, self.place.workflow_id, RunState.PENDING.value,
                    new.input, key, digest, self.now, self._deadline_at(new), new.forked_from, new.charge.user,
                    new.charge.batch_id, new.charge.variant,
                )
            )  # fmt: skip
            budget_rows.extend(self._budgets(new))
        agents = {new.id: new.agents for new in runs}
        made: list[str] = [row[0] for row in run_rows]
        parts = [row for run_id in made for row in self._agent_runs(run_id, agents[run_id])]
        session.insert("run", _RUN_COLUMNS, run_rows)
        session.insert("agent_run", _AGENT_RUN_COLUMNS, parts)
        session.insert("countdown", _COUNTDOWN_COLUMNS, [row for run_id in made for row in self._countdowns(run_id)])
        session.insert("budget", _BUDGET_COLUMNS, budget_rows)
        ready = tuple(self._ready(run_id, agents[run_id]) for run_id in made) if self.published else ()
        return Created(tuple(identities), ready)

    def _deadline_at(self, new: NewRun) -> datetime | None:
        deadline = new.deadline or self.plan.workflow.deadline
        return None if deadline is None else self.now + deadline

    def _budgets(self, new: NewRun) -> list[tuple[Any, ...]]:
        """Give the row of the run's own budget, if it has one: nothing can have been spent of it."""
        wanted = new.charge.budget
        if wanted is None:
            return []
        kind = (wanted.period, wanted.mode, wanted.on_cap, wanted.limit_nanousd)
        return [(ids.new(), DEFAULT_TENANT_ID, f"run/{new.id}", new.id, *kind, self.now, self.now)]

    def _agent_runs(self, run_id: str, agents: Mapping[int, str]) -> list[tuple[Any, ...]]:
        plan = self.plan
        rows: list[tuple[Any, ...]] = []
        for position, task in enumerate(plan.tasks):
            assigned = agents[position] if position in plan.needs else None
            agent = assigned or task.agent
            before = plan.predecessors[position]
            ready = not before and not plan.gated[position]
            published = ready and self.published
            rows.append(
                (
                    plan.id_at(run_id, position), DEFAULT_TENANT_ID, run_id, task.id, position, agent,
                    queue_of(agent), int(Priority.LATER if before else Priority.NEW),
                    (AgentRunState.QUEUED if ready else AgentRunState.BLOCKED).value,
                    [plan.id_at(run_id, index) for index in plan.sees[position]], plan.gated[position],
                    int(published), self.now if ready else None, self.now if published else None, assigned,
                )
            )  # fmt: skip
        return rows

    def _countdowns(self, run_id: str) -> list[tuple[Any, ...]]:
        plan = self.plan
        return [
            (run_id, DEFAULT_TENANT_ID, run_id, len(plan.ends)),
            *(
                (plan.id_at(run_id, position), DEFAULT_TENANT_ID, run_id, count)
                for position, count in plan.countdowns.items()
            ),
        ]

    def _ready(self, run_id: str, agents: Mapping[int, str]) -> tuple[Dispatch, ...]:
        plan = self.plan
        return tuple(
            Dispatch(plan.id_at(run_id, position), 1, agents.get(position) or plan.tasks[position].agent, Priority.NEW)
            for position in plan.firsts
            if not plan.gated[position]
        )


def is_without_definition(error: BaseException) -> bool:
    """Tell whether runs could not be inserted since nobody had used their workflow's definition, and it was deleted."""
    # SQLite does not say which key it is: a project is never deleted, and everything else is inserted here.
    names = ("fk_run_workflow_id_workflow", "FOREIGN KEY constraint failed")
    return any(name in str(each) for each in (error, error.__context__) for name in names)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_same(first: FirstUse, given: FirstUse, key: str) -> None:
    if not first.is_asked_again(given):
        what = "another workflow" if first.workflow_id != given.workflow_id else "another input"
        raise IdempotencyConflict(
            f"the idempotency key {key!r} was used for run {first.run_id} with {what}: use a new key for a new job",
            details={"run_id": first.run_id},
        )
