"""`run` and `submit`: a workflow and its input, and what becomes of them."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import attend, render
from orchestrator.commands.asking import Asker, can_ask
from orchestrator.commands.checking import check, check_here
from orchestrator.commands.completion import workflows
from orchestrator.commands.place import (
    NO_FLEET,
    Command,
    Place,
    charge_options,
    deadline_option,
    json_option,
    place_options,
    producing,
    set_up_logging,
    timeout_option,
)
from orchestrator.commands.session import working
from orchestrator.errors import InputInvalid, SettingsInvalid, UsageError, ValueTooLarge

if TYPE_CHECKING:
    from orchestrator.contracts.workflow import WorkflowDefinition
    from orchestrator.settings import Settings


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done, as it was written on the command line."""

    workflow: str
    given: str | None
    text: str | None
    project: str
    deadline: float | None
    user: str | None
    budget: Decimal | None

    def definition(self) -> WorkflowDefinition:
        """Give the workflow; raises `WorkflowInvalid` with every problem at its place."""
        from orchestrator.planning.files import resolve_workflow

        return resolve_workflow(self.workflow)

    def terms(self) -> dict[str, Any]:
        """Give the options of a submit that say where the run belongs, how long it may take and what it may cost."""
        return {name: getattr(self, name) for name in ("project", "deadline", "user", "budget")}

    def input(self, limit_bytes: int) -> Any:
        """Give the input; raises `UsageError` naming the option and what is wrong with its value."""
        if self.given is not None and self.text is not None:
            raise UsageError("--input and --text both give the input: leave one out")
        if self.text is not None:
            return {"text": read_text("--text", self.text, limit_bytes)}
        return {} if self.given is None else parse_json("--input", read_text("--input", self.given, limit_bytes))


def work_options(command: Command) -> Command:
    """Add WORKFLOW, `--input`, `--text`, `--project`, `--deadline`, `--user` and `--budget`; the command gets them as `work`."""

    @click.argument("workflow", shell_complete=workflows)
    @click.option("--input", "given", metavar="JSON|@FILE|-", help="The input: JSON, a file of JSON, or - for stdin.")
    @click.option("--text", metavar="TEXT|@FILE|-", help='The input {"text": ...}: text, a file, or - for stdin.')
    @click.option("--project", default="default", show_default=True, help="The project that the run belongs to.")
    @deadline_option
    @charge_options
    @functools.wraps(command)
    def gathered(*args: Any, workflow: str, **others: Any) -> Any:
        given = {field.name: others.pop(field.name) for field in fields(Work) if field.name != "workflow"}
        return command(*args, work=Work(workflow, **given), **others)

    return gathered


@click.command()
@work_options
@place_options()
@timeout_option
@click.option("--dry-run", is_flag=True, help="Print the plan as text and Mermaid; run and store nothing.")
@json_option
def run(work: Work, place: Place, *, timeout: float | None, dry_run: bool, as_json: bool) -> int:
    """Run WORKFLOW on an input and wait for the result.

    WORKFLOW is an expression, or the path of a YAML or JSON file. On the fleet if one is configured, else in this
    process.

    \b
      nightfleet run "reader | [summarizer, critic] | editor" --text @article.md
      nightfleet run press-review.yaml --input '{"text": "..."}' --json
    """
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    definition = work.definition()
    if dry_run:
        _print_plan(definition, settings, as_json=as_json)
        return 0
    if place.agents_path is not None and not settings.embedded:
        raise UsageError("--agents-path is for agents in this process: add --embedded, or give it to the workers")
    if settings.embedded:
        check_here(definition, settings)
    given = work.input(settings.max_value_bytes)
    try:
        with working(place, settings) as session:
            handle = session.nf.submit(definition, given, **work.terms())
            session.run_id = handle.id
            click.echo(f"run {handle.id}: {render.one_line(definition.name)}", err=True)
            try:
                asker = Asker(session.nf.service, screen, flags=place.flags, prompts=can_ask())
                result = attend.attend(session.nf.service, handle.id, screen, timeout=timeout, asker=asker)
            except attend.TimeIsUp as error:
                click.echo(f"Error: {error}", err=True)
                if as_json:
                    click.echo(handle.snapshot().model_dump_json(indent=2))
                raise
    except attend.TimeIsUp:
        return 1
    return attend.conclude(result, flags=place.flags, as_json=as_json)


@click.command()
@work_options
@place_options(embedded=False, agents=False)
@click.option("--idempotency-key", metavar="KEY", help="A second submit with the same key gives the first run.")
@json_option
def submit(work: Work, place: Place, *, idempotency_key: str | None, as_json: bool) -> None:
    """Hand WORKFLOW and its input to the fleet, and print the id of the run."""
    settings = place.settings()
    set_up_logging(settings)
    if settings.embedded:
        raise SettingsInvalid(f"no fleet is configured: {NO_FLEET}, or use `nightfleet run`, which needs none")
    definition = work.definition()
    given = work.input(settings.max_value_bytes)
    with producing(settings) as nf:
        handle = nf.submit(definition, given, idempotency_key=idempotency_key, **work.terms())
    click.echo(json.dumps({"id": handle.id}) if as_json else handle.id)


def parse_json(what: str, text: str) -> Any:
    """Give JSON text as values; raises `InputInvalid` showing where it is none."""
    from orchestrator.planning.hints import excerpt

    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = error.doc.split("\n")[error.lineno - 1]
        raise InputInvalid(
            f"{what} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}{excerpt(line, error.colno - 1)}"
        ) from None
    except RecursionError:
        raise InputInvalid(f"{what} is nested too deeply") from None


def read_text(option: str, value: str, limit_bytes: int) -> str:
    """Give the text that the value of an option stands for: `-` is stdin, `@path` a file, anything else itself."""
    if value != "-" and not value.startswith("@"):
        return value
    what = f"{option} {value}"
    try:
        content = _head(None if value == "-" else Path(value.removeprefix("@")), limit_bytes + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{what}: {reason}, in {Path.cwd()} (text that begins with @ can come by --text -)") from None
    if len(content) > limit_bytes:
        raise ValueTooLarge(
            f"{what} has more than {limit_bytes:,} bytes: pass a reference to it (a path, an URL), or raise "
            "NIGHTFLEET_MAX_VALUE_BYTES"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{what}: it is not UTF-8 (byte {error.start:,}): save it as UTF-8") from None


def _head(path: Path | None, count: int) -> bytes:
    """Give the first bytes of a file, or of stdin."""
    if path is None:
        return sys.stdin.buffer.read(count)
    with path.open("rb") as file:
        return file.read(count)


def _print_plan(definition: WorkflowDefinition, settings: Settings, *, as_json: bool) -> None:
    from orchestrator.planning.diagram import as_text
    from orchestrator.planning.mermaid import as_mermaid

    check(definition, settings)
    if as_json:
        click.echo(definition.model_dump_json(indent=2))
    else:
        click.echo(f"{as_text(definition)}\n\n{as_mermaid(definition)}")
