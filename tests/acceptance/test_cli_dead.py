"""`runs dead`: what failed for good is listed and shown with its reason, and put on its way again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from shell import ROOT, Shell, run_id_in

AGENT = '''
from worker.agent import BaseAgent, Context


class Counter(BaseAgent):
    """Count, from a number."""

    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(len, "counts")
        return {"text": str(1 + data["from"])}
'''


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {})
    shell.write("agents/counter.py", AGENT)
    return shell


def is_as_published(name: str, value: Any) -> bool:
    schema = json.loads((ROOT / f"docs/schemas/{name}.json").read_text())
    return Draft202012Validator(schema).is_valid(value)


def test_what_failed_for_good_is_listed_shown_and_redriven_with_another_input(nf: Shell) -> None:
    [none, failed] = nf.one_after_the_other(
        ("runs", "dead"), ("run", "counter", "--input", '{"from": "one"}', "--project", "press")
    )
    assert (none.code, none.out, none.err) == (0, "", "no agent run has failed for good\n")
    assert failed.code == 1
    run_id = run_id_in(failed.err)
    [listed, table, quarantined, elsewhere, shown, page] = nf.one_after_the_other(
        ("runs", "dead", "--json"),
        ("runs", "dead", "list", "--project", "press"),
        ("runs", "dead", "--quarantined", "--json"),
        ("runs", "dead", "--project", "other", "--json"),
        ("runs", "dead", "show", run_id, "--json"),
        ("runs", "dead", "show", run_id),
    )
    [dead] = listed.json()
    assert is_as_published("dead", listed.json())
    assert (dead["run_id"], dead["task"], dead["quarantined"]) == (run_id, "counter", False)
    assert dead["error"]["message"].startswith("TypeError")
    assert dead["id"] in table.out
    assert "agent_failed: TypeError" in table.out
    assert quarantined.json() == elsewhere.json() == []
    assert is_as_published("dead-agent-run", shown.json())
    assert (shown.json()["input"], shown.json()["recorded"]) == ({"from": "one"}, 1)
    assert f"nightfleet runs dead redrive {dead['id']} tries it again" in page.out

    [again, anew, gone] = nf.one_after_the_other(
        ("runs", "dead", "redrive", dead["id"]),
        ("runs", "dead", "redrive", dead["id"], "--input", '{"from": 1}', "--json"),
        ("runs", "dead", "redrive", dead["id"]),
    )
    assert again.code == 1
    assert (anew.code, anew.json()["output"]) == (0, {"text": "2"})
    assert gone.code == 2
    assert "is no agent run that failed for good (its run is succeeded)" in gone.err


def test_what_is_no_id_is_told_without_looking(nf: Shell) -> None:
    done = nf("runs", "dead", "show", "nothing")
    assert (done.code, done.out) == (2, "")
    assert "'nothing' is the id of no run" in done.err
