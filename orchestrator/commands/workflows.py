"""`workflows`: stored versions and files of workflows, to be listed, read, checked, drawn and compared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import render, workflows_page
from orchestrator.commands.checking import known_here, known_to, tell_problems
from orchestrator.commands.completion import workflows as complete
from orchestrator.commands.place import Listing, Place, json_option, looking, place_options, set_up_logging
from orchestrator.errors import NightfleetError, UnknownAgent, UsageError, WorkflowInvalid

if TYPE_CHECKING:
    from orchestrator.contracts.stored import FileProblem, WorkflowFile
    from orchestrator.planning.files import Known
    from orchestrator.service import Service
    from orchestrator.settings import Settings
    from orchestrator.workflows import Named

_PLACED = re.compile(r"(?P<file>.*?):(?P<line>\d+):(?P<column>\d+): (?P<message>.*)", re.DOTALL)


@click.group(cls=Listing)
def workflows() -> None:
    """List, check, draw and compare workflows; alone it lists those that are stored."""


@workflows.command("list")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Every version, not only the latest of each name.")
@click.option("--files", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Those in files under DIR.")
@place_options(agents=False)
@json_option
def list_workflows(name: str | None, place: Place, *, every: bool, folder: Path | None, as_json: bool) -> None:
    """List stored workflows, or all versions of NAME, with how many runs have each; what was used last comes first."""
    from orchestrator.workflows import versions

    if folder is not None and (name is not None or every):
        raise UsageError("--files lists what is in a folder: leave out NAME and --all")
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        if folder is not None:
            _list_files(service, folder, as_json=as_json)
            return
        found = versions(service, name, every=every)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(workflows_page.versions(found, every=every or name is not None))
    else:
        click.echo("no workflows are stored yet; the first run of one stores it", err=True)


@workflows.command()
@click.argument("workflow", shell_complete=complete)
@place_options(agents=False)
@json_option
def show(workflow: str, place: Place, *, as_json: bool) -> None:
    """Print WORKFLOW as YAML, with its defaults in its tasks: NAME, NAME@VERSION, VERSION, a file, or an expression."""
    from orchestrator.planning.writing import as_yaml

    found = _named(workflow, place)
    if as_json:
        click.echo(found.definition.model_dump_json(indent=2))
        return
    if found.version is not None:
        stored = found.version
        latest = ", latest" if stored.latest else ""
        click.echo(
            f"# version {stored.version}{latest}, first seen {render.moment(stored.first_seen)}, runs {stored.runs:,}"
        )
    click.echo(as_yaml(found.definition), nl=False)


@workflows.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--syntax", is_flag=True, help="The files alone: not whether there are the agents and tools.")
@place_options()
@json_option
def validate(paths: tuple[Path, ...], place: Place, *, syntax: bool, as_json: bool) -> int:
    """Check files of workflows, and those in folders; prints every fault with its line, and ends with 2 if there is one.

    Agents are those that workers have announced and those of this machine; tools are those of this machine.
    """
    settings = place.settings()
    set_up_logging(settings)
    known = None if syntax else _known(settings)
    found = [_checked(path, known) for path in _files(paths)]
    faulty = sum(1 for each in found if each.problems)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
        return 2 if faulty else 0
    for each in found:
        for problem in each.problems:
            click.echo(render.printable(problem.message), err=True)
        if not each.problems:
            click.echo(
                f"{each.file}: {render.one_line(each.name or '')}, {workflows_page.count(each.tasks or 0, 'task')}: sound"
            )
    if faulty:
        if known is not None:
            tell_problems(settings)
        problems = sum(len(each.problems) for each in found)
        click.echo(f"{problems:,} faults in {faulty:,} of {len(found):,} files", err=True)
    return 2 if faulty else 0


@workflows.command()
@click.argument("workflow", shell_complete=complete)
@click.option("--text", "kind", flag_value="text", help="As text in stages.")
@click.option("--mermaid", "kind", flag_value="mermaid", help="As a Mermaid flowchart.")
@place_options(agents=False)
def diagram(workflow: str, place: Place, *, kind: str | None) -> None:
    """Draw WORKFLOW, as text and as Mermaid: NAME, NAME@VERSION, VERSION, a file, or an expression."""
    from orchestrator.planning.diagram import as_text
    from orchestrator.planning.mermaid import as_mermaid

    definition = _named(workflow, place).definition
    drawn = [draw(definition) for name, draw in (("text", as_text), ("mermaid", as_mermaid)) if kind in {None, name}]
    click.echo("\n\n".join(drawn))


@workflows.command()
@click.argument("before", shell_complete=complete)
@click.argument("after", required=False, shell_complete=complete)
@place_options(agents=False)
@json_option
def diff(before: str, after: str | None, place: Place, *, as_json: bool) -> int:
    """Show how AFTER differs from BEFORE, by tasks and fields; ends with 1 if it does.

    Both may be NAME, NAME@VERSION, VERSION, a file, or an expression. A file alone is compared with the latest stored
    version of its name.

    \b
      nightfleet workflows diff review.yaml
      nightfleet workflows diff review@3f2a9c41 review
    """
    from orchestrator.workflows import compared, meant, stored

    settings = place.settings()
    set_up_logging(settings)
    with ExitStack() as stack:
        opened = _once(settings, stack)
        if after is not None:
            old, new = meant(opened, before), meant(opened, after)
        else:
            new = meant(opened, before)
            old = stored(opened(), new.definition.name)
    found = compared(old, new)
    click.echo(found.model_dump_json(indent=2) if as_json else workflows_page.comparison(found))
    return 0 if found.same else 1


def _named(workflow: str, place: Place) -> Named:
    from orchestrator.workflows import meant

    settings = place.settings()
    set_up_logging(settings)
    with ExitStack() as stack:
        return meant(_once(settings, stack), workflow)


def _once(settings: Settings, stack: ExitStack) -> _Opened:
    return _Opened(settings, stack)


class _Opened:
    """The store, opened when it is first asked for: a file needs none."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._service: Service | None = None

    def __call__(self) -> Service:
        """Give it."""
        if self._service is None:
            self._service = self._stack.enter_context(looking(self._settings))
        return self._service


