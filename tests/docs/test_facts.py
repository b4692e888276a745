"""What the documentation says of tables, options and names is what the code says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

import click
import pytest
from commands import commands_of
from docs.pages import ROOT, Block, blocks_of, documents
from pydantic import SecretStr

from orchestrator.cli import cli
from orchestrator.contracts.composite import COMPOSITES
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.run import AGENT_RUN_TRANSITIONS, RUN_TRANSITIONS
from orchestrator.contracts.workflow import CeleryTask, Compensation, TaskDefinition, ToolUse, WorkflowDefinition
from orchestrator.planning.defaults import TaskDefaults
from orchestrator.settings import Settings
from worker.emulator.faults import KINDS

README = (ROOT / "README.md").read_text()
CLI = (ROOT / "docs/cli.md").read_text()
WORKFLOWS = (ROOT / "docs/workflows.md").read_text()


def test_the_api_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate_api.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_in_the_api_reference() -> None:
    import orchestrator
    import worker.agent
    import worker.testing

    text = (ROOT / "docs/api.md").read_text()
    for module in (orchestrator, worker.agent, worker.testing):
        section = text.partition(f"\n## `{module.__name__}`\n")[2].partition("\n## ")[0]
        missing = [name for name in module.__all__ if f"\n### `{name}`\n" not in section]
        assert not missing, (module.__name__, missing)


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "transitions"),
    [("Run", RUN_TRANSITIONS), ("Agent run", AGENT_RUN_TRANSITIONS)],
)
def test_states(title: str, transitions: Mapping[StrEnum, frozenset[StrEnum]]) -> None:
    diagrams = [
        block
        for block in blocks_of(ROOT / "docs/architecture.md")
        if block.text.startswith("stateDiagram-v2") and f"%% {title}\n" in block.text
    ]
    assert len(diagrams) == 1
    drawn = re.findall(r"^ *(\w+) --> (\w+)", diagrams[0].text, flags=re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {
        (before.value, after.value) for before, all_after in transitions.items() for after in all_after
    }


# Command line ---------------------------------------------------------------------------------------------------------


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if command.hidden:
        return
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in commands_of(command):
            yield from _commands(inner, f"{path} {name}")


COMMANDS = dict(_commands(cli, "nightfleet"))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_documented(path: str) -> None:
    command = COMMANDS[path]
    section = _section(CLI, path)
    assert section, f"docs/cli.md has no heading `{path}`"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for name in parameter.opts:
                assert f"`{name}" in section or name in {"-h", "--help"}, (path, name)
        elif isinstance(parameter, click.Argument) and command.name != "emulator":
            assert (parameter.metavar or parameter.name or "").upper() in section, (path, parameter.name)


def test_every_documented_command_and_option_exists() -> None:
    for path, section in _sections(CLI):
        if not path.startswith("nightfleet"):
            continue
        assert path in COMMANDS, path
        if path == "nightfleet emulator":
            continue
        known = {name for parameter in COMMANDS[path].params for name in (*parameter.opts, *parameter.secondary_opts)}
        documented = set(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE))
        assert documented <= known | {"--help"}, (path, documented - known)


def test_every_option_of_the_emulator_is_documented() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "emulator", "--help"], capture_output=True, text=True, check=True
    )
    section = _section(CLI, "nightfleet emulator")
    for name in set(re.findall(r"--[a-z]+", done.stdout)) - {"--help"}:
        assert f"`{name}" in section, name
    for kind in KINDS:
        assert f"`{kind}`" in section, kind


def _section(text: str, heading: str) -> str:
    return dict(_sections(text)).get(heading, "")


def _sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^#{2,4} `?(.*?)`?$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


# Settings and workflows -----------------------------------------------------------------------------------------------


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(NIGHTFLEET_[A-Z_]+)` \| (.*?) \|", README, flags=re.MULTILINE))
    settings = {f"NIGHTFLEET_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    assert settings.keys() <= rows.keys(), settings.keys() - rows.keys()
    for name, default in settings.items():
        assert rows[name] == _shown(default), name


def _shown(default: Any) -> str:
    match default:
        case None | SecretStr() | "":
            return "-"
        case timedelta():
            return f"`{default.total_seconds():g}`"
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"


@pytest.mark.parametrize(
    "model",
    [
        *(WorkflowDefinition, TaskDefinition, CeleryTask, ToolUse, Compensation, RetryPolicy, Timeouts, TaskDefaults),
        *COMPOSITES.values(),
    ],
)
def test_every_key_of_a_workflow_file_is_documented(model: Any) -> None:
    cells = re.findall(r"^\| (`[a-z_.`, ]+`) \|", WORKFLOWS, flags=re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"[a-z_.]+", cell)}
    prefixes = {made: f"{kind}." for kind, made in COMPOSITES.items()}
    prefixes |= {CeleryTask: "celery.", Compensation: "compensate.", RetryPolicy: "retry.", Timeouts: "timeouts."}
    prefix = {**prefixes, ToolUse: "tool.", TaskDefaults: "defaults."}.get(model, "")
    assert {f"{prefix}{name}" for name in model.model_fields} <= rows


# Prose ----------------------------------------------------------------------------------------------------------------


def test_the_agent_on_the_first_screen_has_twelve_lines_of_code() -> None:
    (agent,) = [block for block in blocks_of(ROOT / "README.md") if block.marks.get("file") == "agents/abstracter.py"]
    assert len([line for line in agent.text.splitlines() if line.strip()]) == 12


def test_decisions_are_short_and_have_their_four_parts() -> None:
    files = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert len(files) >= 9
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) <= 40, file.name
        assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
            "Context",
            "Choice",
            "Cost",
            "How we would notice that it was wrong",
        ], file.name


def test_every_signature_of_the_reference_is_python() -> None:
    signatures: list[Block] = [block for block in blocks_of(ROOT / "docs/api.md") if block.language == "python"]
    assert signatures
    for block in signatures:
        ast.parse(block.text)


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_that_is_named_exists(path: Any) -> None:
    text = path.read_text()
    named = re.findall(r"`((?:orchestrator|worker|config|tests|docs)/[\w./]+)`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, missing
