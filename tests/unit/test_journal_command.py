"""`runs show --journal`: what agents have done, fit for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from grounds import StoreGround, entry
from jsonschema import Draft202012Validator

from orchestrator.cli import cli
from orchestrator.commands.journal import page
from orchestrator.contracts.effect import PREVIEW, EntryState
from orchestrator.contracts.recorded import RecordedEffect, RecordedError, RecordedTask, RunJournal
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.usage import Usage
from orchestrator.store.database import Database
from orchestrator.store.store import Store

PUBLISHED = Path(__file__).resolve().parents[2] / "docs/schemas/journal.json"
SECRET = "correct-horse-battery"


def effect(slot: str, **fields: Any) -> RecordedEffect:
    nothing = dict.fromkeys(("request", "outcome", "error", "usage", "model", "milliseconds"))
    return RecordedEffect.model_validate(
        {
            **nothing,
            "slot": slot,
            "kind": "step",
            "state": "done",
            "epoch": 1,
            "recorded_at": datetime.now(UTC),
            **fields,
        }
    )


def test_an_answer_that_cost_nothing_says_where_it_came_from() -> None:
    given = {"kind": "model", "model": "m", "usage": Usage()}
    effects = tuple(
        effect(str(number), provenance=where, **given) for number, where in enumerate(("provider", "cache", "flight"))
    )
    task = RecordedTask(agent_run_id="1", task="a", agent="a", state=AgentRunState.SUCCEEDED, effects=effects)
    rows = page(RunJournal(run_id="R", tasks=(task,))).splitlines()[-3:]
    for row, words in zip(rows, ("0 in, 0 out", "from the cache", "of an equal call"), strict=True):
        assert words in row


def test_effects_are_a_tree_for_each_task() -> None:
    effects = (
        effect("0", request="load", milliseconds=12),
        effect("1", kind="model", model="m", usage=Usage(model_calls=1, input_tokens=1200, output_tokens=7), epoch=2),
        effect("1.0", request="a\nb\x1b[2J", state="failed", error=RecordedError(code="agent_failed", message="no")),
        effect("1.0.10", outcome='{"a": 1}', state="begun"),
    )
    tasks = (
        RecordedTask(agent_run_id="1", task="reader", agent="reader", state=AgentRunState.SUCCEEDED, effects=effects),
        RecordedTask(agent_run_id="2", task="end", agent="editor", state=AgentRunState.BLOCKED, effects=()),
    )
    assert page(RunJournal(run_id="R", tasks=tasks)).splitlines() == [
        "run R",
        "",
        "reader succeeded, 4 effects",
        "effect      kind   what    outcome   state                  took           tokens  claim",
        "0           step   load    -         done                  12 ms                -      1",
        "1           model  -       -         done                      -  1,200 in, 7 out      2",
        "· 1.0       step   a b[2J  -         failed: agent_failed      -                -      1",
        '· · 1.0.10  step   -       {"a": 1}  begun                     -                -      1',
        "",
        "end (agent editor) blocked, nothing recorded",
    ]


def test_the_command_shows_what_is_recorded_cut_and_without_secrets(
    tmp_path: Path, sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = StoreGround(Store(sqlite))
    claim = ground.claim()
    error = {"code": "agent_failed", "message": f"refused {SECRET}", "retryable": True}
    ground.journal.record(claim, entry("10", request="last", milliseconds=5))
    ground.journal.record(claim, entry("2", ["x" * 5_000, SECRET], request=f"with {SECRET}", epoch=7))
    ground.journal.record(claim, entry("2.0", state=EntryState.FAILED, error=error, outcome={"half": "\ud800"}))
    monkeypatch.setenv("NIGHTFLEET_HOME", str(tmp_path))
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    shown = CliRunner().invoke(cli, ["runs", "show", claim.run_id, "--journal"])
    printed = CliRunner().invoke(cli, ["runs", "show", claim.run_id, "--journal", "--json"])
    assert (shown.exit_code, printed.exit_code) == (0, 0)
    assert SECRET not in shown.output + printed.output
    made = json.loads(printed.stdout)
    Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(made)
    [reader, editor] = made["tasks"]
    assert [each["slot"] for each in reader["effects"]] == ["2", "2.0", "10"]
    assert [len(each["outcome"] or "") for each in reader["effects"]] == [PREVIEW, len('{"half": "?"}'), 0]
    assert reader["effects"][1]["error"] == {"code": "agent_failed", "message": "refused ***", "retryable": True}
    assert (editor["task"], editor["effects"]) == ("editor", [])
    assert "with ***" in shown.stdout
