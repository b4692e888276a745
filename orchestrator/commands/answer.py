"""`runs questions` and `runs answer`: what agents ask people."""

from __future__ import annotations

import getpass
from typing import Any

import click

from orchestrator.commands import render
from orchestrator.commands.asking import answered_by_person, can_ask, question_page, questions_table
from orchestrator.commands.place import Place, json_option, looking, place_options, set_up_logging
from orchestrator.commands.selection import optional_run_id
from orchestrator.commands.work import parse_json
from orchestrator.errors import UsageError


@click.command()
@click.argument("run", metavar="[RUN]", required=False, callback=optional_run_id)
@click.option("--project", metavar="NAME", help="Only questions of this project's runs.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most so many.")
@place_options(agents=False)
@json_option
def questions(run: str | None, place: Place, *, project: str | None, limit: int, as_json: bool) -> None:
    """List the questions that an answer is awaited for, oldest first; those of one run with all about them."""
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        found = service.questions.open(run, project=project, limit=limit)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif not found:
        click.echo("no questions are open", err=True)
    else:
        click.echo(questions_table(found))
        if run is not None:
            click.echo("\n" + "\n\n".join(map(question_page, found)))


@click.command()
@click.argument("identity", metavar="ID")
@click.option("--text", metavar="TEXT", help="The answer, as text: one of the choices if there are any.")
@click.option("--value", metavar="JSON", help="The answer, as JSON.")
@click.option("--yes", is_flag=True, help="The same as --text yes.")
@click.option("--no", is_flag=True, help="The same as --text no.")
@click.option("--by", metavar="NAME", help="Who answers; who is logged in if not given.")
@click.option("--digest", metavar="DIGEST", help="Only if this is the digest of what is asked.")
@place_options(agents=False)
@json_option
def answer(identity: str, place: Place, *, by: str | None, digest: str | None, as_json: bool, **given: Any) -> None:
    """Answer a question, once and for all: by its ID, or that of a run that asks just one.

    Without an answer among the options, it is asked for on the terminal.
    """
    settings = place.settings()
    set_up_logging(settings)
    values = _values(**given)
    if len(values) > 1:
        raise UsageError("--text, --value, --yes and --no all give the answer: leave all but one out")
    if not values and not can_ask():
        raise UsageError("the answer is missing, and nobody is there to be asked: add --text, --value, --yes or --no")
    with looking(settings) as service:
        question = service.questions.find(identity)
        if given["text"] is not None and question.answer_schema is not None:
            raise UsageError(f"question {question.id} wants an answer of a certain shape: give JSON with --value")
        value = values[0] if values else answered_by_person(question)
        # What is answered is what was shown, or looked at before.
        seen = question.digest if digest is None and not values else digest
        answered = service.questions.answer(question.id, value, by=by or _who(), digest=seen)
    click.echo(answered.model_dump_json() if as_json else f"answered; run {answered.run_id} goes on")


def _values(*, text: str | None, value: str | None, yes: bool, no: bool) -> list[Any]:
    """Give every answer that was given."""
    found: list[Any] = [] if text is None else [text]
    found += [] if value is None else [parse_json("--value", value)]
    return found + ["yes"] * yes + ["no"] * no


def _who() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
