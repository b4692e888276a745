"""What people do about money: set budgets, raise and remove them, see what is used of them, and what was spent on what."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from orchestrator.clock import run_id_of
from orchestrator.contracts.budget import Budget, BudgetSummary, Period, Scope
from orchestrator.contracts.cost import CostFilter, CostLine, Dimension
from orchestrator.contracts.money import show_usd, to_nanousd
from orchestrator.errors import RunNotFound, UsageError
from orchestrator.failpoints import failpoint
from orchestrator.service import Service
from orchestrator.store.budgets import Budgets, Place
from orchestrator.store.costs import list_costs
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.repairs import TAKEN_AT_ONCE


def budgets(service: Service, scope: Scope | None = None, *, of_runs: bool = False) -> list[BudgetSummary]:
    """Give budgets and how much of them is used: those of one scope, or all but those of single runs, or all."""
    place = None if scope is None else _place(service, scope)
    return _budgets(service).list(None if place is None else place.scope, of_runs=of_runs)


def set_budget(service: Service, scope: Scope, wanted: Budget) -> BudgetSummary:
    """Set the budget of a scope for a period, or change it: what was spent there in this period counts.

    Whoever waits for it and now has room goes on. Raises `UsageError` for a scope that cannot have it, `RunNotFound`.
    """
    if scope.kind in {"run", "agent-run", "batch"} and wanted.period != "none":
        raise UsageError(f"a {scope.kind.replace('-', ' ')} has one budget for all of it: leave the period out")
    if scope.kind == "project":
        service.kernel.store.runs.make_project(scope.target)
    place = _place(service, scope)
    _budgets(service).set(place, wanted)
    return _changed(service, place, wanted.period)


def raise_budget(
    service: Service, scope: Scope, usd: Decimal, *, by: bool = False, period: Period | None = None
) -> BudgetSummary:
    """Raise a budget to an amount, or `by` one; whoever waits for it and now has room goes on.

    `period` says which, where a scope has several. Raises `UsageError` for one that is not there, or that has as much.
    """
    place = _place(service, scope)
    found = _the_one(service, place, scope, period)
    store, amount = _budgets(service), to_nanousd(usd)
    Budget.checked(usd=usd)
    if by:
        Budget.checked(usd=Decimal(found.limit_usd) + usd)
        store.raise_by(place.scope, found.period, amount)
    elif not store.raise_to(place.scope, found.period, amount):
        raise UsageError(
            f"the budget of {scope} is {show_usd(to_nanousd(Decimal(found.limit_usd)))}, which is no less: write +USD to "
            "raise it by an amount, or lower it with `nightfleet budgets set`"
        )
    return _changed(service, place, found.period)


def remove_budget(service: Service, scope: Scope, *, period: Period | None = None) -> BudgetSummary:
    """End a budget, and give what it was; whoever waits for it goes on. Raises `UsageError` for one that is not there."""
    place = _place(service, scope)
    found = _the_one(service, place, scope, period)
    _budgets(service).remove(place.scope, found.period)
    _wake(service)
    return found


def costs(
    service: Service, by: Sequence[Dimension], which: CostFilter | None = None, *, limit: int | None = None
) -> list[CostLine]:
    """Give what calls have used and cost, a line for each group of what they are added up by, the dearest first."""
    return list_costs(service.kernel.store.database, tuple(dict.fromkeys(by)), which or CostFilter(), limit=limit)


def _budgets(service: Service) -> Budgets:
    return Budgets(service.kernel.store.database)


def _place(service: Service, scope: Scope) -> Place:
    """Give where the budget of a scope is stored; raises `RunNotFound` and `UsageError` for what is not there."""
    runs = service.kernel.store.runs
    match scope.kind:
        case "tenant":
            return Place("tenant", DEFAULT_TENANT_ID)
        case "project":
            found = runs.find_project(scope.target)
            if found is None:
                raise UsageError(f"there is no project {scope.target!r}; `nightfleet projects` lists them")
            return Place("project", found)
        case "run":
            runs.state(scope.target)
            return Place("run", scope.target, scope.target)
        case "agent-run":
            run_id = run_id_of(scope.target)
            if all(row[0] != scope.target for row in runs.parts(run_id)):
                raise RunNotFound(
                    f"there is no agent run {scope.target}; `nightfleet runs show {run_id} --json` lists them"
                )
            return Place("agent-run", scope.target, run_id)
        case _:
            return Place(scope.kind, scope.target)


def _the_one(service: Service, place: Place, scope: Scope, period: Period | None) -> BudgetSummary:
    """Give the budget that is meant, of those that a scope has for different periods."""
    found = _budgets(service).list(place.scope)
    meant = [each for each in found if period in {None, each.period}]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UsageError(
            f"{scope} has budgets for several periods: say --period {' or '.join(e.period for e in meant)}"
        )
    of = "" if period in {None, "none"} else f" for a {period}"
    raise UsageError(f"{scope} has no budget{of}; `nightfleet budgets` lists them, `nightfleet budgets set` makes one")


def _changed(service: Service, place: Place, period: Period) -> BudgetSummary:
    failpoint("after_budget_change")
    _wake(service)
    [found] = [each for each in _budgets(service).list(place.scope) if each.period == period]
    return found


def _wake(service: Service) -> None:
    """Publish what a change has given room to; what cannot be published now is left to the sweep."""
    kernel = service.kernel
    own = None if kernel.own_runs is None else kernel.own_runs.ids
    while woken := kernel.store.ledger.wake(own):
        if not kernel.advancer.republish(woken) or len(woken) < TAKEN_AT_ONCE:
            return
