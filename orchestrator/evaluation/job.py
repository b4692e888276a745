"""An evaluation from its definition to its report, as two batches: the trials, then their judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.batch.engine import Engine, Results, RunsOfRows, Watch
from orchestrator.batch.runs import BatchRuns, Marks
from orchestrator.batch.source import Row
from orchestrator.batch.tally import Tally
from orchestrator.batch.window import Window
from orchestrator.contracts.batch import BatchOptions
from orchestrator.contracts.budget import Scope
from orchestrator.contracts.evaluation import Evaluation, EvaluationReport, Function
from orchestrator.contracts.variant import Variant
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.costs import set_budget
from orchestrator.evaluation import functions, graders
from orchestrator.evaluation.judging import Judges, Verdicts
from orchestrator.evaluation.report import report_of
from orchestrator.evaluation.rows import SideBySide, is_undecided
from orchestrator.evaluation.trials import TrialResults, Trials
from orchestrator.planning.files import resolve_workflow
from orchestrator.planning.frontier import Plan
from orchestrator.planning.variants import changed
from orchestrator.service import Service


def evaluate(
    service: Service, evaluation: Evaluation, *, project: str, options: BatchOptions, watch: Watch
) -> EvaluationReport:
    """Run, grade and report; after a kill, an exception or an outage the same call goes on, and pays for nothing twice.

    It is the same one while its definition, its cases and its project are. One that has come to its end is begun anew. Raises
    `UsageError` before anything is run where the evaluation will not do.
    """
    work = _Work.of(service, evaluation, project, options)
    stored = service.kernel.store.evaluations
    work.move(_Trials(work), watch)
    if work.stopped_by is None:
        work.move(_Judging(work), watch)
    if work.stopped_by is None:
        stored.end(work.id)
    return report_of(stored, work.id, stopped_by=work.stopped_by)


@dataclass(slots=True)
class _Work:
    """One evaluation as this process moves it."""

    service: Service
    evaluation: Evaluation
    trials: Trials
    judges: Judges
    plans: tuple[Plan, ...]
    project: str
    options: BatchOptions
    called: dict[str, Callable[..., Any]]
    id: str = ""
    stopped_by: str | None = None

    @classmethod
    def of(cls, service: Service, evaluation: Evaluation, project: str, options: BatchOptions) -> _Work:
        """Check everything that can be checked, and find or make its row."""
        graders.check(evaluation.graders, evaluation.cases)
        named = zip(evaluation.grader_names, evaluation.graders, strict=True)
        called = {name: functions.load(grader) for name, grader in named if isinstance(grader, Function)}
        base = resolve_workflow(evaluation.workflow)
        plans = tuple(service.plan(_varied(base, variant)) for variant in evaluation.variants.values())
        work = cls(service, evaluation, Trials.of(evaluation), Judges.of(evaluation), plans, project, options, called)
        for index in range(len(work.judges)):
            service.plan(work.judges.workflow(index))
        store = service.kernel.store
        store.runs.make_project(project)
        project_id = store.runs.find_project(project)
        assert project_id is not None
        definition = evaluation.model_dump(mode="json", by_alias=True, exclude={"cases"})
        work.id = store.evaluations.begin(
            project_id, evaluation.name, work.digest(), definition=definition, cases=len(evaluation.cases)
        )
        if options.budget is not None:
            set_budget(service, Scope("batch", work.id), options.budget)
        return work

    def digest(self) -> str:
        """Give a hash of all that the results follow from, but for the agents' code."""
        parts = [self.evaluation.model_dump_json(by_alias=True), *(plan.workflow.digest for plan in self.plans)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def runs(self, plan: Plan, kind: str, name: str) -> BatchRuns:
        """Give the runs of one workflow in it; `name` is that of the variant, or `judge/` and that of the grader."""
        label = f"{self.evaluation.name}/{name}"
        marks = Marks(f"{kind}/{self.id}", self.id, label, reopens=lambda run: is_undecided(run.error))
        return BatchRuns(self.service, plan, project=self.project, marks=marks, options=self.options)

    def move(self, part: _Trials | _Judging, watch: Watch) -> None:
        """Run one half of it to its end, or until money is in the way."""
        rows = list(part.rows())

        def stop(reason: str) -> None:
            # No run after this one could be paid for.
            self.stopped_by = engine.hopeless = self.stopped_by or reason

        engine = Engine(
            rows=iter(rows),
            total=len(rows),
            runs=part.runs(),
            results=part.results(stop),
            tally=Tally(),
            window=Window(self.options.window),
            failures_allowed=None,
            watch=watch,
        )
        engine.run()


@dataclass(frozen=True, slots=True)
class _Trials:
    work: _Work

    def rows(self) -> Iterator[Row]:
        done = {trial.number for trial in self.work.service.kernel.store.evaluations.trials(self.work.id)}
        return self.work.trials.rows(done)

    def runs(self) -> RunsOfRows:
        work = self.work
        parts = [work.runs(plan, "eval", name) for plan, name in zip(work.plans, work.trials.names, strict=True)]
        return SideBySide(parts, work.trials.variant)

    def results(self, stop: Callable[[str], None]) -> Results:
        work = self.work
        return TrialResults(work.service.kernel.store.evaluations, work.id, work.trials, work.called, stop)


@dataclass(frozen=True, slots=True)
class _Judging:
    work: _Work

    def rows(self) -> Iterator[Row]:
        work = self.work
        return work.judges.rows(work.trials, work.service.kernel.store.evaluations.trials(work.id))

    def runs(self) -> RunsOfRows:
        work = self.work
        plans = [work.service.plan(work.judges.workflow(index)) for index in range(len(work.judges))]
        names = [f"judge/{name}" for name, _ in work.judges.named]
        parts = [work.runs(plan, "judge", name) for plan, name in zip(plans, names, strict=True)]
        return SideBySide(parts, lambda line: work.judges.place(line)[1])

    def results(self, stop: Callable[[str], None]) -> Results:
        return Verdicts(self.work.service.kernel.store.evaluations, self.work.id, self.work.judges, stop)


def _varied(base: WorkflowDefinition, variant: Variant) -> WorkflowDefinition:
    return changed(base if variant.workflow is None else resolve_workflow(variant.workflow), variant)
