"""Evaluations and their trials: what came of a case is there once, whoever writes it how often."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.evaluation import Grade
from orchestrator.store.database import Database, Row, Session, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.runs import parse


@dataclass(frozen=True, slots=True)
class EvaluationHead:
    """An evaluation's own row; `definition` has everything but the cases."""

    id: str
    name: str
    project: str
    state: str
    cases: int
    definition: dict[str, Any]
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewTrial:
    """What came of a case: `number` tells case and variant, `grades` are those that are known."""

    number: int
    variant: str
    case_id: str
    case_digest: str
    tags: tuple[str, ...]
    run_id: str | None
    succeeded: bool
    output: Any
    error: str | None
    grades: Mapping[str, Grade]
    facts: Facts


@dataclass(frozen=True, slots=True)
class Facts:
    """How long a run took from its first claim on, and what its model calls have cost and used."""

    milliseconds: int | None = None
    cost_nanousd: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class StoredTrial(NewTrial):
    """The same with what judging it has cost."""

    judge_nanousd: int


class Evaluations:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, project_id: str, name: str, digest: str, *, definition: Mapping[str, Any], cases: int) -> str:
        """Give the evaluation of this content that is not finished, or a new one: its id."""
        where = {"tenant_id": DEFAULT_TENANT_ID, "project_id": project_id, "digest": digest}

        text = json.dumps(definition, separators=(",", ":"))
        new = {**where, "id": ids.new(), "name": name, "definition": text, "cases": cases}

        def work(session: Session) -> str:
            row = session.row("evaluation_open", **where)
            while row is None:  # another process may begin it meanwhile, and even end it
                session.run("evaluation_add", **new)
                row = session.row("evaluation_open", **where)
            return str(row[0])

        return self._database.transact(work)

    def end(self, evaluation_id: str) -> None:
        """Note that every trial has its grades."""
        self._database.execute(lambda session: session.run("evaluation_end", id=evaluation_id))

    def head(self, evaluation_id: str) -> EvaluationHead | None:
        """Give an evaluation, None where there is none of this id."""
        where = {"id": evaluation_id, "tenant_id": DEFAULT_TENANT_ID}
        row = self._database.execute(lambda session: session.row("evaluation_head", **where))
        return None if row is None else _head(row)

    def newest(self, *, limit: int) -> list[EvaluationHead]:
        """Give evaluations, the newest first."""
        where = {"tenant_id": DEFAULT_TENANT_ID, "most": limit}
        return [_head(row) for row in self._database.execute(lambda session: session.rows("evaluation_list", **where))]

    def add(self, evaluation_id: str, trials: Sequence[NewTrial]) -> None:
        """Write what came of cases; a trial that is there already stays as it is."""

        def work(session: Session) -> None:
            for trial in trials:
                session.run("trial_add", evaluation_id=evaluation_id, **_columns(trial))

        self._database.transact(work)

    def grade(self, evaluation_id: str, number: int, grader: str, *, grade: Grade, cost_nanousd: int) -> None:
        """Add what a judge has said of a trial; what it has said before stays."""
        where = {"evaluation_id": evaluation_id, "number": number}

        def work(session: Session) -> None:
            row = session.row("trial_grades", **where)
            known: dict[str, Any] = {} if row is None else parse(row[0])
            if row is None or grader in known:
                return
            known[grader] = grade.model_dump()
            session.run("trial_grade", **where, grades=json.dumps(known), cost=row[1] + cost_nanousd)

        self._database.transact(work)

    def trials(self, evaluation_id: str) -> list[StoredTrial]:
        """Give every trial that has a result."""
        rows = self._database.execute(lambda session: session.rows("trial_list", evaluation_id=evaluation_id))
        return [_trial(row) for row in rows]

    def facts(self, run_ids: Sequence[str]) -> dict[str, Facts]:
        """Give how long runs took and what they cost."""
        which = list(run_ids)
        rows = self._database.execute(lambda session: session.rows("run_times", ids=which))
        costs = self._database.execute(lambda session: session.rows("run_costs", ids=which))
        spent = {row[0]: (int(row[1]), int(row[2])) for row in costs}
        return {row[0]: Facts(_milliseconds(row[1], row[2]), *spent.get(row[0], (0, 0))) for row in rows}


def _milliseconds(started_at: Any, finished_at: Any) -> int | None:
    began, ended = times(started_at), times(finished_at)
    return None if began is None or ended is None else max(0, round((ended - began).total_seconds() * 1000))


def _head(row: Row) -> EvaluationHead:
    identity, name, project, state, cases, definition, created_at, finished_at = row
    made = times(created_at)
    assert made is not None
    return EvaluationHead(identity, name, project, state, cases, parse(definition), made, times(finished_at))


def _columns(trial: NewTrial) -> dict[str, Any]:
    return {
        "tenant_id": DEFAULT_TENANT_ID,
        "number": trial.number,
        "variant": trial.variant,
        "case_id": trial.case_id,
        "case_digest": trial.case_digest,
        "tags": json.dumps(trial.tags),
        "run_id": trial.run_id,
        "succeeded": trial.succeeded,
        "output": None if trial.output is None else json.dumps(trial.output, ensure_ascii=False),
        "error": trial.error,
        "grades": json.dumps({name: grade.model_dump() for name, grade in trial.grades.items()}),
        "milliseconds": trial.facts.milliseconds,
        "cost": trial.facts.cost_nanousd,
        "tokens": trial.facts.tokens,
    }


def _trial(row: Row) -> StoredTrial:
    number, variant, case_id, digest, tags, run_id, succeeded, output, error, grades, *figures = row
    milliseconds, cost, judging, tokens = figures
    return StoredTrial(
        number=number,
        variant=variant,
        case_id=case_id,
        case_digest=digest,
        tags=tuple(parse(tags)),
        run_id=run_id,
        succeeded=bool(succeeded),
        output=parse(output),
        error=error,
        grades={name: Grade.model_validate(grade) for name, grade in parse(grades).items()},
        facts=Facts(milliseconds, cost, tokens),
        judge_nanousd=judging,
    )
