"""The first half of an evaluation: every case under every variant, and what can be said of it without asking a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.batch.result import RowResult
from orchestrator.batch.source import Row
from orchestrator.contracts.evaluation import Case, Evaluation, Function, Grade, Judge
from orchestrator.contracts.run import RunState
from orchestrator.evaluation import functions
from orchestrator.evaluation.graders import graded
from orchestrator.evaluation.rows import decided
from orchestrator.store.evaluations import Evaluations, Facts, NewTrial


@dataclass(frozen=True, slots=True)
class Trials:
    """Cases and variants as numbers: from 1 on, all variants of a case side by side."""

    evaluation: Evaluation
    names: tuple[str, ...]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Trials:
        """Give those of an evaluation."""
        return cls(evaluation, tuple(evaluation.variants))

    def __len__(self) -> int:
        return len(self.evaluation.cases) * len(self.names)

    def case(self, number: int) -> Case:
        """Give the case of a trial."""
        return self.evaluation.cases[(number - 1) // len(self.names)]

    def variant(self, number: int) -> int:
        """Give the index of a trial's variant."""
        return (number - 1) % len(self.names)

    def rows(self, done: set[int]) -> Iterator[Row]:
        """Give what is run: the inputs of trials that have no result yet."""
        for number in range(1, len(self) + 1):
            if number not in done:
                changes = self.evaluation.variants[self.names[self.variant(number)]].input
                yield Row(number, _laid_over(self.case(number).input, changes), 0)


@dataclass(slots=True)
class TrialResults:
    """Writes what came of trials, with the grades of those who need nobody else."""

    store: Evaluations
    evaluation_id: str
    trials: Trials
    called: Mapping[str, Callable[..., Any]]
    stop: Callable[[str], None] = field(default=lambda _: None)

    def append(self, results: Sequence[RowResult], /) -> None:
        """Write results: after a kill they are there, and are not paid for again."""
        said = decided(results, self.stop)
        facts = self.store.facts([result.run_id for result in said if result.run_id is not None])
        self.store.add(self.evaluation_id, [self._trial(result, facts) for result in said])

    def _trial(self, result: RowResult, facts: Mapping[str, Facts]) -> NewTrial:
        case = self.trials.case(result.line)
        succeeded = result.state is RunState.SUCCEEDED
        return NewTrial(
            number=result.line,
            variant=self.trials.names[self.trials.variant(result.line)],
            case_id=case.id,
            case_digest=digest_of(case),
            tags=case.tags,
            run_id=result.run_id,
            succeeded=succeeded,
            output=result.output,
            error=None if result.error is None else f"{result.error.code}: {result.error.message}",
            grades=dict(self._grades(case, result.output)) if succeeded else {},
            facts=facts.get(result.run_id or "", Facts()),
        )

    def _grades(self, case: Case, output: Any) -> Iterator[tuple[str, Grade]]:
        evaluation = self.trials.evaluation
        for name, grader in zip(evaluation.grader_names, evaluation.graders, strict=True):
            if isinstance(grader, Function):
                yield name, functions.asked(grader, self.called[name], output, case)
            elif not isinstance(grader, Judge):
                yield name, graded(grader, output, case.expected)


def digest_of(case: Case) -> str:
    """Give a hash of what is asked and what is expected."""
    return hashlib.sha256(case.model_dump_json(include={"input", "expected"}).encode()).hexdigest()[:32]


def _laid_over(value: Any, fields: Mapping[str, Any] | None) -> Any:
    if fields is None:
        return value
    return {**value, **fields} if isinstance(value, Mapping) else dict(fields)
