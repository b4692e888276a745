"""`nightfleet workflows` as it is typed: stored versions, files, drawings, differences, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from shell import ROOT, Shell

PUBLISHED = {path.stem: json.loads(path.read_text()) for path in (ROOT / "docs/schemas").glob("*.json")}

TOOLS = "from worker.agent import tool\n\n\n@tool\ndef double(n: int) -> int:\n    return 2 * n\n"
DOUBLED = """\
name: doubled
inputs: {n: int}
tasks:
  twice: {tool: double, input: {n: "${input.n}"}}
output: {n: "${twice}"}
"""
FAULTY = """\
name: faulty
tasks:
  twice: {tool: duble, input: {n: 1}}
  more: {tool: double, after: twice, input: {m: 1}}
  reader: {agent: reder}
"""


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {})
    for folder in ("agents/tools", "flows/deep"):
        (tmp_path / folder).mkdir(parents=True)
    shell.write("agents/tools/numbers.py", TOOLS)
    shell.write("flows/doubled.yaml", DOUBLED)
    return shell


def check(name: str, value: object) -> None:
    Draft202012Validator(PUBLISHED[name], format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_a_workflow_is_run_listed_shown_and_compared(nf: Shell) -> None:
    first = nf("run", "flows/doubled.yaml", "--input", '{"n": 4}')
    assert (first.code, json.loads(first.out)) == (0, {"n": 8}), first.err
    nf.write("flows/doubled.yaml", DOUBLED.replace("output:", "deadline: 60\noutput:"))
    [same, listed, as_json, diff, diff_json, show, shown_json, text, mermaid] = nf.one_after_the_other(
        ("workflows", "diff", "doubled", "doubled"),
        ("workflows",),
        ("workflows", "--json"),
        ("workflows", "diff", "flows/doubled.yaml"),
        ("workflows", "diff", "flows/doubled.yaml", "--json"),
        ("workflows", "show", "doubled"),
        ("workflows", "show", "doubled", "--json"),
        ("workflows", "diagram", "doubled", "--text"),
        ("workflows", "diagram", "flows/doubled.yaml", "--mermaid"),
    )
    assert (same.code, same.out.endswith(": no difference\n")) == (0, True)
    assert listed.out.splitlines()[0].split() == [
        "workflow",
        "version",
        "versions",
        "first",
        "seen",
        "last",
        "run",
        "runs",
    ]
    [row] = as_json.json()
    check("workflows", [row])
    assert (row["name"], row["runs"], row["versions"], row["latest"]) == ("doubled", 1, 1, True)
    assert listed.out.splitlines()[1].startswith(f"doubled   {row['version']}")
    assert diff.code == 1
    assert diff.out == f"doubled@{row['version']} -> flows/doubled.yaml: 1 difference\n  deadline: added, 60\n"
    check("workflow-comparison", diff_json.json())
    assert diff_json.json()["differences"] == [{"place": "deadline", "change": "added", "before": None, "after": 60}]
    assert show.out.startswith(f"# version {row['version']}, latest, first seen ")
    nf.write("again.yaml", show.out)
    assert nf("workflows", "diff", "doubled", "again.yaml").code == 0, "what is shown is a file of the same workflow"
    check("workflow", shown_json.json())
    assert text.out.startswith("doubled: 1 task in 1 stage\n")
    assert mermaid.out.startswith('flowchart TD\n  task_twice["twice (tool double)"]\n')
    assert "task_output" in mermaid.out


def test_versions_and_files_are_listed(nf: Shell) -> None:
    nf("run", "flows/doubled.yaml", "--input", '{"n": 4}')
    nf.write("flows/doubled.yaml", DOUBLED.replace("output:", "deadline: 60\noutput:"))
    nf("run", "flows/doubled.yaml", "--input", '{"n": 4}')
    nf.write("flows/deep/other.yml", DOUBLED.replace("doubled", "other"))
    nf.write("flows/changed.yaml", DOUBLED.replace("output:", "deadline: 7\noutput:"))
    nf.write("flows/faulty.json", '{"tasks": {"a": {"aftr": "b"}}}')
    nf.write("flows/settings.yaml", "name: no workflow\n")
    [both, files, files_json, missing, wrong] = nf.one_after_the_other(
        ("workflows", "list", "doubled", "--json"),
        ("workflows", "list", "--files", "flows"),
        ("workflows", "list", "--files", "flows", "--json"),
        ("workflows", "list", "dubled"),
        ("workflows", "list", "doubled", "--files", "flows"),
    )
    assert [each["latest"] for each in both.json()] == [True, False]
    check("workflow-files", files_json.json())
    assert {each["file"]: each["stored"] for each in files_json.json()} == {
        "flows/changed.yaml": "changed",
        "flows/deep/other.yml": "new",
        "flows/doubled.yaml": "latest",
        "flows/faulty.json": None,
    }
    assert "1 problem" in files.out
    assert (missing.code, wrong.code) == (2, 2)
    assert "no stored workflow is called 'dubled', did you mean 'doubled'?" in missing.err


def test_a_check_tells_every_fault_with_its_line(nf: Shell) -> None:
    nf.write("flows/faulty.yaml", FAULTY)
    [found, as_json, syntax, sound, missing] = nf.one_after_the_other(
        ("workflows", "validate", "flows"),
        ("workflows", "validate", "flows/faulty.yaml", "--json"),
        ("workflows", "validate", "flows/faulty.yaml", "--syntax"),
        ("workflows", "validate", "flows/doubled.yaml"),
        ("workflows", "validate", "flows/none.yaml"),
    )
    assert (found.code, sound.code, syntax.code, missing.code) == (2, 0, 0, 2)
    assert found.out == "flows/doubled.yaml: doubled, 1 task: sound\n"
    assert "flows/faulty.yaml:3:11: tasks.twice.tool: there is no tool 'duble', did you mean 'double'?" in found.err
    assert "flows/faulty.yaml:4:38: tasks.more.input: double needs n: say with `input`" in found.err
    assert "flows/faulty.yaml:4:38: tasks.more.input: double takes no 'm', it takes n" in found.err
    assert "flows/faulty.yaml:5:12: tasks.reader.agent: unknown agent 'reder', did you mean 'reader'?" in found.err
    assert "4 faults in 1 of 2 files" in found.err
    check("workflow-files", as_json.json())
    assert [(each["line"], each["column"]) for each in as_json.json()[0]["problems"]] == [
        (3, 11),
        (4, 38),
        (4, 38),
        (5, 12),
    ]
    assert "there is no such file" in missing.err


def test_an_input_that_is_not_asked_for_is_refused_before_anything_is_stored(nf: Shell) -> None:
    done = nf("run", "flows/doubled.yaml", "--input", '{"m": "four"}')
    assert (done.code, done.out) == (2, "")
    assert "Error: the input of workflow 'doubled' is invalid: n is missing; 'm' is not asked for" in done.err
    assert nf("runs", "--json").json() == []


def test_an_expression_needs_no_store_to_be_drawn(nf: Shell) -> None:
    done = nf("workflows", "diagram", "reader | editor", "--text")
    assert done.out == "workflow: 2 tasks in 2 stages\n  1  reader\n  2  editor  after reader\n"
    assert not (nf.folder / ".nightfleet").exists()
    wrong = nf("workflows", "show", "reader |")
    assert wrong.code == 2
    assert "no stored workflow is called 'reader |'" in wrong.err
    assert "nor is it an expression" in wrong.err


NESTING = """\
name: nesting
tasks:
  whole: {workflow: doubled.yaml, input: {n: 2}}
  again: {after: whole, loop: {do: {tool: double, input: {n: "${iteration}"}}, until: output >= input.n}}
  each: {after: [whole, again], map: {over: "${whole.list}", do: parts.yaml}}
