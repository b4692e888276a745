"""Budgets: what is held before a call and settled after it, in every scope at once, whatever dies in between."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from plans import plan_text
from spending import TENANT, Purse, call_of, capped, held, nano
from sqlalchemy import select, text
from steps import Steps, plan_of, race, spread, task

from orchestrator.clock import ids
from orchestrator.contracts.budget import Bill, Budget, Call, Capped, Charge, Reserved, Scope
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.usage import Usage
from orchestrator.errors import BudgetExceeded, BudgetUnpriced, UsageError
from orchestrator.failpoints import FailpointError, armed
from orchestrator.store.agent_runs import Claim
from orchestrator.store.budgets import Place
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database, Session
from orchestrator.store.ledger import identity_of
from orchestrator.store.store import Store
from orchestrator.store.tables import budget_wait

BATCH = "01a1f8e6-0000-7e4e-96ea-00000ba7c400"


@pytest.fixture
def purse(store: Store) -> Purse:
    return Purse(Steps(store, plan_of(task("a"))))


@pytest.fixture
def on_postgres(migrated: Database) -> Purse:
    return Purse(Steps(Store(migrated), plan_of(task("a"))))


def charged(purse: Purse, project: str = "default", **charge: Any) -> Claim:
    """Claim the task of a new run that is charged so."""
    [run_id] = purse.steps.create(NewRun(ids.new(), "{}", charge=Charge(**charge)), project=project)
    return purse.steps.claim(run_id, "a")


def place_of(purse: Purse, kind: str, claim: Claim) -> Place:
    project = str(purse.steps.run_row(claim.run_id)["project_id"])
    targets = {"project": project, "user": "ada", "batch": BATCH, "run": claim.run_id, "agent-run": claim.id}
    return TENANT if kind == "tenant" else Place(kind, targets[kind], claim.run_id if "run" in kind else None)


# One budget -----------------------------------------------------------------------------------------------------------


def test_without_a_budget_a_call_is_written_down_before_it_is_made_too(purse: Purse) -> None:
    call = call_of(purse.claim())
    assert [purse.ledger.reserve(call, 100) for _ in range(2)] == [Reserved(100)] * 2
    line = purse.line(call)
    assert (line["state"], line["reserved_nanousd"], line["cost_nanousd"]) == ("reserved", 100, None)
    usage = Usage(model_calls=1, input_tokens=30, cached_input_tokens=10, output_tokens=7, reasoning_tokens=2)
    assert purse.ledger.settle(call, Bill(40, usage, price="genai-prices 2026-08-21", request_id="req-1"))
    line = purse.line(call)
    assert (line["state"], line["cost_nanousd"], line["price"]) == ("settled", 40, "genai-prices 2026-08-21")
    assert (line["input_tokens"], line["cached_input_tokens"], line["output_tokens"]) == (30, 10, 7)
    assert (line["agent"], line["model"], line["credential"], line["request_id"]) == (
        "a",
        "openai:small",
        "0a1b2c3d",
        "req-1",
    )


def test_what_is_held_is_given_back_when_the_call_is_settled(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    call = call_of(purse.claim())
    assert held(purse.ledger.reserve(call, 600)) == 600
    assert purse.amounts(TENANT) == (0, 600, 0)
    assert purse.ledger.settle(call, Bill(50))
    assert purse.amounts(TENANT) == (50, 0, 0)


def test_a_call_that_was_certainly_not_billed_leaves_nothing_behind(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    call = call_of(purse.claim())
    purse.ledger.reserve(call, 600)
    assert purse.ledger.release(call)
    assert purse.amounts(TENANT) == (0, 0, 0)
    assert not purse.ledger.release(call_of(purse.claim())), "it was not reserved"
    assert {line["state"] for line in purse.lines().values()} == {"released"}


def test_calls_in_flight_are_waited_for_before_a_call_is_refused(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    claim = purse.claim()
    first, second = call_of(claim, 0), call_of(claim, 1)
    purse.ledger.reserve(first, 600)
    waiting = capped(purse.ledger.reserve(second, 600))
    assert (waiting.settling, waiting.left_nanousd, waiting.needed_nanousd) == (True, 1000, 600)
    purse.ledger.settle(first, Bill(300))
    assert held(purse.ledger.reserve(second, 600)) == 600
    purse.ledger.settle(second, Bill(200))
    refused = capped(purse.ledger.reserve(call_of(claim, 2), 600))
    assert (refused.settling, refused.left_nanousd) == (False, 500)
    assert held(purse.ledger.reserve(call_of(claim, 2), 500)) == 500


def test_all_of_a_budget_can_be_used_to_the_last_nanodollar(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    claim = purse.claim()
    for number in range(10):
        purse.spend(call_of(claim, number), 100)
    assert purse.amounts(TENANT) == (1000, 0, 0)
    assert not capped(purse.ledger.reserve(call_of(claim, 10), 1)).settling
    assert held(purse.ledger.reserve(call_of(claim, 11), 0)) == 0


def test_a_budget_of_nothing_lets_through_what_costs_nothing(purse: Purse) -> None:
    purse.set(TENANT, 0)
    claim = purse.claim()
    purse.spend(call_of(claim, 0), 0)
    assert isinstance(purse.ledger.reserve(call_of(claim, 1), 1), Capped)


# The same call again --------------------------------------------------------------------------------------------------


def test_a_reservation_whose_answer_was_lost_holds_nothing_twice(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    call = call_of(purse.claim())
    assert [held(purse.ledger.reserve(call, 600)) for _ in range(3)] == [600, 600, 600]
    assert purse.amounts(TENANT) == (0, 600, 0)


def test_reservations_of_one_call_at_the_same_time_hold_once(on_postgres: Purse) -> None:
    on_postgres.set(TENANT, 1000)
    claim = on_postgres.claim()
    for number in range(10):
        call = call_of(claim, number)
        assert race(*[lambda call=call: held(on_postgres.ledger.reserve(call, 90))] * 4) == [90] * 4
    assert on_postgres.amounts(TENANT) == (0, 900, 0)


def test_a_settlement_whose_answer_was_lost_counts_once(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    call = call_of(purse.claim())
    purse.ledger.reserve(call, 600)
    assert [purse.ledger.settle(call, Bill(50)) for _ in range(3)] == [True, False, False]
    assert not purse.ledger.release(call)
    assert not purse.ledger.unknown(call)
    assert purse.amounts(TENANT) == (50, 0, 0)


def test_a_call_that_has_ended_is_not_made_again_under_its_id(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    call = call_of(purse.claim())
    purse.spend(call, 10)
    with pytest.raises(ValueError, match="is settled: the next try is another call"):
        purse.ledger.reserve(call, 10)


def test_calls_are_told_apart_by_place_claim_and_try(purse: Purse) -> None:
    claim = purse.claim()
    assert purse.steps.requeue(claim, failed=False)
    again = purse.steps.claim(claim.run_id, "a")
    found = {call_of(claim, 0).id, call_of(claim, 1).id, call_of(claim, 0, 2).id, call_of(again, 0).id}
    assert len(found) == 4
    assert call_of(claim, 0).id == call_of(claim, 0, model="another").id


# Hierarchy ------------------------------------------------------------------------------------------------------------

KINDS = ["tenant", "project", "user", "batch", "run", "agent-run"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_about_what_is_in_its_scope_and_nothing_else(purse: Purse, kind: str) -> None:
    inside = charged(purse, "press", user="ada", batch_id=BATCH)
    outside = charged(purse, "other", user="bob")
    purse.set(place_of(purse, kind, inside), 1000)
    assert held(purse.ledger.reserve(call_of(inside), 600)) == 600
    assert capped(purse.ledger.reserve(call_of(inside, 1), 600)).settling
    if kind != "tenant":
        held(purse.ledger.reserve(call_of(outside), 5000))
        assert purse.amounts(place_of(purse, kind, inside)) == (0, 600, 0)
    purse.ledger.settle(call_of(inside), Bill(70))
    assert purse.amounts(place_of(purse, kind, inside)) == (70, 0, 0)


def test_a_call_is_held_in_all_of_its_budgets_or_in_none(purse: Purse) -> None:
    claim = charged(purse, "press", user="ada", batch_id=BATCH)
    places = [place_of(purse, kind, claim) for kind in KINDS]
    for place in places[:-1]:
        purse.set(place, 1000)
    purse.set(places[-1], 500)
    assert not capped(purse.ledger.reserve(call_of(claim), 600)).settling
    assert {purse.amounts(place) for place in places} == {(0, 0, 0)}
    assert held(purse.ledger.reserve(call_of(claim), 400)) == 400
    assert {purse.amounts(place) for place in places} == {(0, 400, 0)}
    purse.ledger.settle(call_of(claim), Bill(30))
    assert {purse.amounts(place) for place in places} == {(30, 0, 0)}


def test_a_budget_that_fails_goes_before_one_that_pauses_and_both_before_waiting(purse: Purse) -> None:
    claim = charged(purse, "press", user="ada")
    purse.set(place_of(purse, "run", claim), 1000)
    purse.ledger.reserve(call_of(claim), 600)
    assert capped(purse.ledger.reserve(call_of(claim, 1), 600)).settling
    purse.set(place_of(purse, "project", claim), 100)
    assert capped(purse.ledger.reserve(call_of(claim, 1), 600)).scope == "project/press"
    purse.set(place_of(purse, "user", claim), 100, on_cap="fail")
    refused = capped(purse.ledger.reserve(call_of(claim, 1), 600))
    assert (refused.scope, refused.on_cap) == ("user/ada", "fail")
    error = refused.error()
    assert isinstance(error, BudgetExceeded)
    assert not error.retryable
    assert "nightfleet budgets raise user/ada +USD" in error.message


def test_a_run_whose_rows_are_gone_gives_back_what_it_held(purse: Purse) -> None:
    claim = charged(purse, "press", user="ada")
    place = place_of(purse, "project", claim)
    purse.set(place, 1000)
    purse.ledger.reserve(call_of(claim), 600)
    purse.steps.store.runs.cancel(claim.run_id)
    assert purse.steps.store.deletions.delete_ended([claim.run_id]) == 1
    assert purse.ledger.settle(call_of(claim), Bill(20))
    assert purse.amounts(place) == (20, 0, 0)


def test_the_budget_of_a_run_goes_with_it(purse: Purse) -> None:
    claim = charged(purse, budget=nano(500))
    assert purse.amounts(place_of(purse, "run", claim)) == (0, 0, 0)
    purse.steps.store.runs.cancel(claim.run_id)
    purse.steps.store.deletions.delete_ended([claim.run_id])
    assert purse.budgets.list(of_runs=True) == []


def test_an_idempotency_key_makes_one_budget(purse: Purse) -> None:
    new = [NewRun(ids.new(), "{}", "doc-1", charge=Charge(budget=nano(500))) for _ in range(2)]
    assert len({*purse.steps.create(*new), *purse.steps.create(new[1])}) == 1
    assert [each.limit_usd for each in purse.budgets.list(of_runs=True)] == ["0.0000005"]


def test_an_agent_run_has_the_cap_that_it_first_asked_for_and_what_it_has_spent_counts(purse: Purse) -> None:
    claim = purse.claim()
    purse.spend(call_of(claim), 300)
    for limit in (500, 5000):
        purse.ledger.cap_agent_run(claim, limit)
    assert purse.amounts(place_of(purse, "agent-run", claim)) == (300, 0, 0)
    refused = capped(purse.ledger.reserve(call_of(claim, 1), 201))
    assert (refused.on_cap, refused.left_nanousd) == ("fail", 200)
    purse.ledger.reserve(call_of(claim, 1), 200)
    purse.ledger.settle(call_of(claim, 1), Bill(150))
    assert purse.amounts(place_of(purse, "agent-run", claim)) == (450, 0, 0)


# Modes and what happens at the cap ------------------------------------------------------------------------------------


def test_a_model_without_a_price_is_refused_where_a_budget_must_hold(purse: Purse) -> None:
    claim = purse.claim()
    purse.set(TENANT, 1000, on_cap="warn")
    assert held(purse.ledger.reserve(call_of(claim), None)) == 0
    purse.ledger.settle(call_of(claim), Bill(None, Usage(input_tokens=5)))
    assert purse.line(call_of(claim))["cost_nanousd"] is None
    for on_cap in ("pause", "fail"):
        purse.set(TENANT, 1000, on_cap=on_cap)
        with pytest.raises(BudgetUnpriced, match="openai:small has no price, and the budget of tenant must hold"):
            purse.ledger.reserve(call_of(claim, 1), None)
    assert purse.amounts(TENANT) == (0, 0, 0)


def test_a_budget_that_warns_lets_go_on_and_says_so_once_until_it_is_raised(purse: Purse) -> None:
    purse.set(TENANT, 100, on_cap="warn")
    claim = purse.claim()
    answers = [purse.ledger.reserve(call_of(claim, number), 60) for number in range(2)]
    for number in range(2):
        purse.ledger.settle(call_of(claim, number), Bill(60))
    answers += [purse.ledger.reserve(call_of(claim, number), 60) for number in range(2, 4)]
    assert [each.warnings for each in answers if isinstance(each, Reserved)] == [(), (), ("tenant",), ()]
    purse.budgets.raise_by(TENANT.scope, "none", 10)
    assert purse.ledger.reserve(call_of(claim, 5), 60) == Reserved(60, ("tenant",))
    assert purse.budgets.list()[0].over_usd == "0.00000001"


def test_an_expected_cost_is_learned_and_what_it_overshoots_by_is_told(purse: Purse) -> None:
    purse.set(TENANT, 100_000, mode="expected")
    claim = purse.claim()
    assert held(purse.ledger.reserve(call_of(claim, 0), 10_000)) == 10_000
    purse.ledger.settle(call_of(claim, 0), Bill(1000))
    assert purse.amounts(TENANT) == (1000, 0, 0)
    for number in range(1, 40):
        purse.spend(call_of(claim, number), 1000, worst=10_000)
    purse.ledger.reserve(call_of(claim, 50), 10_000)
    expected = purse.amounts(TENANT)[1]
    assert 1100 <= expected < 2000
    # As many calls as are expected to fit are in flight, and each costs all it can.
    flying = [50]
    while isinstance(purse.ledger.reserve(call_of(claim, flying[-1] + 1), 10_000), Reserved):
        flying.append(flying[-1] + 1)
    for number in flying:
        purse.ledger.settle(call_of(claim, number), Bill(10_000))
    assert purse.amounts(TENANT)[1:] == (0, 0)
    over = Decimal(purse.budgets.list()[0].over_usd) * 10**9
    assert 0 < over <= len(flying) * 10_000 - expected * len(flying)
    assert not capped(purse.ledger.reserve(call_of(claim, 1000), 10_000)).settling


def test_what_is_expected_never_is_more_than_the_worst(purse: Purse) -> None:
    purse.set(TENANT, 10_000, mode="expected")
    claim = purse.claim()
    for number in range(5):
        purse.spend(call_of(claim, number), 100)
    purse.ledger.reserve(call_of(claim, 9), 100)
    assert purse.amounts(TENANT) == (500, 100, 0)


# Unknown outcomes -----------------------------------------------------------------------------------------------------


def test_a_call_that_may_have_been_billed_keeps_what_was_held_until_somebody_settles_it(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    claim = purse.claim()
    purse.ledger.reserve(call_of(claim), 600)
    assert purse.ledger.unknown(call_of(claim), "req-7")
    assert purse.amounts(TENANT) == (0, 0, 600)
    [shown] = purse.budgets.list()
    assert (shown.unknown_calls, shown.left_usd) == (1, "0.0000004")
    assert not capped(purse.ledger.reserve(call_of(claim, 1), 600)).settling
    assert purse.ledger.settle(call_of(claim), Bill(50))
    assert purse.amounts(TENANT) == (50, 0, 0)
    assert purse.budgets.list()[0].unknown_calls == 0


def test_calls_of_a_claim_that_is_gone_are_unknown_and_those_of_the_living_are_left_alone(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    dead, alive = purse.claim(), purse.claim()
    purse.ledger.reserve(call_of(dead), 300)
    purse.ledger.reserve(call_of(alive), 200)
    assert purse.ledger.close_lost() == 0
    purse.steps.requeue(dead, failed=False)
    assert [purse.ledger.close_lost(), purse.ledger.close_lost()] == [1, 0]
    assert purse.amounts(TENANT) == (0, 200, 300)
    # It was slow, and not dead.
    assert purse.ledger.settle(call_of(dead), Bill(10))
    assert purse.amounts(TENANT) == (10, 200, 0)


@pytest.mark.parametrize(
    ("point", "left"),
    [("after_reserve", (0, 0, 600)), ("before_settle", (0, 0, 600)), ("after_settle", (50, 0, 0))],
)
def test_who_dies_in_a_call_leaves_it_settled_or_unknown_and_nothing_held(
    purse: Purse, point: str, left: tuple[int, int, int]
) -> None:
    purse.set(TENANT, 1000)
    claim = purse.claim()
    with armed(f"{point}=raise"), pytest.raises(FailpointError):
        purse.spend(call_of(claim), 50, worst=600)
    purse.steps.requeue(claim, failed=False)
    purse.ledger.close_lost()
    assert purse.amounts(TENANT) == left


def test_a_call_of_the_dead_is_unknown_without_a_budget_too_and_counts_in_one_that_is_set_later(purse: Purse) -> None:
    dead, alive = purse.claim(), purse.claim()
    purse.ledger.reserve(call_of(dead), 600)
    purse.ledger.reserve(call_of(alive), 200)
    purse.steps.requeue(dead, failed=False)
    assert purse.ledger.close_lost() == 1
    assert purse.line(call_of(dead))["state"] == "unknown"
    purse.set(TENANT, 1000)
    assert purse.amounts(TENANT) == (0, 200, 600)
    purse.ledger.settle(call_of(alive), Bill(30))
    assert purse.amounts(TENANT) == (30, 0, 600)


def test_a_call_that_was_not_reserved_and_may_have_been_billed_is_written_down_too(purse: Purse) -> None:
    call = call_of(purse.claim())
    assert purse.ledger.unknown(call)
    assert purse.line(call)["state"] == "unknown"


# Periods --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("period", "days"), [("day", 1.1), ("month", 32)])
def test_a_new_period_begins_at_nothing_and_calls_of_the_last_one_are_none_of_it(
    purse: Purse, period: Any, days: float
) -> None:
    purse.set(TENANT, 1000, period=period)
    claim = purse.claim()
    purse.spend(call_of(claim, 0), 400)
    purse.ledger.reserve(call_of(claim, 1), 300)
    purse.ledger.reserve(call_of(claim, 2), 300)
    refused = capped(purse.ledger.reserve(call_of(claim, 3), 900))
    assert refused.resets_seconds is not None
    assert 0 < refused.resets_seconds <= 31 * 86_400
    purse.let_pass(days)
    assert purse.budgets.list()[0].left_usd == "0.000001"
    purse.ledger.settle(call_of(claim, 1), Bill(100))
    assert held(purse.ledger.reserve(call_of(claim, 3), 900)) == 900
    purse.ledger.unknown(call_of(claim, 2))
    assert purse.amounts(TENANT) == (0, 900, 0)
    purse.ledger.settle(call_of(claim, 3), Bill(50))
    assert purse.amounts(TENANT) == (50, 0, 0)
    assert purse.row(TENANT)["unknown_calls"] == 0


def test_a_settlement_is_the_first_of_a_period_too(purse: Purse) -> None:
    purse.set(TENANT, 1000, period="day")
    claim = purse.claim()
    purse.spend(call_of(claim, 0), 400)
    purse.let_pass(1.5)
    purse.ledger.settle(call_of(claim, 1), Bill(30))
    assert purse.amounts(TENANT) == (30, 0, 0)


def test_a_scope_may_have_a_budget_for_each_period(purse: Purse) -> None:
    purse.set(TENANT, 1000, period="month")
    purse.set(TENANT, 100, period="day", on_cap="fail")
    claim = purse.claim()
    purse.spend(call_of(claim, 0), 80)
    assert capped(purse.ledger.reserve(call_of(claim, 1), 80)).period == "day"
    assert [(each.period, each.spent_usd) for each in purse.budgets.list()] == [
        ("day", "0.00000008"),
        ("month", "0.00000008"),
    ]


# Setting --------------------------------------------------------------------------------------------------------------


def test_a_budget_that_is_set_later_counts_what_was_spent_in_its_period_and_what_is_in_flight(purse: Purse) -> None:
    claim = charged(purse, "press", user="ada", batch_id=BATCH)
    purse.ledger.settle(call_of(claim, 0), Bill(1000))
    purse.let_pass(40)
    purse.ledger.settle(call_of(claim, 1), Bill(100))
    purse.set(place_of(purse, "run", claim), 10_000)
    purse.ledger.reserve(call_of(claim, 2), 60)
    purse.ledger.reserve(call_of(claim, 3), 70)
    purse.ledger.unknown(call_of(claim, 3))
    for kind in KINDS:
        place = place_of(purse, kind, claim)
        purse.set(place, 10_000)
        assert purse.amounts(place) == (1100, 60, 70), kind
    purse.ledger.settle(call_of(claim, 2), Bill(5))
    assert {purse.amounts(place_of(purse, kind, claim)) for kind in KINDS} == {(1105, 0, 70)}
    purse.set(TENANT, 10_000, period="month")
    assert [each.spent_usd for each in purse.budgets.list(TENANT.scope)] == ["0.000000105", "0.000001105"]


def test_setting_another_mode_counts_what_is_held_by_it(purse: Purse) -> None:
    purse.set(TENANT, 100_000, mode="expected")
    claim = purse.claim()
    for number in range(30):
        purse.spend(call_of(claim, number), 100, worst=1000)
    purse.ledger.reserve(call_of(claim, 50), 1000)
    purse.set(TENANT, 100_000)
    assert purse.amounts(TENANT) == (3000, 1000, 0)
    purse.ledger.settle(call_of(claim, 50), Bill(100))
    assert purse.amounts(TENANT) == (3100, 0, 0)


def test_a_budget_that_is_set_while_calls_are_made_misses_none_of_them(on_postgres: Purse) -> None:
    purse = on_postgres
    claims = [purse.claim() for _ in range(8)]

    def spend(claim: Claim) -> None:
        for number in range(25):
            call = call_of(claim, number)
            purse.ledger.reserve(call, 10)
            purse.ledger.settle(call, Bill(3))

    def set_again() -> None:
        for limit in range(20):
            purse.set(TENANT, 10**9 + limit, mode=("strict", "expected")[limit % 2])

    race(set_again, *(lambda claim=claim: spend(claim) for claim in claims))
    assert purse.amounts(TENANT) == (8 * 25 * 3, 0, 0)


def test_a_limit_is_raised_to_an_amount_or_by_one_and_never_lowered_so(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    assert purse.budgets.raise_to(TENANT.scope, "none", 2000)
    assert not purse.budgets.raise_to(TENANT.scope, "none", 2000)
    assert purse.budgets.raise_by(TENANT.scope, "none", 500)
    assert not purse.budgets.raise_by(TENANT.scope, "day", 500)
    assert purse.budgets.list()[0].limit_usd == "0.0000025"


# Who waits ------------------------------------------------------------------------------------------------------------


def paused(purse: Purse, count: int = 1, worst: int = 600) -> list[Claim]:
    """Make agent runs that are suspended since a budget is in their way."""
    claims = [purse.claim() for _ in range(count)]
    for claim in claims:
        assert isinstance(purse.ledger.reserve(call_of(claim), worst), Capped)
        purse.steps.store.waits.suspend(claim, left_seconds=None, waiting_for="waits for the budget of tenant")
    return claims


def test_a_raise_wakes_who_waits_once_and_not_before(purse: Purse) -> None:
    purse.set(TENANT, 500)
    [claim] = paused(purse)
    assert purse.ledger.wake() == []
    assert purse.budgets.list()[0].waiting == 1
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    assert purse.ledger.wake() == [Dispatch(claim.id, 2, "a", Priority.LATER)]
    row = purse.steps.row(claim.run_id, "a")
    assert (row["state"], row["waiting_for"]) == ("queued", None)
    assert purse.ledger.wake() == []
    again = purse.steps.claim(claim.run_id, "a")
    assert held(purse.ledger.reserve(call_of(again), 600)) == 600


def test_as_many_are_woken_as_there_is_room_for_longest_first(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claims = paused(purse, 5)
    purse.budgets.raise_to(TENANT.scope, "none", 1300)
    assert {each.id for each in purse.ledger.wake()} == {claim.id for claim in claims[:2]}
    purse.budgets.raise_to(TENANT.scope, "none", 10_000)
    assert {each.id for each in purse.ledger.wake()} == {claim.id for claim in claims[2:]}


def test_a_settlement_wakes_who_waits_for_what_was_held(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    flying = purse.claim()
    purse.ledger.reserve(call_of(flying), 600)
    [claim] = paused(purse)
    assert purse.ledger.wake() == []
    purse.ledger.settle(call_of(flying), Bill(10))
    assert [each.id for each in purse.ledger.wake()] == [claim.id]


def test_who_waits_for_calls_in_flight_is_woken_to_fail_when_they_have_used_all_up(purse: Purse) -> None:
    purse.set(TENANT, 1000, on_cap="fail")
    flying = [purse.claim(), purse.claim()]
    for each in flying:
        purse.ledger.reserve(call_of(each), 500)
    [claim] = paused(purse)
    purse.ledger.settle(call_of(flying[0]), Bill(400))
    assert purse.ledger.wake() == [], "there is no room, and there may be some"
    purse.ledger.settle(call_of(flying[1]), Bill(400))
    assert [each.id for each in purse.ledger.wake()] == [claim.id]
    again = purse.steps.claim(claim.run_id, "a")
    assert not capped(purse.ledger.reserve(call_of(again), 600)).settling


def test_a_new_period_and_the_end_of_a_budget_wake_too(purse: Purse) -> None:
    purse.set(TENANT, 500, period="day")
    purse.spend(call_of(purse.claim()), 400)
    [claim] = paused(purse, worst=450)
    purse.let_pass(1.1)
    assert [each.id for each in purse.ledger.wake()] == [claim.id]
    [claim] = paused(purse)
    assert purse.budgets.remove(TENANT.scope, "day")
    assert [each.id for each in purse.ledger.wake()] == [claim.id]
    assert not purse.budgets.remove(TENANT.scope, "day")


def test_one_that_is_about_to_suspend_does_not_miss_the_raise(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    assert isinstance(purse.ledger.reserve(call_of(claim), 600), Capped)
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    assert purse.ledger.wake() == []
    dispatch = purse.steps.store.waits.suspend(claim, left_seconds=None, waiting_for="waits for the budget of tenant")
    assert dispatch == Dispatch(claim.id, 2, "a", Priority.LATER)


def test_a_raise_reaches_one_that_has_heard_an_answer_before_it_suspends(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    capped(purse.ledger.reserve(call_of(claim), 600))
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    assert purse.ledger.wake() == []
    assert purse.steps.store.waits.suspend(claim, left_seconds=None, waiting_for="an answer", heard=True) is None
    assert [each.id for each in purse.ledger.wake()] == [claim.id]
    assert purse.ledger.wake() == []
    assert waiting(purse) == []


def test_one_that_is_woken_while_it_runs_is_marked_once_and_keeps_nobody_waiting(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    capped(purse.ledger.reserve(call_of(claim), 600))
    [other] = paused(purse)
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    assert purse.ledger.wake() == []
    marked = purse.steps.row(claim.run_id, "a")["wake_at"]
    assert marked is not None
    assert [each.id for each in purse.ledger.wake()] == [other.id]
    assert purse.ledger.wake() == []
    assert purse.steps.row(claim.run_id, "a")["wake_at"] == marked


def test_a_place_that_is_kept_while_its_agent_runs_wakes_it_no_second_time(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    capped(purse.ledger.reserve(call_of(claim), 600))
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    purse.ledger.wake()
    assert purse.steps.store.waits.suspend(claim, left_seconds=None, waiting_for="waits for the budget of tenant")
    again = purse.steps.claim(claim.run_id, "a")
    assert purse.steps.store.waits.suspend(again, left_seconds=None, waiting_for="waits for something else") is None
    assert purse.ledger.wake() == []
    assert waiting(purse) == []


def test_who_is_failed_waits_for_nothing(purse: Purse) -> None:
    purse.set(TENANT, 500, on_cap="fail")
    assert capped(purse.ledger.reserve(call_of(purse.claim()), 600)).on_cap == "fail"
    assert waiting(purse) == []


def test_the_place_in_line_of_a_claim_that_is_gone_is_given_up(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    purse.ledger.reserve(call_of(claim), 600)
    purse.steps.requeue(claim, failed=False)
    assert purse.ledger.wake() == []
    assert waiting(purse) == []


def test_a_place_in_line_that_the_dead_left_wakes_nobody(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    purse.ledger.reserve(call_of(claim), 600)
    purse.steps.requeue(claim, failed=False)
    again = purse.steps.claim(claim.run_id, "a")
    call = call_of(again)
    assert isinstance(purse.ledger.reserve(call, 600), Capped)
    purse.steps.store.waits.suspend(again, left_seconds=None, waiting_for="waits for the budget of tenant")
    assert purse.ledger.wake() == []
    assert waiting(purse) == [call.id]
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    assert [each.id for each in purse.ledger.wake()] == [again.id]


def test_who_waits_with_two_calls_is_woken_by_room_for_one_and_the_other_place_is_given_up(purse: Purse) -> None:
    purse.set(TENANT, 500)
    claim = purse.claim()
    for number in range(2):
        assert isinstance(purse.ledger.reserve(call_of(claim, number), 600), Capped)
    purse.steps.store.waits.suspend(claim, left_seconds=None, waiting_for="waits for the budget of tenant")
    purse.budgets.raise_to(TENANT.scope, "none", 600)
    assert [each.id for each in purse.ledger.wake()] == [claim.id]
    again = purse.steps.claim(claim.run_id, "a")
    purse.spend(call_of(again), 600)
    assert isinstance(purse.ledger.reserve(call_of(again, 1), 600), Capped)
    purse.steps.store.waits.suspend(again, left_seconds=None, waiting_for="waits for the budget of tenant")
    assert purse.ledger.wake() == []
    assert waiting(purse) == [call_of(again, 1).id]


def test_a_cancelled_run_is_not_woken(purse: Purse) -> None:
    purse.set(TENANT, 500)
    [claim] = paused(purse)
    purse.steps.store.runs.cancel(claim.run_id)
    purse.budgets.raise_to(TENANT.scope, "none", 5000)
    assert purse.ledger.wake() == []
    assert purse.steps.states(claim.run_id) == {"a": "cancelled"}
    assert waiting(purse) == []


def test_an_embedded_process_wakes_its_own_runs_alone(purse: Purse) -> None:
    purse.set(TENANT, 500)
    mine, other = paused(purse, 2)
    purse.budgets.raise_to(TENANT.scope, "none", 5000)
    assert [each.id for each in purse.ledger.wake([mine.run_id])] == [mine.id]
    assert [each.id for each in purse.ledger.wake()] == [other.id]


def test_those_whom_another_process_has_to_wake_take_no_room_from_its_own(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse.set(TENANT, 500)
    other, mine = paused(purse, 2)
    purse.budgets.raise_to(TENANT.scope, "none", 1100)
    monkeypatch.setattr("orchestrator.store.ledger._WOKEN_AT_ONCE", 1)
    assert [each.id for each in purse.ledger.wake([mine.run_id])] == [mine.id], (
        "whoever has to wake the other may be gone"
    )
    assert [each.id for each in purse.ledger.wake([other.run_id])] == [other.id]
    assert purse.ledger.wake([]) == []


def test_so_many_of_others_that_they_are_woken_in_parts_keep_nobody_waiting(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.ledger._WOKEN_AT_ONCE", 2)
    purse.set(TENANT, 500)
    *_, mine = paused(purse, 4)
    purse.budgets.raise_to(TENANT.scope, "none", 5000)
    assert [each.id for each in purse.ledger.wake([mine.run_id])] == [mine.id]


@pytest.mark.parametrize("on_cap", ["pause", "fail"])
def test_a_call_for_which_there_can_be_no_room_keeps_nobody_behind_it_waiting(purse: Purse, on_cap: str) -> None:
    purse.set(TENANT, 1200, on_cap=on_cap)
    flying = call_of(purse.claim())
    held(purse.ledger.reserve(flying, 1200))
    big, *small = [*paused(purse, worst=1100), *paused(purse, 3, worst=400)]
    purse.ledger.settle(flying, Bill(200))
    in_vain = [big.id] if on_cap == "fail" else []
    assert {each.id for each in purse.ledger.wake()} == {*in_vain, small[0].id, small[1].id}


def test_a_call_that_needs_no_more_than_what_is_in_flight_keeps_its_place_in_the_line(purse: Purse) -> None:
    purse.set(TENANT, 1000)
    flying = [call_of(purse.claim()) for _ in range(2)]
    for call in flying:
        held(purse.ledger.reserve(call, 500))
    [big, _] = [*paused(purse, worst=800), *paused(purse, worst=300)]
    purse.ledger.settle(flying[0], Bill(0))
    assert purse.ledger.wake() == [], "it would be the last one for ever"
    purse.ledger.settle(flying[1], Bill(0))
    assert [each.id for each in purse.ledger.wake()] == [big.id]


def waiting(purse: Purse) -> list[str]:
    with purse.database.connect() as connection:
        return list(connection.execute(select(budget_wait.c.call_id)).scalars())


# Under load -----------------------------------------------------------------------------------------------------------


LIMIT, WORST = 1_000_000, 10_000


def spend_all(purse: Purse, deaths: float, seed: int) -> list[int]:
    """Make calls until one is refused, each at about a third of its worst; gives what was billed for them.

    Some callers die between the two statements, and another claim goes on.
    """
    own, number, claim, pause = random.Random(seed), 0, purse.claim(), threading.Event()
    billed: list[int] = []
    while True:
        call = call_of(claim, number := number + 1)
        answer = purse.ledger.reserve(call, WORST)
        if isinstance(answer, Capped):
            if not answer.settling:
                return billed
            pause.wait(0.002)
            continue
        billed.append(own.randrange(WORST // 6, WORST // 2))
        if own.random() >= deaths:
            assert purse.ledger.settle(call, Bill(billed[-1]))
            continue
        purse.steps.requeue(claim, failed=False)
        purse.ledger.close_lost()
        claim = purse.steps.claim(claim.run_id, "a")


@contextmanager
def watched(purse: Purse) -> Generator[list[int]]:
    """Look all the time at how much of the budget is used."""
    seen, done = list[int](), threading.Event()

    def watch() -> None:
        while True:
            over = done.wait(0.01)
            seen.append(sum(purse.amounts(TENANT)))
            if over:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join(60)


@pytest.mark.parametrize("deaths", [0.0, 0.05])
def test_a_strict_budget_is_never_overshot_and_all_but_the_last_call_of_it_can_be_used(
    on_postgres: Purse, deaths: float
) -> None:
    purse = on_postgres
    purse.set(TENANT, LIMIT)
    with watched(purse) as seen:
        billed = spread(lambda seed: sum(spend_all(purse, deaths, seed)), range(64), 64)
    while purse.ledger.close_lost():
        pass
    settled, reserved, unknown = purse.amounts(TENANT)
    assert max(seen) <= LIMIT
    assert sum(billed) <= LIMIT
    assert reserved == 0
    assert 0.95 * LIMIT <= LIMIT - WORST < settled + unknown <= LIMIT
    lines = purse.lines().values()
    assert settled == sum(line["cost_nanousd"] for line in lines if line["state"] == "settled")
    assert unknown == sum(line["reserved_nanousd"] for line in lines if line["state"] == "unknown")
    assert (unknown > 0) is (deaths > 0)


def test_budgets_that_overlap_are_locked_in_one_order(on_postgres: Purse) -> None:
    purse = on_postgres
    claims = [charged(purse, f"p{number % 3}", user=f"u{number % 2}") for number in range(12)]
    for claim in claims:
        place = place_of(purse, "project", claim)
        purse.set(place, 10**9)
        purse.set(Place("user", f"u{claims.index(claim) % 2}"), 10**9)
    purse.set(TENANT, 10**9)

    def spend(claim: Claim) -> None:
        for number in range(30):
            purse.spend(call_of(claim, number), 5, worst=50)

    spread(spend, claims, 12)
    assert purse.amounts(TENANT) == (12 * 30 * 5, 0, 0)
    assert purse.amounts(Place("user", "u0")) == purse.amounts(Place("user", "u1")) == (6 * 30 * 5, 0, 0)


def statements(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count what is sent to the database from now on, transaction control included."""
    sent = 0
    execute, command = Session._execute, Session.command  # pyright: ignore[reportPrivateUsage]

    def counting(self: Session, statement: str, parameters: dict[str, Any]) -> Any:
        nonlocal sent
        sent += 1
        return execute(self, statement, parameters)

    def controlling(self: Session, sql: str) -> None:
        nonlocal sent
        sent += 1
        command(self, sql)

    monkeypatch.setattr(Session, "_execute", counting)
    monkeypatch.setattr(Session, "command", controlling)
    return lambda: sent


