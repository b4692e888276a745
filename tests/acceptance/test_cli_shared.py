"""`runs show --shared`: what the agents of a run share, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator
from shell import ROOT, Shell

AGENTS = """
from worker.agent import BaseAgent, Context


class Sharer(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.state.set("plan", {"title": "Ships", "steps": [1, 2]})
        ctx.state.set("plan", {"title": "Harbours"})
        ctx.state.set("gone", 1)
        ctx.state.delete("gone")
        ctx.state.own.set("draft", "first \\x1b[31m line\\nsecond")
        return {"text": "done"}
"""


def test_what_a_run_shares_is_shown_with_versions_and_who_wrote_it(tmp_path: Path) -> None:
    nf = Shell(tmp_path, {})
    nf.write("agents/sharer.py", AGENTS)
    [run, nothing] = nf.one_after_the_other(
        ("run", "sharer", "--input", "{}", "--json"), ("run", "reader", "--text", "Ships.", "--json")
    )
    run_id = run.json()["id"]
    [page, document, empty, both, missing] = nf.one_after_the_other(
        ("runs", "show", run_id, "--shared"),
        ("runs", "show", run_id, "--shared", "--json"),
        ("runs", "show", nothing.json()["id"], "--shared"),
        ("runs", "show", run_id, "--shared", "--journal"),
        ("runs", "show", "01a1f8e2-2a12-7db5-bf29-1320ff100000", "--shared"),
    )
    lines = [" ".join(line.split()) for line in page.out.splitlines()]
    assert lines[0] == f"run {run_id}"
    assert ("shared by all tasks" in lines, "of task sharer" in lines) == (True, True)
    assert any(line.startswith('plan 2 {"title": "Harbours"} sharer ') for line in lines)
    assert any(line.startswith("draft 1 first ") and line.count("second") == 1 for line in lines)
    assert ("gone" in page.out, "\x1b" in page.out) == (False, False)

    schema = json.loads((ROOT / "docs/schemas/shared.json").read_text())
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(document.json())
    values = {(each["namespace"], each["key"]): each for each in document.json()["values"]}
    assert values.keys() == {("", "plan"), ("sharer", "draft")}
    assert (values["", "plan"]["value"], values["", "plan"]["version"]) == ({"title": "Harbours"}, 2)

    assert empty.out.strip().endswith("shares nothing")
    assert (both.code, missing.code) == (2, 2)
    assert "leave all but one out" in both.err
    assert "there is no run" in missing.err or "no run" in missing.err
