"""What shells complete: the script that asks, and the answers that are worth more than the names of options.

Answers are looked up in folders and never in a database: a key press must not wait for a server.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import CompletionItem, get_completion_class

from orchestrator.shipped import shipped_folder, shipped_profiles

#: Set by the script of the shell; its name is click's convention.
VARIABLE = "_NIGHTFLEET_COMPLETE"

_INSTALL = {
    "bash": (
        'for this shell:  eval "$(nightfleet completion bash)"',
        "for each one:    nightfleet completion bash > ~/.local/share/bash-completion/completions/nightfleet",
        "                 (its folder must be there, and the package bash-completion installed)",
    ),
    "zsh": (
        'for this shell:  eval "$(nightfleet completion zsh)"     (after compinit)',
        "for each one:    nightfleet completion zsh > ~/.zfunc/_nightfleet     (a folder of $fpath)",
    ),
    "fish": (
        "for this shell:  nightfleet completion fish | source",
        "for each one:    nightfleet completion fish > ~/.config/fish/completions/nightfleet.fish",
    ),
}

#: An expression up to the name that is being typed.
_BEFORE_NAME = re.compile(r"^(.*[|\[(,=\s])?([a-z0-9_]*)$", re.DOTALL)


@click.command()
@click.argument("shell", type=click.Choice(tuple(_INSTALL)))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options and names.

    \b
      bash  eval "$(nightfleet completion bash)"
      zsh   eval "$(nightfleet completion zsh)"
      fish  nightfleet completion fish | source
    """
    root = click.get_current_context().find_root().command
    made = get_completion_class(shell)
    assert made is not None
    asks = made(root, {}, "nightfleet", VARIABLE)
    hints = [f"# {line}" for line in _INSTALL[shell]]
    lines = (asks.source_template % asks.source_vars()).strip().splitlines()
    # zsh wants its `#compdef` before all else.
    head = lines[:1] if shell == "zsh" else []
    click.echo("\n".join([*head, *hints, *lines[len(head) :]]))
    if sys.stdout.isatty():
        click.echo("\n".join(_INSTALL[shell]), err=True)


def answer(cli: click.Command) -> NoReturn:
    """Answer the shell and exit: whatever goes wrong, the line that is being typed stays as it is."""
    with contextlib.suppress(Exception):
        cli.main(prog_name="nightfleet", complete_var=VARIABLE, standalone_mode=False)
    sys.exit(0)


def profiles(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete `--config`: the profiles that ship, and TOML files."""
    return _items(incomplete, [*sorted(shipped_profiles()), *_files(incomplete, ".toml")])


def agents(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of an agent."""
    return [CompletionItem(name) for name in _agent_names() if name.startswith(incomplete)]


def workflows(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete WORKFLOW: the last name of an expression, or a file."""
    found = _BEFORE_NAME.match(incomplete)
    before, begun = (found[1] or "", found[2]) if found else ("", incomplete)
    names = [f"{before}{name}" for name in _agent_names() if name.startswith(begun)]
    return _items(incomplete, [*names, *_files(incomplete, ".yaml", ".yml", ".json")])


def _items(incomplete: str, values: Iterable[str]) -> list[CompletionItem[str]]:
    """Give the values that fit; where none does, the shell looks for files by itself."""
    fitting = [CompletionItem(value) for value in values if value.startswith(incomplete)]
    return fitting or [CompletionItem(incomplete, type="file")]


def _agent_names() -> list[str]:
    """Give the names that plugins have by their files; none is loaded."""
    path = os.environ.get("NIGHTFLEET_AGENTS_PATH") or "./agents"
    folders = [Path(entry) for entry in path.split(os.pathsep) if entry]
    shipped = shipped_folder("agents")
    files = (
        file for folder in [*folders, *([shipped] if shipped else [])] if folder.is_dir() for file in folder.iterdir()
    )
    return sorted({file.stem for file in files if _is_plugin(file)})


def _is_plugin(path: Path) -> bool:
    if path.name.startswith(("_", ".")):
        return False
    return path.suffix == ".py" or (path / "agent.py").is_file()


def _files(incomplete: str, *suffixes: str) -> list[str]:
    """Give the files of certain kinds in the folder that is being typed, as they would be typed."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    with contextlib.suppress(OSError):
        return sorted(f"{folder}{path.name}" for path in Path(folder or ".").iterdir() if path.suffix in suffixes)
    return []
