"""What commands print with `--json` is what the published schemas say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from commands import commands_of
from jsonschema import Draft202012Validator
from shell import AGENTS, ROOT, Shell, run_id_in

from orchestrator.cli import cli
from orchestrator.schemas import SCHEMAS, schema_of

PUBLISHED = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs/schemas").glob("*.json")}


def check(name: str, *values: Any) -> None:
    """Validate as a client would: by the published file, formats of times included."""
    assert values
    validator = Draft202012Validator(PUBLISHED[name], format_checker=Draft202012Validator.FORMAT_CHECKER)
    for value in values:
        validator.validate(value)


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_published_schemas_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate_schemas.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_has_a_name_of_its_own(name: str) -> None:
    made = schema_of(name)
    Draft202012Validator.check_schema(made)
    assert made["$id"] == f"urn:nightfleet:schema:{name}:1"
    assert made["description" if made["type"] == "object" else "items"]


def test_a_schema_refuses_what_is_not_printed() -> None:
    assert list(Draft202012Validator(PUBLISHED["run-reference"]).iter_errors({"run": "1"}))


def commands_with_json(command: click.Command = cli, path: str = "") -> list[str]:
    if isinstance(command, click.Group):
        return [found for name, inner in commands_of(command) for found in commands_with_json(inner, f"{path} {name}")]
    return [path.strip()] if any("--json" in parameter.opts for parameter in command.params) else []


@pytest.mark.parametrize("path", commands_with_json())
def test_every_command_with_json_has_a_schema(path: str) -> None:
    named = [part.strip() for made in SCHEMAS.values() for part in re.split("[,;]", made.printed_by)]
    assert [each for each in named if each == path or each.startswith(f"{path} ")]


def test_every_command_prints_what_its_schema_says(tmp_path: Path) -> None:
    nf = Shell(tmp_path, {})
    nf.write("agents/probes.py", AGENTS)
    nf.write("data.jsonl", '{"text": "Ships."}\n{"text": \n')
    [good, bad, dry, rows] = nf.one_after_the_other(
        ("run", "reader | [summarizer, critic]", "--text", "Ships need harbours.", "--json"),
        ("run", "picky", "--json"),
        ("run", "reader | editor", "--dry-run", "--json"),
        ("batch", "run", "data.jsonl", "--workflow", "reader", "--out", "out.jsonl", "--json"),
    )
    check("run", good.json(), bad.json())
    assert (good.code, bad.code) == (0, 1)
    check("workflow", dry.json())
    check("batch", rows.json())
    check("batch-row", *lines((tmp_path / "out.jsonl").read_text()))

    run_id = run_id_in(bad.err)
    nf.write("schedules.yaml", 'nightly: {workflow: reader, cron: "0 2 * * *"}\n')
    [listed, shown, told, watched, cancelled, retried, agents, agent, found, schedules, diagnosis] = (
        nf.one_after_the_other(
            ("runs", "--json"),
            ("runs", "show", run_id, "--json"),
            ("runs", "show", run_id, "--messages", "--json"),
            ("runs", "watch", run_id, "--json"),
            ("runs", "cancel", run_id, "01a1f8e2-2a12-7db5-bf29-1320ff100000", "--json"),
            ("runs", "retry", run_id, "--json"),
            ("agents", "--json"),
            ("agents", "show", "reader", "--json"),
            ("schema", "--json"),
            ("beat", "--list", "--schedules", "schedules.yaml", "--json"),
            ("doctor", "--json"),
        )
    )
    check("runs", listed.json())
    assert {run["state"] for run in listed.json()} == {"succeeded", "failed"}
    check("run", shown.json(), retried.json())
    check("messages", told.json())
    check("event", *lines(watched.out))
    check("cancellation", *lines(cancelled.out))
    assert len(lines(cancelled.out)) == 2
    check("agents", agents.json())
    check("agent", agent.json())
    check("schemas", found.json())
    assert {each["name"] for each in found.json()} == PUBLISHED.keys()
    check("schedules", schedules.json())
    check("diagnosis", diagnosis.json())


def test_a_schema_can_be_had_without_the_docs(tmp_path: Path) -> None:
    [one, none] = Shell(tmp_path, {}).one_after_the_other(("schema", "event"), ("schema", "evnt"))
    assert one.json() == PUBLISHED["event"]
    assert (none.code, none.out) == (2, "")
    assert "there is no schema 'evnt', did you mean 'event'?" in none.err
