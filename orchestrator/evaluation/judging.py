"""The second half of an evaluation: models judge what the trials have given, in runs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.batch.result import RowResult
from orchestrator.batch.source import Row
from orchestrator.contracts.evaluation import Evaluation, Grade, Judge
from orchestrator.contracts.run import RunState
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.evaluation.graders import looked_at
from orchestrator.evaluation.rows import decided
from orchestrator.evaluation.trials import Trials
from orchestrator.store.evaluations import Evaluations, Facts, StoredTrial


@dataclass(frozen=True, slots=True)
class Judges:
    """The judges of an evaluation by name, in their order."""

    named: tuple[tuple[str, Judge], ...]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Judges:
        """Give those that an evaluation has, perhaps none."""
        both = zip(evaluation.grader_names, evaluation.graders, strict=True)
        return cls(tuple((name, grader) for name, grader in both if isinstance(grader, Judge)))

    def __len__(self) -> int:
        return len(self.named)

    def workflow(self, index: int) -> WorkflowDefinition:
        """Give the workflow in which a judge is asked."""
        judge = self.named[index][1]
        return WorkflowDefinition(
            name=judge.agent, tasks=(TaskDefinition(id="judge", agent=judge.agent, model=judge.model),)
        )

    def place(self, line: int) -> tuple[int, int]:
        """Give the trial and the index of the judge of a line."""
        trial, index = divmod(line - 1, len(self))
        return trial + 1, index

    def rows(self, trials: Trials, stored: Sequence[StoredTrial]) -> Iterator[Row]:
        """Give what judges are asked: of each trial that has an output and no grade of theirs."""
        for trial in stored:
            if not trial.succeeded:
                continue
            for index, (name, judge) in enumerate(self.named):
                if name not in trial.grades:
                    line = (trial.number - 1) * len(self) + index + 1
                    yield Row(line, _question(judge, trials, trial), 0)


def _question(judge: Judge, trials: Trials, trial: StoredTrial) -> dict[str, Any]:
    case = trials.case(trial.number)
    try:
        output = looked_at(judge, trial.output, case.expected)
    except LookupError as error:
        output = str(error)
    asked = {"rubric": judge.rubric, "pass_at": judge.pass_at, "input": case.input, "output": output}
    return asked if case.expected is None else {**asked, "expected": case.expected}


@dataclass(slots=True)
class Verdicts:
    """Writes what judges have said; one that gives no verdict leaves a grade that is missing."""

    store: Evaluations
    evaluation_id: str
    judges: Judges
    stop: Callable[[str], None] = field(default=lambda _: None)

    def append(self, results: Sequence[RowResult], /) -> None:
        """Write verdicts: after a kill they are there, and are not paid for again."""
        said = decided(results, self.stop)
        facts = self.store.facts([result.run_id for result in said if result.run_id is not None])
        for result in said:
            number, index = self.judges.place(result.line)
            name, judge = self.judges.named[index]
            cost = facts.get(result.run_id or "", Facts()).cost_nanousd
            self.store.grade(self.evaluation_id, number, name, grade=verdict_of(judge, result), cost_nanousd=cost)


def verdict_of(judge: Judge, result: RowResult) -> Grade:
    """Give the grade that a judge's run came to."""
    if result.state is not RunState.SUCCEEDED:
        why = "it ended without a word" if result.error is None else f"{result.error.code}: {result.error.message}"
        return Grade.failed(f"the judge gave no verdict: {why}")
    said: Mapping[str, Any] = result.output if isinstance(result.output, Mapping) else {}
    score = said.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        return Grade.failed(
            f"the judge gave no verdict: the output of agent {judge.agent!r} has no `score` from 0 to 1, but {score!r:.100}"
        )
    return Grade(score=score, passed=score >= judge.pass_at, reason=str(said.get("reason", "")))