def _known(settings: Settings) -> Known:
    """Give what workflows may name: what is here, and on a fleet what workers have announced."""
    if settings.embedded:
        return known_here(settings)
    with looking(settings) as service:
        return known_to(settings, service.known_agents())


def _files(paths: tuple[Path, ...]) -> list[Path]:
    from orchestrator.workflows import files_in

    found: list[Path] = []
    for path in paths:
        inside = files_in(path) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"there is no workflow in the folder {path}: a file of YAML or JSON with `tasks`")
        found += inside
    return list(dict.fromkeys(found))


def _list_files(service: Service, folder: Path, *, as_json: bool) -> None:
    from orchestrator.planning.files import load_workflow
    from orchestrator.workflows import files_in, standing

    if not folder.is_dir():
        raise UsageError(f"--files {folder}: there is no such folder")
    found: list[WorkflowFile] = []
    for path in files_in(folder):
        each = _checked(path, None)
        stored = None if each.problems else standing(service, load_workflow(path))
        found.append(each.model_copy(update={"stored": stored}))
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(workflows_page.files(found))
    else:
        click.echo(f"there is no workflow in the folder {folder}", err=True)


def _checked(path: Path, known: Known | None) -> WorkflowFile:
    """Read a file; what is wrong with it is part of the answer."""
    from orchestrator.contracts.stored import SHORT, WorkflowFile
    from orchestrator.planning.files import load_workflow

    try:
        found = load_workflow(path, known)
    except WorkflowInvalid as error:
        return WorkflowFile(file=str(path), problems=_problems(error.problems, path))
    except UnknownAgent as error:
        return WorkflowFile(file=str(path), problems=_problems(_told(error.message), path))
    except NightfleetError as error:
        return WorkflowFile(file=str(path), problems=_problems([error.message], path))
    version = found.digest[:SHORT]
    return WorkflowFile(file=str(path), name=found.name, version=version, digest=found.digest, tasks=len(found.tasks))


def _told(message: str) -> list[str]:
    """Take messages apart that stand below each other, each with an excerpt of its line, which is indented."""
    return re.split(r"\n(?=\S)", message)


def _problems(texts: Iterable[str], file: Path) -> tuple[FileProblem, ...]:
    """Give what is wrong with a file; what is wrong in another one that it names has no line in this one."""
    from orchestrator.contracts.stored import FileProblem

    def problem(text: str) -> FileProblem:
        found = _PLACED.fullmatch(text)
        if found is None or found["file"] != str(file):
            return FileProblem(line=None, column=None, message=text)
        return FileProblem(line=int(found["line"]), column=int(found["column"]), message=text)

    return tuple(map(problem, texts))