@pytest.mark.parametrize("budgets", [0, 1, 6])
def test_a_call_costs_two_statements_whatever_it_is_charged_to(
    on_postgres: Purse, budgets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse = on_postgres
    claim = charged(purse, "press", user="ada", batch_id=BATCH)
    for kind in KINDS[:budgets]:
        purse.set(place_of(purse, kind, claim), 10_000)
    sent = statements(monkeypatch)
    purse.spend(call_of(claim), 100)
    assert sent() == 2


@pytest.mark.parametrize("seed", range(4))
def test_both_databases_decide_the_same(postgres: Database, sqlite: Database, seed: int) -> None:
    """On Postgres a statement decides, on SQLite Python does: the same random traffic, the same answers and amounts."""
    made = [traffic(Purse(Steps(Store(each), plan_of(task("a")))), random.Random(seed)) for each in (postgres, sqlite)]
    assert made[0] == made[1]
    assert {type(each) for each in made[0]} >= {Reserved, Capped}


def traffic(purse: Purse, chance: random.Random) -> list[Any]:
    """Set budgets and make calls at random; gives what was answered, and what the budgets say after each."""
    claims = [charged(purse, user="ada"), charged(purse, user="bob")]
    places = [TENANT, Place("user", "ada"), Place("user", "bob")]
    for place in places:
        kind = {"mode": chance.choice(["strict", "expected"]), "on_cap": chance.choice(["pause", "fail", "warn"])}
        purse.set(place, chance.randrange(2000, 9000), period=chance.choice(["none", "day"]), **kind)
    told: list[Any] = []
    flying: list[tuple[Call, int]] = []
    for number in range(60):
        if flying and chance.random() < 0.45:
            call, worst = flying.pop(chance.randrange(len(flying)))
            cost = chance.randrange(worst + 1)
            ends = [lambda: purse.ledger.settle(call, Bill(cost)), lambda: purse.ledger.release(call)]  # noqa: B023
            told.append(chance.choice([*ends, ends[0], lambda: purse.ledger.unknown(call)])())  # noqa: B023
        else:
            call, worst = call_of(chance.choice(claims), number), chance.randrange(50, 1500)
            answer = purse.ledger.reserve(call, worst)
            flying += [(call, worst)] if isinstance(answer, Reserved) else []
            told.append(answer if isinstance(answer, Reserved) else replace(answer, resets_seconds=None))
        told.append(tuple(purse.amounts(place) for place in places))
    return told


# Plans ----------------------------------------------------------------------------------------------------------------

MILLION = """
INSERT INTO {model_call} (
    id, tenant_id, project_id, run_id, agent_run_id, user_label, epoch, slot, attempt, agent, model, state, cost_nanousd,
    created_at
)
SELECT md5('c' || n)::uuid, '{tenant}', md5('p' || n % 50)::uuid, md5('r' || n / 10)::uuid, md5('a' || n / 10)::uuid,
       'u' || n % 1000, 1, n % 10, 1, 'reader', 'openai:small', 'settled', n % 1000, now() - n * interval '1 second'
FROM generate_series(1, 1000000) n
"""


def analyzed(purse: Purse, name: str, **parameters: Any) -> str:
    """Give the plan of a statement with what it has really read."""
    sql = purse.database.statement(name)
    with purse.database.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {sql}", parameters).scalars().all()
        connection.rollback()
    return "\n".join(rows)


@pytest.mark.slow
def test_a_million_lines_are_never_read_to_make_a_call(on_postgres: Purse) -> None:
    purse = on_postgres
    claim = charged(purse, "press", user="ada")
    purse.set(TENANT, 10**12)
    with purse.database.connect() as connection:
        names = {"model_call": purse.database.qualify("model_call"), "tenant": claim.tenant_id}
        connection.execute(text(MILLION.format(**names)))
    with purse.database.autocommit() as session:
        session.command(f"ANALYZE {purse.database.qualify('model_call')}")
    call = identity_of(call_of(claim))
    bill: dict[str, Any] = dict.fromkeys(("cost", "price", "request_id")) | {
        "state": "settled",
        "provenance": "provider",
    }
    counts = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "reasoning_tokens")
    plans = {
        "reserve": analyzed(purse, "reserve", **call, worst=5, priced=1),
        "conclude": analyzed(purse, "conclude", **call, **bill, **dict.fromkeys(counts, 0)),
        "lost_calls": analyzed(purse, "lost_calls", most=200),
        "delete_bills": analyzed(purse, "delete_bills", age=999_000.0, most=500),
    }
    for name, plan in plans.items():
        assert "Seq Scan on model_call" not in plan, f"{name}\n{plan}"
    assert "ix_model_call_open" in plans["lost_calls"]
    assert "ix_model_call_created" in plans["delete_bills"]


