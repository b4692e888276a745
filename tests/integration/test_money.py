"""Budgets and costs as producers use them, blocking and awaited."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from emulated import emulated
from spending import Purse, call_of
from steps import Steps, plan_of, task

from orchestrator import (
    AgentRunResult,
    AsyncOrchestrator,
    Budget,
    CostFilter,
    Orchestrator,
    RunHandle,
    Settings,
    UsageError,
)
from orchestrator.clock import system_clock
from orchestrator.contracts.budget import Bill, Call, Capped
from orchestrator.contracts.effect import Slot
from orchestrator.failpoints import FailpointError, armed
from orchestrator.store.agent_runs import Claim
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.ledger import Ledger
from orchestrator.store.store import Store


@pytest.fixture
def nf(tmp_path: Path) -> Orchestrator:
    return Orchestrator.embedded(tmp_path / "home")


def spend(store: Store, usd: int) -> None:
    """Spend something in the project `default`."""
    purse = Purse(Steps(store, plan_of(task("a"))))
    purse.ledger.settle(call_of(purse.claim()), Bill(usd * 10**9))


def test_a_budget_is_set_raised_seen_and_ended(nf: Orchestrator) -> None:
    with nf:
        made = nf.set_budget("user/ada", Budget(usd=Decimal(2), period="day", on_cap="fail"))
        assert (made.scope, made.limit_usd, made.period) == ("user/ada", "2", "day")
        assert nf.raise_budget("user/ada", Decimal("0.5"), by=True).limit_usd == "2.5"
        assert nf.raise_budget("user/ada", 3, period="day").limit_usd == "3"
        assert nf.set_budget("project/press", 10).on_cap == "pause"
        assert [each.scope for each in nf.budgets()] == ["project/press", "user/ada"]
        assert [each.scope for each in nf.budgets("user/ada")] == ["user/ada"]
        with pytest.raises(UsageError, match="has no budget for a month"):
            nf.remove_budget("user/ada", period="month")
        assert nf.remove_budget("user/ada").limit_usd == "3"
        assert [each.scope for each in nf.budgets()] == ["project/press"]


def test_costs_are_added_up_by_what_is_asked_for(nf: Orchestrator) -> None:
    with nf:
        assert nf.costs() == []
        spend(nf.service.kernel.store, 2)
        [line] = nf.costs(by=("project", "agent"))
        assert (line.project, line.agent, line.usd, line.calls) == ("default", "a", "2", 1)
        assert nf.costs(which=CostFilter(project="other")) == []


def test_a_run_says_whom_it_is_charged_to_and_has_its_own_budget(nf: Orchestrator) -> None:
    with nf:
        run = nf.submit("keywords", {"text": "Ships."}, user="ada", budget=Decimal("0.10"))
        many = nf.submit_many("keywords", [{"text": "Ships."}] * 2, user="bob", budget=1)
        assert run.wait(60).user == "ada"
        assert [each.wait(60).user for each in many] == ["bob", "bob"]
        limits = {each.scope: each.limit_usd for each in nf.budgets(of_runs=True)}
        assert limits == {f"run/{run.id}": "0.1"} | {f"run/{each.id}": "1" for each in many}
        fork = nf.fork(run, from_task="keywords")
        assert fork.wait(60).user == "ada"
        assert [each.limit_usd for each in nf.budgets(f"run/{fork.id}")] == ["0.1"]


SLEEPER = """
from worker.agent import BaseAgent, Context


class Sleeper(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.sleep(3600)
        return {}
"""


def standing(run: RunHandle, state: str, epoch: int) -> AgentRunResult:
    """Wait until the one agent run of a run is in this state, claimed so often."""
    deadline, pause = system_clock.monotonic() + 60, threading.Event()
    while True:
        [part] = run.snapshot().agent_runs
        if (part.state, part.epoch) == (state, epoch):
            return part
        assert system_clock.monotonic() < deadline, part
        pause.wait(0.02)


@pytest.mark.parametrize("dies", [False, True])
def test_a_raise_wakes_an_agent_run_that_waits_also_when_its_process_dies_in_between(
    tmp_path: Path, dies: bool
) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/sleeper.py").write_text(SLEEPER)
    settings = Settings(suspend_after=0.1, home=tmp_path / "home", agents_path=str(tmp_path / "agents"))  # pyright: ignore[reportArgumentType]
    with Orchestrator.embedded(settings=settings) as nf:
        nf.set_budget("tenant", 1)
        run = nf.submit("sleeper")
        part = standing(run, "suspended", 1)
        where = (DEFAULT_TENANT_ID, run.id, part.id, part.epoch, Slot("", 0), 1)
        answer = nf.service.kernel.store.ledger.reserve(Call(*where, "sleeper", "openai:small"), 2 * 10**9)
        assert isinstance(answer, Capped)
        assert nf.budgets()[0].waiting == 1
        if dies:
            with armed("after_budget_change=raise"), pytest.raises(FailpointError):
                nf.raise_budget("tenant", 3)
        else:
            nf.raise_budget("tenant", 3)
        standing(run, "suspended", 2)
        assert nf.budgets()[0].waiting == 0
        run.cancel()


def test_the_same_is_awaited(tmp_path: Path) -> None:
    async def work() -> None:
        async with AsyncOrchestrator.embedded(tmp_path / "home") as nf:
            run = await nf.submit("keywords", {"text": "Ships."}, user="ada", budget=Decimal("0.10"))
            assert (await run.wait(60)).user == "ada"
            await nf.set_budget("tenant", 5)
            assert (await nf.raise_budget("tenant", 1, by=True)).limit_usd == "6"
            assert [each.scope for each in await nf.budgets()] == ["tenant"]
            assert (await nf.remove_budget("tenant")).left_usd == "6"
            assert await nf.costs(["day"]) == []

    asyncio.run(work())


CAPPED = """
from decimal import Decimal
from worker.agent import BaseAgent, Context, Limits


class Frugal(BaseAgent):
    limits = Limits(usd=Decimal(1))
    model = "openai:emulated-small"

    def execute(self, data: dict, ctx: Context) -> list[str]:
        return [ctx.llm(f"{number}") for number in range(3)]
"""


def test_an_agent_run_is_capped_once_for_each_claim_however_many_calls_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = '[[prices]]\nmodel = "openai:emulated-small"\ninput = 1\noutput = 1\n'
    capped: list[str] = []
    cap = Ledger.cap_agent_run

    def counting(self: Ledger, claim: Claim, limit_nanousd: int) -> None:
        capped.append(claim.id)
        cap(self, claim, limit_nanousd)

    monkeypatch.setattr(Ledger, "cap_agent_run", counting)
    with emulated(tmp_path, monkeypatch, CAPPED, prices) as nf:
        run = nf.submit("frugal")
        assert len(run.result(60)) == 3
        [part] = run.snapshot().agent_runs
        assert capped == [part.id]
        [budget] = nf.budgets(f"agent-run/{part.id}")
        assert budget.spent_usd == nf.costs()[0].usd != "0"
