"""`cost`: what was spent on what, as a table, as CSV and as JSON."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from orchestrator.clock import system_clock
from orchestrator.commands import render
from orchestrator.commands.place import Place, json_option, looking, place_options, set_up_logging
from orchestrator.commands.selection import moment_of, moment_option, optional_run_id
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.cost import CostLine

#: Written out, so that `--help` needs no model; a test compares them.
DIMENSIONS = ("day", "tenant", "project", "batch", "user", "run", "agent", "model", "variant")
_USUAL_SINCE = "30d"


@click.command()
@click.option(
    "--by", type=click.Choice(DIMENSIONS), multiple=True, help="What to add up by; may be repeated (project)."
)
@click.option(
    "--since", metavar="AGE", callback=moment_option, help="Only calls since: 90s, 15m, 2h, 3d, a time (30d)."
)
@click.option("--before", metavar="AGE", callback=moment_option, help="Only calls before: 90s, 15m, 2h, 3d, a time.")
@click.option("--project", metavar="NAME", help="Only calls of this project.")
@click.option("--user", metavar="NAME", help="Only calls of runs that are charged to this user.")
@click.option("--run", metavar="ID", callback=optional_run_id, help="Only calls of this run, since its beginning.")
@click.option("--batch", metavar="ID", callback=optional_run_id, help="Only calls of this batch, since its beginning.")
@click.option("--agent", metavar="NAME", help="Only calls of this agent.")
@click.option("--model", metavar="NAME", help="Only calls of this model.")
@click.option("--variant", metavar="NAME", help="Only calls of runs of this variant, such as titles/terse.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), metavar="N", help="At most so many lines, the dearest.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout, for spreadsheets and invoices.")
@place_options(agents=False)
@json_option
def cost(
    by: tuple[Any, ...], place: Place, *, limit: int | None, as_csv: bool, as_json: bool, **conditions: Any
) -> None:
    """Show what model calls have cost, the dearest first.

    \b
      nightfleet cost --by model --by day --since 7d
      nightfleet cost --by user --since 2026-05-01 --before 2026-06-01 --csv > may.csv
    """
    from orchestrator.contracts.cost import CostFilter
    from orchestrator.costs import costs

    if as_csv and as_json:
        raise UsageError("--csv and --json are two forms of the same: leave one out")
    names = tuple(dict.fromkeys(by)) or ("project",)
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        lines = costs(service, names, CostFilter.model_validate(_since(conditions)), limit=limit)
    if as_json:
        click.echo(render.as_json([line.model_dump(mode="json") for line in lines]))
    elif as_csv:
        _write_csv(names, lines)
    elif lines:
        click.echo(_table(names, lines))
    else:
        click.echo("no model calls; `--since` goes further back", err=True)


def _since(conditions: dict[str, datetime | str | None]) -> dict[str, Any]:
    """Add the usual beginning: of all calls but those of a single run or batch."""
    if conditions["since"] or conditions["run"] or conditions["batch"]:
        return conditions
    return {**conditions, "since": moment_of(_USUAL_SINCE, system_clock.now())}


def _write_csv(names: Sequence[str], lines: Sequence[CostLine]) -> None:
    """Write a billing record for each line, under the names that JSON has."""
    from orchestrator.contracts.cost import CostLine

    amounts = [name for name in CostLine.model_fields if name not in {*DIMENSIONS, "schema_version"}]
    writer = csv.writer(sys.stdout)
    writer.writerow([*names, *amounts])
    for line in lines:
        writer.writerow([_cell(getattr(line, name)) for name in (*names, *amounts)])


def _cell(value: object) -> object:
    """Give a cell that no spreadsheet takes for a formula."""
    formula = isinstance(value, str) and value != "-" and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def _table(names: Sequence[str], lines: Sequence[CostLine]) -> str:
    headers = (*names, ">calls", ">tokens in", ">cached", ">out", ">cost", ">in flight", ">unknown", "notes")
    rows = [_row([str(getattr(line, name)) for name in names], line) for line in lines]
    if len(lines) > 1:
        rows.append(_row(["all", *[""] * (len(names) - 1)], _sum(lines)))
    return render.table(headers, rows)


def _row(named: Sequence[str], line: CostLine) -> tuple[str, ...]:
    counts = (line.calls, line.input_tokens, line.cached_input_tokens, line.output_tokens)
    unknown = f"{render.usd(line.unknown_usd)} ({line.unknown_calls:,})" if line.unknown_calls else "-"
    notes = [
        *([f"{line.unpriced_calls:,} without a price"] if line.unpriced_calls else []),
        *([f"{line.saved_calls:,} saved"] if line.saved_calls else []),
    ]
    reserved = render.usd(line.reserved_usd) if line.reserved_usd != "0" else "-"
    return (*named, *(f"{count:,}" for count in counts), render.usd(line.usd), reserved, unknown, ", ".join(notes))


def _sum(lines: Sequence[CostLine]) -> CostLine:
    from orchestrator.contracts.cost import CostLine
    from orchestrator.contracts.money import plain_usd, to_nanousd

    def total(name: str) -> Any:
        values = [getattr(line, name) for line in lines]
        if not name.endswith("usd"):
            return sum(values)
        return plain_usd(sum(to_nanousd(Decimal(each)) for each in values))

    names = [name for name in CostLine.model_fields if name not in {*DIMENSIONS, "schema_version"}]
    return CostLine(**{name: total(name) for name in names})