@pytest.mark.parametrize("name", ["reserve", "conclude"])
def test_a_call_finds_its_budgets_by_index_on_tables_that_were_never_analysed(on_postgres: Purse, name: str) -> None:
    plan = plan_text(on_postgres.database, name, without=("seqscan",))
    assert "uq_budget_tenant_id_scope_period" in plan
    assert "pk_model_call" in plan
    assert "Seq Scan on budget" not in plan
    assert "Seq Scan on model_call" not in plan


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["tenant", "project/press", "user/ada@example.org", "user/a/b"])
def test_a_scope_is_read_as_it_is_written(written: str) -> None:
    assert str(Scope.parse(written)) == written


@pytest.mark.parametrize("wrong", ["", "tenant/x", "project", "project/", "run/12", "team/a", "agent/x"])
def test_what_names_no_scope_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"names nothing that has a budget|is no id"):
        Scope.parse(wrong)


def test_an_amount_is_taken_as_it_was_written() -> None:
    assert Budget.of(0.1) == Budget(usd=Decimal("0.1"))
    assert Budget.of(Decimal(2)) == Budget(usd=Decimal(2))
    for wrong in (-1, Decimal("nan"), 10**10):
        with pytest.raises(UsageError, match="budget: usd"):
            Budget.of(wrong)


@pytest.mark.parametrize("wrong", ["", "  ", "a\nb", "x" * 201])
def test_a_user_is_a_label(wrong: str) -> None:
    with pytest.raises(UsageError, match="is no label"):
        Charge.to(wrong)


def test_the_budget_of_a_run_has_no_period() -> None:
    with pytest.raises(UsageError, match="is for all of it"):
        Charge.to(None, Budget(usd=Decimal(1), period="day"))