"""


def test_files_in_files_are_checked_shown_drawn_and_compared(nf: Shell) -> None:
    nf.write("flows/nesting.yaml", NESTING)
    nf.write("flows/parts.yaml", "name: parts\ntasks:\n  x: {agent: reder}\n  y: {agent: critc}\n")
    [found, as_json, syntax, show, text] = nf.one_after_the_other(
        ("workflows", "validate", "flows/nesting.yaml"),
        ("workflows", "validate", "flows/nesting.yaml", "--json"),
        ("workflows", "validate", "flows/nesting.yaml", "--syntax"),
        ("workflows", "show", "flows/nesting.yaml"),
        ("workflows", "diagram", "flows/nesting.yaml", "--text"),
    )
    assert (found.code, syntax.code) == (2, 0)
    place = "flows/parts.yaml:3:7: tasks.each.map.do.workflow.tasks"
    assert f"{place}.x.agent: unknown agent 'reder', did you mean 'reader'?" in found.err
    assert "2 faults in 1 of 1 files" in found.err
    check("workflow-files", as_json.json())
    problems = as_json.json()[0]["problems"]
    assert [each["line"] for each in problems] == [None, None], "what is wrong is in another file"
    nf.write("flows/whole.yaml", show.out)
    same = nf("workflows", "diff", "flows/nesting.yaml", "flows/whole.yaml")
    assert (same.code, "workflow: doubled.yaml" in show.out) == (0, False), "the whole definition is shown"
    assert text.out.splitlines()[:4] == [
        "nesting: 3 tasks in 3 stages",
        "  1  whole (workflow doubled)",
        "       1  twice (tool double)",
        "          output               from twice",
    ]
    nf.write("flows/doubled.yaml", DOUBLED.replace("twice", "doubled"))
    diff = nf("workflows", "diff", "flows/whole.yaml", "flows/nesting.yaml")
    assert (diff.code, "workflow.output.n: ${twice} -> ${doubled}" in diff.out) == (1, True)
