"""`budgets`: how much may be spent where, and how much of it is."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import render
from orchestrator.commands.place import (
    Listing,
    Place,
    Usd,
    changing,
    json_option,
    looking,
    place_options,
    set_up_logging,
)
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.budget import BudgetSummary, Scope

#: Written out, so that `--help` needs no model; a test compares them.
PERIODS = ("none", "day", "month")
MODES = ("strict", "expected")
ON_CAP = ("pause", "fail", "warn")

_AMOUNT = re.compile(r"(\+?)(\d{1,12}(?:\.\d{1,9})?|\.\d{1,9})")


_period_option = click.option(
    "--period", type=click.Choice(PERIODS), help="Which one, where there are budgets for several periods."
)


def _scope(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Scope | None:
    from orchestrator.contracts.budget import Scope

    return None if value is None else Scope.parse(value)


_scope_argument = click.argument("scope", callback=_scope)


@click.group(cls=Listing)
def budgets() -> None:
    """List budgets, set, raise and remove them; alone it lists them.

    \b
      nightfleet budgets set project/press 25 --period month
      nightfleet budgets set user/ada 2 --period day --on-cap fail
      nightfleet budgets raise project/press +10
    """


@budgets.command("list")
@click.argument("scope", required=False, callback=_scope)
@click.option("--all", "of_runs", is_flag=True, help="Those of single runs too.")
@place_options(agents=False)
@json_option
def list_budgets(scope: Scope | None, place: Place, *, of_runs: bool, as_json: bool) -> None:
    """List budgets with how much of them is used: all but those of single runs, or those of SCOPE."""
    from orchestrator.costs import budgets as all_budgets

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        found = all_budgets(service, scope, of_runs=of_runs)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        headers = ("scope", "period", ">limit", ">spent", ">in flight", ">unknown", ">left", "at the cap", ">waiting")
        click.echo(render.table(headers, map(_row, found)))
    else:
        click.echo("no budgets; `nightfleet budgets set` makes one", err=True)


@budgets.command("set")
@_scope_argument
@click.argument("usd", type=Usd())
@click.option(
    "--period", type=click.Choice(PERIODS), default="none", show_default=True, help="How often it begins anew."
)
@click.option(
    "--mode", type=click.Choice(MODES), default="strict", show_default=True, help="What is held for a call in flight."
)
@click.option(
    "--on-cap", type=click.Choice(ON_CAP), default="pause", show_default=True, help="What becomes of who is over it."
)
@place_options(agents=False)
@json_option
def set_one(scope: Scope, usd: Decimal, place: Place, *, as_json: bool, **kind: str) -> None:
    """Let SCOPE spend at most USD, also if it had another limit; what it has spent in this period counts.

    SCOPE is tenant, project/NAME, user/NAME, batch/ID, run/ID or agent-run/ID.
    """
    from orchestrator.contracts.budget import Budget
    from orchestrator.costs import set_budget

    wanted = Budget.checked(usd=usd, **kind)
    settings = place.settings()
    set_up_logging(settings)
    with changing(settings) as service:
        _tell(set_budget(service, scope, wanted), as_json=as_json)


@budgets.command("raise")
@_scope_argument
@click.argument("usd", metavar="USD|+USD")
@_period_option
@place_options(agents=False)
@json_option
def raise_one(scope: Scope, usd: str, place: Place, *, period: Any, as_json: bool) -> None:
    """Raise the budget of SCOPE to USD, or by +USD; what waits for it goes on."""
    from orchestrator.costs import raise_budget

    found = _AMOUNT.fullmatch(usd)
    if found is None:
        raise UsageError(f"{usd!r} is no amount in dollars: write 50 for a new limit, +10 for ten more")
    settings = place.settings()
    set_up_logging(settings)
    with changing(settings) as service:
        _tell(raise_budget(service, scope, Decimal(found[2]), by=bool(found[1]), period=period), as_json=as_json)


@budgets.command("remove")
@_scope_argument
@_period_option
@place_options(agents=False)
@json_option
def remove_one(scope: Scope, place: Place, *, period: Any, as_json: bool) -> None:
    """Let SCOPE spend what it likes again; what waits for its budget goes on."""
    from orchestrator.costs import remove_budget

    settings = place.settings()
    set_up_logging(settings)
    with changing(settings) as service:
        removed = remove_budget(service, scope, period=period)
    if as_json:
        click.echo(removed.model_dump_json(indent=2))
    else:
        click.echo(f"removed: {_told(removed)}")


def _tell(budget: BudgetSummary, *, as_json: bool) -> None:
    click.echo(budget.model_dump_json(indent=2) if as_json else _told(budget))


def _told(budget: BudgetSummary) -> str:
    each = "" if budget.period == "none" else f" a {budget.period}"
    limit, left = render.usd(budget.limit_usd), render.usd(budget.left_usd)
    return f"{budget.scope}: {limit}{each}, {left} left; at the cap: {budget.on_cap}"


def _row(budget: BudgetSummary) -> tuple[str, ...]:
    unknown = f"{render.usd(budget.unknown_usd)} ({budget.unknown_calls:,})" if budget.unknown_calls else "-"
    return (
        budget.scope,
        "-" if budget.period == "none" else budget.period,
        render.usd(budget.limit_usd),
        render.usd(budget.spent_usd),
        render.usd(budget.reserved_usd),
        unknown,
        render.usd(budget.left_usd),
        budget.on_cap if budget.mode == "strict" else f"{budget.on_cap}, {budget.mode}",
        f"{budget.waiting:,}",
    )
