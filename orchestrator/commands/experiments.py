"""`experiments`: a share of live runs gets a variant, and both arms are shown side by side."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import evaluation_page, render
from orchestrator.commands.place import Listing, Place, changing, json_option, looking, place_options, set_up_logging
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.experiment import Experiment


@click.group(cls=Listing)
def experiments() -> None:
    """Give a share of live runs a variant; alone it lists experiments."""


@experiments.command("list")
@place_options(agents=False)
@json_option
def list_experiments(place: Place, *, as_json: bool) -> None:
    """List experiments by name."""
    from orchestrator import experiments as made

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        rows = made.experiments(service)
    if as_json:
        click.echo(render.as_json([row.model_dump(mode="json") for row in rows]))
    elif rows:
        click.echo(evaluation_page.experiments(rows))
    else:
        click.echo("no experiments; `nightfleet experiments set` makes one", err=True)


@experiments.command("set")
@click.argument("name", metavar="NAME")
@click.option("--workflow", metavar="WORKFLOW", help="About runs of this workflow: an expression, a file, or a name.")
@click.option("--agent", metavar="NAME", help="About runs with a task of this agent.")
@click.option("--project", metavar="NAME", help="Only in this project.")
@click.option(
    "--variant", "changes", metavar="KEY=VALUE", multiple=True, required=True,
    help="What is changed: model, system (the system prompt), agent, and task where there are several.",
)  # fmt: skip
@click.option("--share", metavar="P%", required=True, help="The share of the runs that get it, such as 10%.")
@click.option("--by", type=click.Choice(["run", "user"]), default="run", show_default=True, help="What is chosen.")
@place_options(agents=False)
@json_option
def set_experiment(name: str, place: Place, *, changes: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Begin an experiment NAME, or change its share.

    \b
      nightfleet experiments set terse --workflow titler --variant "system=Answer in three words." --share 10%
    """
    from orchestrator import experiments as made

    experiment = _experiment(name, changes, given)
    settings = place.settings()
    set_up_logging(settings)
    with changing(settings) as service:
        kept = made.set_experiment(service, experiment)
    click.echo(kept.model_dump_json(indent=2) if as_json else evaluation_page.experiments([kept]))


@experiments.command()
@click.argument("name", metavar="NAME")
@place_options(agents=False)
@json_option
def stop(name: str, place: Place, *, as_json: bool) -> None:
    """Give no more runs the variant of experiment NAME; those that have it keep it."""
    from orchestrator import experiments as made

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        kept = made.stop_experiment(service, name)
    click.echo(kept.model_dump_json(indent=2) if as_json else evaluation_page.experiments([kept]))


@experiments.command()
@click.argument("name", metavar="NAME")
@click.option("--markdown", is_flag=True, help="Print tables in Markdown.")
@place_options(agents=False)
@json_option
def show(name: str, place: Place, *, markdown: bool, as_json: bool) -> None:
    """Show how the runs with and without the variant of experiment NAME do."""
    from orchestrator import experiments as made

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        report = made.experiment_report(service, name)
    click.echo(report.model_dump_json(indent=2) if as_json else evaluation_page.experiment(report, markdown=markdown))


def _experiment(name: str, changes: tuple[str, ...], given: dict[str, Any]) -> Experiment:
    from pydantic import ValidationError

    from orchestrator.contracts.experiment import Experiment

    pairs = [each.partition("=") for each in changes]
    for key, equals, _ in pairs:
        if not equals:
            raise UsageError(f"--variant {key!r}: write what is changed and to what, such as model=openai:gpt-5")
    try:
        return Experiment(
            name=name,
            workflow=None if given["workflow"] is None else _target(given["workflow"]),
            agent=given["agent"],
            project=given["project"],
            changes={key: value for key, _, value in pairs},  # pyright: ignore[reportArgumentType]
            share=_share(given["share"]),
            by=given["by"],
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])).replace("changes", "--variant")
        message = fault["msg"].removeprefix("Value error, ")
        raise UsageError(f"experiment {name!r}: {place + ': ' if place else ''}{message}") from None


def _target(given: str) -> str:
    """Give the name of the workflow that is meant: that of a file or an expression, else the words themselves."""
    from orchestrator.assigning import target_of
    from orchestrator.errors import WorkflowInvalid
    from orchestrator.planning.files import resolve_workflow

    try:
        return target_of(resolve_workflow(given))
    except WorkflowInvalid:
        if given.replace("-", "").replace("_", "").replace(" ", "").isalnum():
            return given
        raise


def _share(text: str) -> Decimal:
    try:
        found = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except InvalidOperation:
        found = Decimal("NaN")
    if not 0 <= found <= 1:
        raise UsageError(f"--share {text}: give a share of the runs such as 10% or 0.1")
    return found
