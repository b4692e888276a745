"""A share of live runs gets a variant: chosen once, kept, told apart, and switched off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fleet import settings_of

from orchestrator import (
    Case,
    Changes,
    Evaluation,
    Exact,
    Experiment,
    Orchestrator,
    RunFailed,
    RunFilter,
    UnknownAgent,
    UsageError,
    Variant,
)
from orchestrator.assigning import is_chosen

AGENTS = """
from worker.agent import BaseAgent, Context

class Teller(BaseAgent):
    \"\"\"Say which model is asked.\"\"\"

    def execute(self, data: dict, ctx: Context) -> dict:
        if data.get("fail"):
            raise ValueError("no")
        return {"text": ctx.model}

class Alone(Teller):
    \"\"\"Say it in a process of its own.\"\"\"

    isolation = "process"
"""
VARIED = "openai:gpt-5"


def experiment(**given: Any) -> Experiment:
    about = {"name": "larger", "agent": "teller", "changes": Changes(model=VARIED), "share": Decimal("0.5"), **given}
    return Experiment.model_validate(about)


@pytest.fixture
def nf(tmp_path: Path) -> Iterator[Orchestrator]:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/teller.py").write_text(AGENTS)
    settings = settings_of(home=tmp_path / ".nightfleet", agents_path=str(tmp_path / "agents"))
    with Orchestrator.embedded(settings=settings) as made:
        yield made


def test_the_choice_follows_from_the_name_and_the_key_and_meets_the_share() -> None:
    tenth, half = experiment(share=Decimal("0.1")), experiment()
    chosen = {key for key in map(str, range(10_000)) if is_chosen(tenth, key)}
    assert 900 < len(chosen) < 1100
    assert chosen == {key for key in map(str, range(10_000)) if is_chosen(tenth, key)}
    assert chosen < {key for key in map(str, range(10_000)) if is_chosen(half, key)}, "a share that grows drops nobody"
    assert not is_chosen(experiment(share=0), "a")
    assert is_chosen(experiment(share=1), "a")


def test_runs_of_both_arms_are_told_apart(nf: Orchestrator) -> None:
    nf.set_experiment(experiment())
    results = [run.wait(60) for run in nf.submit_many("teller", [{"n": n} for n in range(40)])]
    arms = Counter((result.variant, result.output["text"]) for result in results)
    assert set(arms) == {("larger/control", "offline"), ("larger/variant", VARIED)}
    listed = {run.id for run in nf.runs(RunFilter(variant="larger/variant"))}
    assert listed == {result.id for result in results if result.variant == "larger/variant"}
    report = nf.experiment("larger")
    assert [(arm.arm, arm.runs, arm.failed) for arm in report.arms] == [
        ("control", arms["larger/control", "offline"], 0),
        ("variant", arms["larger/variant", VARIED], 0),
    ]
    assert (report.difference, report.verdict) == (0.0, "no difference that chance would not make")


def test_a_run_keeps_its_arm_when_it_is_submitted_again_retried_or_forked(nf: Orchestrator) -> None:
    nf.set_experiment(experiment(share=1))
    first = nf.submit("teller", {"fail": True}, idempotency_key="k")
    with pytest.raises(RunFailed):
        first.result(60)
    nf.stop_experiment("larger")
    assert nf.submit("teller", {"fail": True}, idempotency_key="k").id == first.id
    first.retry()
    again = first.wait(60)
    assert (again.variant, again.state) == ("larger/variant", "failed")
    fork = nf.fork(first, from_task="teller", input={"n": 1}).wait(60)
    assert (fork.variant, fork.output["text"]) == ("larger/variant", VARIED)
    assert nf.submit("teller", {}).wait(60).variant is None


def test_an_agent_in_a_process_of_its_own_gets_its_variant_too(nf: Orchestrator) -> None:
    nf.set_experiment(experiment(agent="alone", share=1))
    assert nf.submit("alone", {}).wait(60).output["text"] == VARIED


def test_all_runs_of_a_user_are_treated_alike(nf: Orchestrator) -> None:
    nf.set_experiment(experiment(by="user"))
    arms = {user: {nf.submit("teller", {}, user=user).wait(60).variant for _ in range(3)} for user in "abcdefgh"}
    assert {len(each) for each in arms.values()} == {1}
    assert len(set().union(*arms.values())) == 2


def test_an_experiment_is_about_its_project_and_workflow_alone(nf: Orchestrator) -> None:
    nf.set_experiment(experiment(share=1, project="press"))
    assert nf.submit("teller", {}).wait(60).variant is None
    assert nf.submit("teller", {}, project="press").wait(60).variant == "larger/variant"


def test_one_that_is_about_something_else_needs_another_name(nf: Orchestrator) -> None:
    nf.set_experiment(experiment())
    assert nf.set_experiment(experiment(share=Decimal("0.9"))).share == Decimal("0.9")
    with pytest.raises(UsageError, match="is about something else already"):
        nf.set_experiment(experiment(changes=Changes(model="offline")))
    with pytest.raises(UsageError, match="did you mean 'larger'"):
        nf.stop_experiment("largr")


def test_a_workflow_without_the_task_that_is_meant_runs_as_it_is(nf: Orchestrator) -> None:
    nf.set_experiment(experiment(share=1, changes=Changes(task="other", model=VARIED)))
    assert nf.submit("teller", {}).wait(60).variant is None
    varied = nf.submit("[other=teller]", {}).wait(60)
    assert (varied.variant, varied.output["text"]) == ("larger/variant", VARIED)


def test_an_agent_that_there_is_not_is_refused_before_any_run_asks_for_it(nf: Orchestrator) -> None:
    with pytest.raises(UnknownAgent, match=r"tasks.variant.agent: unknown agent 'taller', did you mean 'teller'"):
        nf.set_experiment(experiment(changes=Changes(agent="taller")))
    with pytest.raises(UnknownAgent, match=r"tasks.experiment.agent: unknown agent 'taller'"):
        nf.set_experiment(experiment(agent="taller"))
    with pytest.raises(ValueError, match="'celery' is none"):
        Changes(agent="celery")
    assert nf.submit("teller", {}).wait(60).variant is None


def test_runs_are_submitted_while_nobody_can_do_what_a_variant_wants(
    nf: Orchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an experiment whose agent has gone since
    service = nf._ready()  # pyright: ignore[reportPrivateUsage]
    service.kernel.store.experiments.put(experiment(share=1, changes=Changes(agent="gone")))
    # Then nobody's run pays for that
    assert nf.submit("teller", {}).wait(60).variant is None
    assert "experiment larger takes no runs: " in caplog.text


def test_runs_of_an_evaluation_of_the_same_name_are_not_counted(nf: Orchestrator) -> None:
    nf.set_experiment(experiment(share=0))
    nf.submit("teller", {}).wait(60)
    variants = {"control": Variant(), "variant": Variant(input={"n": 1})}
    case, grader = Case(id="a", input={}, expected="offline"), Exact()
    nf.evaluate(Evaluation(name="larger", workflow="teller", cases=(case,), graders=(grader,), variants=variants))
    assert [arm.runs for arm in nf.experiment("larger").arms] == [1, 0]
