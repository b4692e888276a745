"""`init` and `agents new`: the first files of a project and of an agent."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from orchestrator.commands.place import Place, place_options
from orchestrator.errors import UsageError


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a project into DIR that runs at once: agents, a workflow, tests, the files of a fleet."""
    from orchestrator.scaffold import project_files, write

    # A name may be any bytes; what is written is text.
    files = project_files(os.fsencode(folder.resolve().name).decode("utf-8", "replace"))
    write(folder, files)
    for path in files:
        click.echo(f"wrote {folder / path}", err=True)
    here = folder.resolve() == Path.cwd()
    place = f"./{folder}" if str(folder).startswith("-") else str(folder)
    steps = [] if here else [(f"cd {shlex.quote(place)}", "")]
    steps += [
        ('nightfleet run workflow.yaml --text "Ships need harbours. Harbours need pilots."', "in this process"),
        ("pytest", "its tests; `pip install -r requirements.txt` brings pytest and honcho"),
        ("nightfleet agents new NAME", "another agent; README.md says how to run a fleet"),
    ]
    _tell_next(steps)


@click.command()
@click.argument("name")
@click.option("--async", "is_async", is_flag=True, help="An agent that awaits: many of them wait in one thread.")
@click.option("--folder", is_flag=True, help="A folder NAME with an agent.py, for a plugin of several files.")
@place_options(embedded=False)
def new(name: str, place: Place, *, is_async: bool, folder: bool) -> None:
    """Write an agent called NAME and its test, ready to be changed."""
    from orchestrator.scaffold import agent_files, write

    agents = _agents_folder(place.settings().agents_path)
    files = agent_files(name, agents=agents, is_async=is_async, folder=folder)
    _refuse_namesakes(name, agents)
    write(Path(), files)
    for path in files:
        click.echo(f"wrote {path}", err=True)
    option = f" --agents-path {shlex.quote(place.agents_path)}" if place.agents_path else ""
    _tell_next(
        [
            (f"nightfleet agents show {name}{option}", "what it takes and gives"),
            (f"pytest tests/test_{name}.py", "its test"),
            (f'nightfleet run {name}{option} --text "Ships need harbours."', ""),
        ]
    )


def _agents_folder(agents_path: str) -> Path:
    """Give the folder in which a new agent is found: the first of the path."""
    first = next(iter(entry for entry in agents_path.split(os.pathsep) if entry), "agents")
    if not Path(first).is_dir() and "/" not in first and "." in first:
        raise UsageError(
            f"the agents come from the module {first}, where this command writes nothing: name a folder with --agents-path"
        )
    return Path(first)


def _refuse_namesakes(name: str, agents: Path) -> None:
    """Refuse a name that a plugin of the same folder has, since neither could be used; one that ships is overridden."""
    from orchestrator.imports import require_ours

    loader = require_ours("worker.loader")
    shipped = loader.shipped_agents()
    known = loader.AgentLoader(str(agents), base=Path.cwd()).load().agents.get(name)
    if known is None:
        return
    if shipped is None or not Path(known.card.origin).is_relative_to(shipped):
        raise UsageError(f"there is an agent {name!r} already: {known.card.origin}")
    click.echo(f"{name!r} overrides the agent of this name that ships", err=True)


def _tell_next(steps: list[tuple[str, str]]) -> None:
    width = max(len(command) for command, _ in steps)
    click.echo("\n".join(["Next:", *(f"  {command:<{width}}  {why}".rstrip() for command, why in steps)]))
