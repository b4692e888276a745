"""Teams whose members ask a model, an emulated one: whom it may name, what each has cost, and what a budget does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Budget, CostFilter, Orchestrator, Settings, leader_follower
from orchestrator import consensus as consensus_of
from orchestrator import handoff as handoff_of
from worker.emulator import Answer, Emulator, Match

AGENTS = {
    "leads.py": """
from typing import Any
from pydantic import BaseModel
from worker.agent import BaseAgent, Context
from worker.teams import Assignments, HandoffTurn, LeaderTurn, Turn


class Order(BaseModel):
    text: str


class Lead(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: LeaderTurn, ctx: Context) -> Assignments:
        answer = data.answer(input=Order, result=str)
        return ctx.llm(data.model_dump_json(), system="You lead.", output=answer, max_output_tokens=500)


class Clerk(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: HandoffTurn, ctx: Context) -> Turn:
        return ctx.llm(data.model_dump_json(), system=f"You are {data.agent}.", output=data.answer(str))
""",
    "digger.yaml": """
model: openai:gpt-5-mini
system: You dig.
prompt: "{text}"
input: {text: str}
output: {found: str}
max_output_tokens: 100000
""",
    "pauper.yaml": """
model: openai:gpt-5-mini
system: You dig.
prompt: "{text}"
input: {text: str}
limits: {usd: 0.0000001}
""",
    "judge_of_harbours.yaml": """
model: openai:gpt-5-mini
system: You judge.
prompt: "{member} {round}"
input: {task: any, round: int, member: str, opinions: any}
output: {answer: dredge | move, reason: str}
""",
}
LEAD, DIG = Match(system="You lead"), Match(system="You dig")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator() as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def nf(tmp_path: Path, emulator: Emulator) -> Iterator[Orchestrator]:
    (tmp_path / "agents").mkdir()
    for name, text in AGENTS.items():
        (tmp_path / "agents" / name).write_text(text)
    given: dict[str, Any] = {"home": tmp_path / "home", "agents_path": str(tmp_path / "agents"), "suspend_after": 0.1}
    with Orchestrator.embedded(settings=Settings(**given)) as made:
        yield made


def said(value: Any) -> Answer:
    return Answer(text=json.dumps(value))


def assigning(to: str) -> Answer:
    order = {"to": to, "input": {"text": "Dig in the east."}, "id": None, "after": []}
    return said({"assignments": [order], "result": None})


def test_a_model_leads_models_and_each_of_them_is_seen_in_the_costs(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(LEAD, [assigning("digger"), said({"assignments": [], "result": "coal"})])
    emulator.reply_to(DIG, [said({"found": "coal"})])
    run = nf.submit(leader_follower("lead", ["digger"]), {"what": "coal"})
    assert run.result(60) == "coal"
    costs = {line.agent: line.calls for line in nf.costs(("agent",), CostFilter(run=run.id))}
    assert costs == {"lead": 2, "digger": 1}


def test_a_model_that_assigns_to_nobody_is_asked_again_in_the_same_turn(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(LEAD, [assigning("diger"), said({"assignments": [], "result": "nothing"})])
    run = nf.submit(leader_follower("lead", ["digger"]), {})
    assert run.result(60) == "nothing"
    assert [part.task for part in run.snapshot().agent_runs] == ["leader_follower", "leader_follower-1"]


def test_agents_of_models_agree_and_hand_over(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(Match(text="^ann"), [said({"answer": "dredge", "reason": "cheap"})] * 2)
    emulator.reply_to(Match(text="^bob 1"), [said({"answer": "move", "reason": "deep"})])
    emulator.reply_to(Match(text="^bob 2"), [said({"answer": "dredge", "reason": "cheap, true"})])
    members = {"ann": "judge_of_harbours", "bob": "judge_of_harbours"}
    found = nf.submit(consensus_of(members, rule="unanimous"), {"text": "Silt."}).result(60)
    assert (found["answer"], found["rounds"]) == ("dredge", 2)
    emulator.reply_to(Match(system="are desk"), [said({"handoff": "cashier", "message": "pay", "result": None})])
    emulator.reply_to(Match(system="are cashier"), [said({"handoff": None, "message": None, "result": "paid"})])
    assert nf.submit(handoff_of({"desk": "clerk", "cashier": "clerk"}), {}).result(60) == "paid"


def test_a_budget_that_is_used_up_ends_the_team_before_anybody_else_is_asked(
    nf: Orchestrator, emulator: Emulator
) -> None:
    emulator.reply_to(LEAD, [assigning("digger")], repeat=True)
    budget = Budget(usd=Decimal("0.02"), on_cap="fail")
    result = nf.submit(leader_follower("lead", ["digger"]), {}, budget=budget).wait(60)
    assert result.error is not None
    assert result.error.code == "call_failed"
    assert (result.error.cause or {})["code"] == "budget_exceeded"
    assert len(emulator.calls) == 1, "the leader is not told: it could not pay either"


def test_a_team_waits_for_a_budget_that_is_raised(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(LEAD, [assigning("digger"), said({"assignments": [], "result": "coal"})])
    emulator.reply_to(DIG, [said({"found": "coal"})])
    run = nf.submit(leader_follower("lead", ["digger"]), {}, budget=Decimal("0.02"))
    next(each for each in run.events() if each.task == "leader_follower-2" and each.state == "suspended")
    nf.raise_budget(f"run/{run.id}", 5)
    assert run.result(60) == "coal"


def test_a_member_that_reaches_its_own_limit_is_a_failure_that_the_leader_is_told(
    nf: Orchestrator, emulator: Emulator
) -> None:
    emulator.reply_to(LEAD, [assigning("pauper"), said({"assignments": [], "result": "nobody digs"})])
    run = nf.submit(leader_follower("lead", ["pauper"]), {})
    assert run.result(60) == "nobody digs"
    assert [str(part.state) for part in run.snapshot().agent_runs][2] == "failed"
