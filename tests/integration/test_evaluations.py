"""Evaluations without a fleet: graded, judged by a model, stopped by money, and killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fleet import settings_of

from orchestrator import (
    AsyncOrchestrator,
    Case,
    Changes,
    CostFilter,
    Evaluation,
    Exact,
    Experiment,
    Judge,
    Orchestrator,
    RunFilter,
    UnknownAgent,
    UsageError,
    Variant,
)
from worker.emulator import Answer, Emulator, Match

PROOF_AGENTS = Path(__file__).parents[1] / "proof_agents"
ECHO = """
from pydantic import BaseModel
from worker.agent import BaseAgent, Context

class Text(BaseModel):
    text: str

class Echo(BaseAgent):
    \"\"\"Say what the model says.\"\"\"

    model = "openai:gpt-5-mini"

    def execute(self, data: Text, ctx: Context) -> Text:
        return Text(text=ctx.llm(data.text, system="Answer at length."))

class Loud(Echo):
    \"\"\"Shout.\"\"\"

    def execute(self, data: Text, ctx: Context) -> Text:
        return Text(text=data.text.upper())

class Broken(Echo):
    \"\"\"Fail.\"\"\"

    def execute(self, data: Text, ctx: Context) -> Text:
        raise ValueError("no")
"""
CASES = tuple(Case(id=name, input={"text": name}, expected=f"{name}!") for name in ("one", "two", "three"))


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Emulator() as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def nf(tmp_path: Path) -> Any:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/echo.py").write_text(ECHO)
    settings = settings_of(home=tmp_path / ".nightfleet", agents_path=str(tmp_path / "agents"))
    with Orchestrator.embedded(settings=settings) as made:
        yield made


def evaluation(*graders: Any, workflow: str = "echo", **variants: Variant) -> Evaluation:
    given = {"variants": variants} if variants else {}
    return Evaluation(name="echoes", workflow=workflow, cases=CASES, graders=graders or (Exact(),), **given)


def test_a_variant_changes_model_prompt_agent_and_input(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(Match(system="^Answer in a word"), [Answer(text="two!")], repeat=True)
    emulator.reply_to(Match(text="^three$"), [Answer(text="three!")], repeat=True)
    report = nf.evaluate(
        evaluation(
            base=Variant(),
            other=Variant(model="anthropic:claude-haiku-4-5"),
            terse=Variant(system="Answer in a word."),
            loud=Variant(agent="loud"),
            same=Variant(input={"text": "three"}),
            twice=Variant(workflow="echo | loud"),
        )
    )
    assert report.state == "finished"
    by_name = {each.variant: each for each in report.variants}
    assert by_name["base"].score == pytest.approx(0.3333, abs=1e-4)
    assert by_name["same"].score == pytest.approx(0.3333, abs=1e-4)
    outputs = {(each.variant, each.case): each.output["text"] for each in report.trials}
    assert outputs["loud", "one"] == "ONE"
    assert outputs["twice", "three"] == "THREE!"
    assert outputs["same", "one"] == "three!"
    assert {outputs["terse", case.id] for case in CASES} == {"two!"}
    assert sum(call.model.startswith("claude-haiku-4-5") for call in emulator.calls) == 3
    assert by_name["loud"].usd == "0"
    assert float(by_name["other"].usd) > 0
    assert by_name["other"].median_seconds is not None
    assert {each.variant for each in nf.runs(RunFilter(variant="echoes/loud"))} == {"echoes/loud"}
    costs = {line.variant: line.calls for line in nf.costs(("variant",), CostFilter())}
    assert costs["echoes/other"] == 3


def test_a_model_judges_in_runs_of_its_own_that_are_priced(nf: Orchestrator, emulator: Emulator) -> None:
    verdict = json.dumps({"reason": "It is short.", "score": 0.75})
    emulator.reply_to(Match(text="Judge the output"), [Answer(text=verdict)], repeat=True)
    judge = Judge(rubric="It is short.", model="openai:gpt-5", pass_at=0.7)
    report = nf.evaluate(evaluation(judge, workflow="loud"))
    [base] = report.variants
    assert (base.score, base.pass_rate, base.ungraded) == (0.75, 1.0, 0)
    assert float(base.judge_usd) > 0
    assert base.usd == "0"
    assert {trial.grades["judge"].reason for trial in report.trials} == {"It is short."}
    assert [line.agent for line in nf.costs(("agent",), CostFilter(batch=report.id))] == ["judge"]
    assert nf.evaluation(report.id) == report
    assert [each.id for each in nf.evaluations()] == [report.id]


def test_no_experiment_changes_who_judges(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(Match(text="Judge the output"), [Answer(text='{"reason": "", "score": 1}')], repeat=True)
    nf.set_experiment(Experiment(name="other", agent="judge", changes=Changes(model="offline"), share=Decimal(1)))
    report = nf.evaluate(evaluation(Judge(rubric="good", model="openai:gpt-5"), workflow="loud"))
    assert report.variants[0].score == 1.0
    assert [arm.runs for arm in nf.experiment("other").arms] == [0, 0]
    assert {line.variant: line.calls for line in nf.costs(("variant",), CostFilter())} == {"echoes/judge/judge": 3}


def test_a_judge_that_gives_no_verdict_leaves_its_cases_ungraded(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(Match(text="Judge the output"), [Answer(text="I like it.")], repeat=True)
    report = nf.evaluate(evaluation(Judge(rubric="good", model="offline"), workflow="loud"))
    [base] = report.variants
    assert (base.score, base.ungraded, base.failed) == (None, 3, 0)
    assert "the judge gave no verdict: model_capability: a judge needs a language model" in str(report.trials[0].grades)


def test_a_run_that_fails_scores_nothing(nf: Orchestrator) -> None:
    report = nf.evaluate(evaluation(workflow="broken"))
    [base] = report.variants
    assert (base.score, base.failed, base.ungraded) == (0.0, 3, 0)
    assert "ValueError: no" in str(report.trials[0].error)


def test_money_that_is_used_up_stops_it_and_more_of_it_goes_on(nf: Orchestrator, emulator: Emulator) -> None:
    given = evaluation()
    report = nf.evaluate(given, budget=0.000001)
    assert report.state == "running"
    assert "the budget of batch/" in str(report.stopped_by)
    assert report.trials == ()
    again = nf.evaluate(given, budget=10)
    assert (again.id, again.state, len(again.trials)) == (report.id, "finished", 3)
    assert {trial.succeeded for trial in again.trials} == {True}


def test_what_will_not_do_is_refused_before_anything_is_run(nf: Orchestrator) -> None:
    with pytest.raises(UnknownAgent, match="nobody"):
        nf.evaluate(evaluation(workflow="nobody"))
    with pytest.raises(UnknownAgent, match="judgy"):
        nf.evaluate(evaluation(Judge(rubric="good", agent="judgy"), workflow="loud"))
    with pytest.raises(UsageError, match="there is no evaluation"):
        nf.evaluation("01a201a6-643e-7f5f-bafe-d5bc56a00000")
    assert nf.evaluations() == []
    assert nf.runs() == []


def test_evaluations_are_compared_by_their_cases_and_graded_alike(nf: Orchestrator) -> None:
    one = nf.evaluate(evaluation(workflow="loud")).id
    two = nf.evaluate(evaluation(workflow="loud", loud=Variant(), broken=Variant(agent="broken"))).id
    found = nf.compare(one, f"{two}/broken")
    assert (found.cases, found.difference) == (3, 0.0)
    with pytest.raises(UsageError, match="has the variants loud, broken: say which"):
        nf.compare(one, two)
    other = nf.evaluate(evaluation(Exact(field="text"), workflow="loud")).id
    with pytest.raises(UsageError, match="have different graders"):
        nf.compare(one, other)


def test_it_is_awaited_from_a_loop(tmp_path: Path, nf: Orchestrator) -> None:
    settings = settings_of(home=tmp_path / "other", agents_path=str(tmp_path / "agents"))

    async def work() -> None:
        async with AsyncOrchestrator.embedded(settings=settings) as loop_nf:
            report = await loop_nf.evaluate(evaluation(workflow="loud"))
            assert (await loop_nf.evaluation(report.id)).variants == report.variants
            assert [each.id for each in await loop_nf.evaluations()] == [report.id]
            assert (await loop_nf.compare(report.id, report.id)).difference == 0

    asyncio.run(work())


# A process ------------------------------------------------------------------------------------------------------------

FILE = """
name: proofs
workflow: branch
cases: cases.jsonl
graders: [{schema: {type: object}}]
variants: {base: {}, other: {input: {more: 1}}}
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "ledger").touch()
    (tmp_path / "e.yaml").write_text(FILE)
    (tmp_path / "cases.jsonl").write_text("".join(f'{{"input": {{"n": {n}}}}}\n' for n in range(20)))

    def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "orchestrator.cli", "eval", *options],
            cwd=tmp_path,
            env={
                **os.environ,
                "NIGHTFLEET_AGENTS_PATH": str(PROOF_AGENTS),
                "NIGHTFLEET_TEST_LEDGER": str(tmp_path / "ledger"),
                "NIGHTFLEET_HEARTBEAT": "0.3",
                "NIGHTFLEET_LEASE_TTL": "6",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.mark.parametrize(
    "point", ["after_batch_submit=kill:2", "before_batch_write=kill:2", "after_batch_write=kill:2"]
)
def test_a_killed_evaluation_goes_on_and_does_nothing_twice(
    point: str, start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    killed = start("run", "e.yaml", "--window", "8", NIGHTFLEET_FAILPOINTS=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    [begun] = json.loads(start("list", "--json").stdout)
    before = json.loads(start("show", begun["id"], "--json").stdout)["trials"]
    done = start("run", "e.yaml", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["state"], len(report["trials"]), len(json.loads(start("list", "--json").stdout))) == (
        "finished",
        40,
        1,
    )
    assert {each["succeeded"] for each in report["trials"]} == {True}
    assert len({each["run_id"] for each in report["trials"]}) == 40
    assert report["id"] == begun["id"]
    assert [each for each in report["trials"] if each["run_id"] in {one["run_id"] for one in before}] == before
    executed = [line.split()[1] for line in (tmp_path / "ledger").read_text().splitlines()]
    assert all(executed.count(each["run_id"]) == 1 for each in before)
    assert set(executed) == {each["run_id"] for each in report["trials"]}


def test_exit_codes_tell_a_build(start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    assert start("run", "e.yaml", "--min-score", "1").returncode == 0
    (tmp_path / "e.yaml").write_text(FILE.replace("type: object", "type: array"))
    missed = start("run", "e.yaml", "--min-score", "0.5", "--max-drop", "0.1")
    assert missed.returncode == 1
    assert "Error: base scores 0.000, which is below 0.5" in missed.stderr
    assert start("run", "e.yaml", "--max-drop", "0.1").returncode == 0
    assert start("run", "missing.yaml").returncode == 2
    # Wrong use is told before anything is run
    begun = len(json.loads(start("list", "--json").stdout))
    (tmp_path / "one.yaml").write_text(re.sub(r"(?m)^variants:.*(\n .*)*", "", FILE))
    alone = start("run", "one.yaml", "--max-drop", "0.1")
    assert (alone.returncode, "there is only one" in alone.stderr) == (2, True), alone.stderr
    assert start("run", "e.yaml", "--json", "--markdown").returncode == 2
    assert len(json.loads(start("list", "--json").stdout)) == begun
    assert start("show", "nonsense").returncode == 2
