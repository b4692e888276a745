"""What a store keeps of evaluations and experiments, on either database."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from steps import FAILED, Steps, plan_of, task

from orchestrator.clock import ids
from orchestrator.contracts.budget import Charge
from orchestrator.contracts.evaluation import Grade
from orchestrator.contracts.experiment import Experiment
from orchestrator.contracts.run import RunFilter, RunState
from orchestrator.contracts.variant import Changes
from orchestrator.errors import IdempotencyConflict
from orchestrator.store.arms import create_arms
from orchestrator.store.creation import Arm, NewRun
from orchestrator.store.defaults import DEFAULT_PROJECT_ID
from orchestrator.store.evaluations import Facts, NewTrial
from orchestrator.store.listing import count_runs, list_runs
from orchestrator.store.store import Store

PASSED = Grade(score=1, passed=True)


def begin(store: Store, digest: str = "d") -> str:
    return store.evaluations.begin(DEFAULT_PROJECT_ID, "titles", digest, definition={"variants": {"base": {}}}, cases=2)


def trial(number: int = 1, output: object = "out") -> NewTrial:
    return NewTrial(
        number=number,
        variant="base",
        case_id=f"case{number}",
        case_digest="c",
        tags=("x",),
        run_id=ids.new(),
        succeeded=True,
        output=output,
        error=None,
        grades={"exact": PASSED},
        facts=Facts(1500, 7, 30),
    )


def test_the_same_evaluation_goes_on_until_it_has_ended(store: Store) -> None:
    first = begin(store)
    assert begin(store) == first
    assert begin(store, "other") != first
    store.evaluations.end(first)
    assert begin(store) != first
    head = store.evaluations.head(first)
    assert head is not None
    assert (head.name, head.project, head.state, head.cases) == ("titles", "default", "finished", 2)
    assert head.finished_at is not None
    assert store.evaluations.head(ids.new()) is None


def test_processes_that_begin_the_same_evaluation_at_once_have_one(store: Store) -> None:
    started = threading.Barrier(4)

    def one(_: int) -> str:
        started.wait()
        return begin(store, "at once")

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(one, range(4)))) == 1


def test_what_came_of_a_trial_is_there_once_as_it_was_written_first(store: Store) -> None:
    evaluation = begin(store)
    store.evaluations.add(evaluation, [trial(2), trial(1, {"text": "é"})])
    store.evaluations.add(evaluation, [trial(1, "later")])
    one, two = store.evaluations.trials(evaluation)
    assert (one.number, one.output, one.tags, one.facts) == (1, {"text": "é"}, ("x",), Facts(1500, 7, 30))
    assert two.grades == {"exact": PASSED}


def test_a_verdict_is_added_once_and_paid_for_once(store: Store) -> None:
    evaluation = begin(store)
    store.evaluations.add(evaluation, [trial()])
    for score in (0.5, 0.9):
        grade = Grade(score=score, passed=True)
        store.evaluations.grade(evaluation, 1, "judge", grade=grade, cost_nanousd=11)
    store.evaluations.grade(evaluation, 9, "judge", grade=PASSED, cost_nanousd=11)
    [found] = store.evaluations.trials(evaluation)
    assert found.grades == {"exact": PASSED, "judge": Grade(score=0.5, passed=True)}
    assert found.judge_nanousd == 11


def experiment(**changes: object) -> Experiment:
    given = {
        "name": "terse",
        "agent": "titler",
        "changes": Changes(model="offline"),
        "share": Decimal("0.1"),
        **changes,
    }
    return Experiment.model_validate(given)


def test_an_experiment_is_what_it_was_set_to_last(store: Store) -> None:
    store.experiments.put(experiment())
    store.experiments.put(experiment(share=Decimal("0.25"), active=False))
    [(found, _)] = store.experiments.all()
    assert found == experiment(share=Decimal("0.25"), active=False)


ASKED = plan_of(task("a"))
VARIED = plan_of(task("a", model="offline"))


def new(label: str | None, key: str | None = None) -> NewRun:
    asked = None if label is None else ASKED.workflow.digest
    return NewRun(ids.new(), '{"n":1}', key, charge=Charge(variant=label), asked=asked)


def test_runs_of_two_arms_are_made_together_and_each_keeps_its_workflow(store: Store) -> None:
    arms = [Arm(ASKED, (new("t/control"),), ASKED), Arm(VARIED, (new("t/variant"), new("t/variant")), ASKED)]
    [control], variant = (each.ids for each in create_arms(store.database, store.runs, arms, project="default"))
    heads = [store.runs.head(run_id) for run_id in (control, *variant)]
    assert [head.variant for head in heads] == ["t/control", "t/variant", "t/variant"]
    assert [store.runs.plan(head.workflow_id).tasks[0].model for head in heads] == [None, "offline", "offline"]


def test_arms_are_made_whole_or_not_at_all(store: Store) -> None:
    store.runs.create(ASKED, [new(None, "k")], project="default")
    other = NewRun(ids.new(), '{"n":2}', "k", asked=ASKED.workflow.digest)
    with pytest.raises(IdempotencyConflict, match="another input"):
        create_arms(
            store.database,
            store.runs,
            [Arm(ASKED, (new("t/control"),), ASKED), Arm(VARIED, (other,), ASKED)],
            project="default",
        )
    assert count_runs(store.database, RunFilter()) == 1


@pytest.mark.parametrize("first", ["asked", "control", "variant"])
@pytest.mark.parametrize("again", ["asked", "control", "variant"])
def test_a_key_stands_for_what_was_asked_for_whatever_experiments_make_of_it(
    store: Store, first: str, again: str
) -> None:
    def submit(how: str, asked: Arm) -> str:
        [created] = create_arms(store.database, store.runs, [asked], project="default")
        return created.ids[0]

    def arm(how: str) -> Arm:
        label = None if how == "asked" else f"t/{how}"
        return Arm(VARIED if how == "variant" else ASKED, (new(label, "k"),), ASKED)

    assert submit(first, arm(first)) == submit(again, arm(again))
    other = plan_of(task("b"))
    with pytest.raises(IdempotencyConflict, match="another workflow"):
        submit("other", Arm(other, (NewRun(ids.new(), '{"n":1}', "k"),), other))


def test_runs_are_listed_and_counted_by_their_variant(store: Store) -> None:
    steps = Steps(store, ASKED)
    runs = [new("t/control"), new("t/variant"), new("t/variant"), new(None)]
    store.runs.create(ASKED, runs, project="default")
    steps.do(runs[1].id, "a")
    store.runs.fail(steps.claim(runs[2].id, "a"), FAILED)
    listed = list_runs(store.database, RunFilter(variant="t/variant"), limit=9)
    assert {row.id for row in listed} == {runs[1].id, runs[2].id}
    assert {row.variant for row in listed} == {"t/variant"}
    failed = RunFilter(variant="t/variant", states=(RunState.FAILED,), project="default", workflow="workflow")
    assert [row.id for row in list_runs(store.database, failed, limit=9)] == [runs[2].id]
    assert [row.id for row in list_runs(store.database, RunFilter(variant="t/control"), limit=9)] == [runs[0].id]
    counts = store.experiments.counts(["t/control", "t/variant"])
    assert counts["t/variant"].states == {RunState.SUCCEEDED: 1, RunState.FAILED: 1}
    assert len(store.experiments.seconds("t/variant")) == 1
    assert json.dumps(store.evaluations.facts([runs[1].id])[runs[1].id].milliseconds) != "null"
