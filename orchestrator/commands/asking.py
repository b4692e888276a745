"""Questions of agents on a terminal: how they look, how a person answers, and who tells of them while a run goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import render
from orchestrator.contracts.shape import faults_of
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.commands.attend import Screen
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.question import Question
    from orchestrator.service import Service


def questions_table(questions: Sequence[Question]) -> str:
    """Give questions as lines of a table."""
    rows = [
        (each.id, each.run_id, each.task, render.one_line(each.text, 60), _takes(each), _until(each))
        for each in questions
    ]
    return render.table(("question", "run", "task", "asks", "takes", "expires"), rows)


def question_page(question: Question) -> str:
    """Give all that a person has to see before an answer."""
    lines = [f"{question.task} asks: {render.printable(question.text)}"]
    if question.about is not None:
        lines += ["about:", render.printable(render.as_json(question.about))]
    if question.answer_schema is not None:
        lines += ["the answer is JSON of this schema:", render.as_json(question.answer_schema)]
    if question.expires_at is not None:
        lines.append(f"it expires at {render.moment(question.expires_at)}")
    return "\n".join(lines)


def answered_by_person(question: Question) -> Any:
    """Show a question, and ask for its answer until there is one that it takes; `click.Abort` when there will be none."""
    click.echo(question_page(question), err=True)
    if question.choices:
        return click.prompt("answer", type=click.Choice(question.choices), err=True)
    if question.answer_schema is None:
        return click.prompt("answer", err=True)
    while True:
        try:
            value = json.loads(click.prompt("answer (JSON)", err=True))
        except ValueError as error:
            click.echo(f"that is no JSON: {error}", err=True)
            continue
        faults = faults_of(value, question.answer_schema)
        if not faults:
            return value
        click.echo("; ".join(faults), err=True)


def can_ask() -> bool:
    """Tell whether a person is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Asker:
    """Tells of the questions of a run that is followed; with `prompts` it asks who is at the terminal."""

    def __init__(self, service: Service, screen: Screen, *, flags: str, prompts: bool) -> None:
        self._service = service
        self._screen = screen
        self._flags = flags
        self._prompts = prompts

    def look(self, run_id: str, events: Sequence[RunEvent]) -> None:
        """Take up the questions that were asked in some events and are open still."""
        asked = {event.data["question"] for event in events if _asks(event)}
        if not asked:
            return
        for question in self._service.questions.open(run_id):
            if question.id in asked:
                self._take_up(question)

    def _take_up(self, question: Question) -> None:
        if not self._prompts:
            self._screen.write(f"{question_page(question)}\n{how_to_answer(question, self._flags)}\n")
            return
        self._screen.keep()
        try:
            value = answered_by_person(question)
            self._service.questions.answer(question.id, value, digest=question.digest)
        except click.Abort:
            raise KeyboardInterrupt from None
        except UsageError as error:  # answered elsewhere meanwhile, say
            click.echo(f"Error: {error.message}", err=True)


def how_to_answer(question: Question, flags: str) -> str:
    """Give the command that answers a question."""
    if question.choices == ("yes", "no"):
        given = "--yes, or --no"
    elif question.answer_schema is not None and not question.choices:
        given = "--value JSON"
    else:
        given = "--text TEXT"
    return f"answer with: nightfleet runs answer {question.id}{flags} {given}"


def _asks(event: RunEvent) -> bool:
    return event.kind == "progress" and isinstance(event.data, dict) and "question" in event.data


def _takes(question: Question) -> str:
    if question.choices:
        return render.one_line(", ".join(question.choices), 40)
    return "text" if question.answer_schema is None else "JSON"


def _until(question: Question) -> str:
    return "-" if question.expires_at is None else render.moment(question.expires_at)
