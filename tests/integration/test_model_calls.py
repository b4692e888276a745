"""Model calls of a fleet against the emulator, which keeps the bill: real workers, real SDKs, real HTTP."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, broker_url, fleet

from orchestrator.contracts.budget import Budget
from worker.emulator import Emulator, Fault, Latency, Price, RateLimit, Setup

AGENTS = Path(__file__).parents[1] / "model_agents"
MODEL = "emulated-small"
PRICE = Price(input=Decimal("2.50"), output=Decimal("10.00"), cached_input=Decimal("0.25"))
PRICES = f"""
[[prices]]
model = "openai:{MODEL}"
input = 2.50
output = 10.00
cached_input = 0.25
"""
LEFT_UNDONE = "SELECT count(*) FROM model_call WHERE state = 'reserved'"


@contextmanager
def installation(
    folder: Path, setup: Setup | None = None, models: str = "", lease_ttl: float = 60, **settings: Any
) -> Generator[tuple[Fleet, Emulator]]:
    """Give a fleet whose workers know the emulator alone, and its prices."""
    (folder / "models.toml").write_text(PRICES + models)
    setup = setup or Setup()
    with (
        Emulator(setup=setup.model_copy(update={"prices": (PRICE,)})) as emulator,
        fleet(
            folder,
            agents_path=AGENTS,
            models_file=folder / "models.toml",
            redis_url=broker_url("redis"),
            heartbeat=0.5,
            lease_ttl=lease_ttl,
            **settings,
        ) as made,
    ):
        made.environment |= emulator.env
        yield made, emulator


def spent(made: Fleet) -> int:
    """Give what the ledger says was spent."""
    return int(made.query("SELECT coalesce(sum(cost_nanousd), 0) FROM model_call WHERE state = 'settled'")[0][0])


def chain(word: str, calls: int, **more: Any) -> dict[str, Any]:
    return {"word": word, "calls": calls, **more}


def test_the_ledger_is_the_providers_bill_whoever_asks_and_however(tmp_path: Path) -> None:
    with installation(tmp_path) as (made, emulator):
        made.start_worker()
        runs = [
            made.orchestrator.submit(agent, chain(f"{agent} {number}", 3))
            for agent in ("chain", "fan", "alone")
            for number in range(4)
        ]
        made.finish()
        results = [run.snapshot() for run in runs]
        assert {str(result.state) for result in results} == {"succeeded"}
        assert len(emulator.calls) == 36
        assert spent(made) == emulator.bill.cost_nanousd == sum(result.usage.cost_nanousd for result in results) > 0
        assert made.query("SELECT DISTINCT state, price FROM model_call") == [("settled", "models.toml")]


def test_a_worker_that_is_killed_among_twenty_calls_costs_the_one_in_flight_again_at_most(tmp_path: Path) -> None:
    with installation(tmp_path, Setup(latency=Latency(low=0.15)), lease_ttl=8) as (made, emulator):
        worker = made.start_worker()
        # Without a budget: a call is in the ledger from before it is made all the same.
        run = made.orchestrator.submit("chain", chain("harbour", 20))
        for number in (5, 12):
            made.until(lambda number=number: len(emulator.calls) >= number, "it asks")
            made.kill(worker)
            worker = made.start_worker()
        made.finish()
        assert str(run.state) == "succeeded"
        fingerprints = [call.fingerprint for call in emulator.calls]
        assert len(set(fingerprints)) == 20
        assert len(fingerprints) <= 22, "each kill repeats the call in flight, and no other"
        made.until(lambda: made.query(LEFT_UNDONE) == [(0,)], "what the dead had reserved is given up")
        settled, unknown = made.query(
            "SELECT count(*) FILTER (WHERE state = 'settled'), count(*) FILTER (WHERE state = 'unknown') FROM model_call"
        )[0]
        assert settled == 20
        assert settled + unknown >= len(fingerprints)


def test_a_limit_holds_for_all_workers_and_nobody_is_refused_or_fails(tmp_path: Path) -> None:
    # The provider bears more at once than they make: what was let pass may be held up on its way. There are enough calls for
    # two workers with a limit each to be refused all the same.
    limit = RateLimit(model=MODEL, requests=300, burst_seconds=5)
    rule = '[[limits]]\nmodel = "*"\nper = ["credential"]\nrequests_per_minute = 300\nburst_seconds = 1\n'
    with installation(tmp_path, Setup(limits=(limit,)), rule) as (made, emulator):
        for _ in range(2):
            made.start_worker()
        made.orchestrator.submit_many("fan", [chain(f"row {number}", 5) for number in range(20)])
        made.finish()
        assert made.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 20)]
        assert emulator.bill.calls == 100
        assert emulator.bill.limited == 0, "the provider has refused none"
        assert made.query("SELECT sum(failures) FROM agent_run") == [(0,)]
        assert made.query("SELECT count(*) FROM agent_run WHERE epoch > 1")[0][0] > 0, (
            "who had to wait let go of its slot"
        )


def test_a_provider_that_refuses_for_a_moment_costs_time_alone(tmp_path: Path) -> None:
    with installation(tmp_path) as (made, emulator):
        made.start_worker()
        emulator.script([Fault(kind="rate_limit", retry_after=2), Fault(kind="overloaded"), Fault(kind="server_error")])
        run = made.orchestrator.submit("chain", chain("harbour", 2))
        made.finish()
        assert str(run.state) == "succeeded"
        assert made.query("SELECT failures FROM agent_run") == [(0,)]
        assert spent(made) == emulator.bill.cost_nanousd


def test_a_strict_budget_pauses_before_the_call_that_does_not_fit_and_a_raise_goes_on(tmp_path: Path) -> None:
    with installation(tmp_path) as (made, emulator):
        made.start_worker()
        run = made.orchestrator.submit("chain", chain("harbour", 10), budget=Budget(usd=Decimal("0.0024")))
        [part] = made.until(
            lambda: [each for each in run.snapshot().agent_runs if str(each.state) == "suspended"], "it waits"
        )
        assert "budget of run/" in part.waiting_for
        assert 0 < emulator.bill.cost_nanousd <= 2_400_000
        asked = len(emulator.calls)
        made.orchestrator.raise_budget(f"run/{run.id}", Decimal("1"))
        made.finish()
        assert str(run.state) == "succeeded"
        assert len(emulator.calls) == 10 > asked
        assert spent(made) == emulator.bill.cost_nanousd


def test_an_agent_with_a_cap_of_its_own_fails_before_it_is_passed(tmp_path: Path) -> None:
    with installation(tmp_path) as (made, emulator):
        made.start_worker()
        run = made.orchestrator.submit("poor", chain("harbour", 3))
        made.finish()
        result = run.snapshot()
        assert result.error is not None
        assert (str(result.state), result.error.code) == ("failed", "budget_exceeded")
        assert emulator.bill.cost_nanousd <= 100_000


@pytest.mark.parametrize("agent", ["chain", "alone"])
def test_secrets_of_providers_appear_nowhere(tmp_path: Path, agent: str) -> None:
    with installation(tmp_path) as (made, emulator):
        made.start_worker(NIGHTFLEET_LOG_LEVEL="DEBUG")
        emulator.script([Fault(kind="server_error")])
        made.orchestrator.submit(agent, chain("harbour", 2))
        made.finish()
        tables = [row[0] for row in made.query("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]
        rows = "\n".join(str(row) for table in tables for row in made.query(f'SELECT t::text FROM "{table}" t'))
        assert "model_call" in tables
        for key in ("emulated-openai-key", "emulated-anthropic-key"):
            assert key not in rows
            assert key not in made.logs()
