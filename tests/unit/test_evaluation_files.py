"""Evaluations as they are written: cases of three forms, and what is said of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import Judge, Number, Schema, UsageError, Variant
from orchestrator.contracts.evaluation import Function
from orchestrator.contracts.variant import Changes
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.evaluation.cases import load_cases
from orchestrator.evaluation.written import load_evaluation
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.variants import changed

LIMIT = 1_000_000
GOOD = "agent: titler\ncases: [{input: 1, expected: 1}]\ngraders: [exact]\n"


def written(folder: Path, text: str, name: str = "e.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_cases_are_the_same_from_jsonl_csv_and_yaml(tmp_path: Path) -> None:
    lines = '{"id": "a", "input": {"text": "Hi"}, "expected": "hi", "tags": ["x", "y"]}\n\n{"input": {"text": "Ho"}}\n'
    as_lines = load_cases(written(tmp_path, lines, "c.jsonl"), limit_bytes=LIMIT)
    as_table = load_cases(written(tmp_path, "id,text,expected,tags\na,Hi,hi,x y\n,Ho,,\n", "c.csv"), limit_bytes=LIMIT)
    listed = "[{id: a, input: {text: Hi}, expected: hi, tags: [x, y]}, {input: {text: Ho}}]"
    as_list = load_evaluation(
        written(tmp_path, f"agent: a\ngraders: [judge: good]\ncases: {listed}\n"), limit_bytes=LIMIT
    ).cases
    assert as_lines == as_table == as_list
    assert [case.id for case in as_lines] == ["a", "a4f9bd1b0af0"] or len(as_lines[1].id) == 12


def test_a_case_without_an_id_keeps_its_name_when_others_come_before_it(tmp_path: Path) -> None:
    one = load_cases(written(tmp_path, '{"input": 1}\n', "a.jsonl"), limit_bytes=LIMIT)
    two = load_cases(written(tmp_path, '{"input": 0}\n{"input": 1}\n', "b.jsonl"), limit_bytes=LIMIT)
    assert one[0].id == two[1].id


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is none"),
        ('{"input": 1}\nnonsense\n', "line 2: it is no JSON"),
        ('{"inptu": 1}\n', "line 1: it has a key 'inptu', did you mean 'input'"),
        ('{"expected": 1}\n', "line 1: its `input` is missing"),
        ("[1]\n", "line 1: a case is an object"),
        ('{"input": 1, "id": "a"}\n{"input": 2, "id": "a"}\n', "line 2: it has the id 'a', as line 1 has"),
        ('{"input": 1}\n{"input": 1}\n', "line 2: it has the same input, as line 1 has"),
        ('{"input": 1, "tags": 7}\n', "line 1: tags"),
    ],
)
def test_a_bad_case_is_named_by_its_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"c\.jsonl") as raised:
        load_cases(written(tmp_path, text, "c.jsonl"), limit_bytes=LIMIT)
    assert problem in raised.value.message


def test_graders_are_written_in_short_and_in_full(tmp_path: Path) -> None:
    text = """
name: full
workflow: reader | titler
cases: [{input: 1, expected: 1}]
graders:
  - exact
  - number: 0.5
  - number: {name: close, relative: 0.1, field: total}
  - schema: {type: object}
  - judge: {rubric: It is polite., model: "openai:gpt-5", pass_at: 0.8}
  - mine.graders:polite
variants:
  base:
  terse: {system: Be terse., task: titler}
"""
    made = load_evaluation(written(tmp_path, text), limit_bytes=LIMIT)
    assert made.grader_names == ("exact", "number", "close", "schema", "judge", "function")
    _, number, close, schema, judge, function = made.graders
    assert isinstance(number, Number)
    assert number.tolerance == 0.5
    assert isinstance(close, Number)
    assert close.field == "total"
    assert isinstance(schema, Schema)
    assert schema.json_schema == {"type": "object"}
    assert isinstance(judge, Judge)
    assert judge.pass_at == 0.8
    assert function == Function(function="mine.graders:polite")
    assert made.variants == {"base": Variant(), "terse": Variant(system="Be terse.", task="titler")}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "expected the keys name, workflow"),
        ("agent: [", "no YAML"),
        (GOOD.replace("[exact]", "[exakt]"), "e.yaml:3:11: there is no grader 'exakt', did you mean 'exact'"),
        (GOOD.replace("[exact]", "[{judge: {}}]"), "judge: rubric: field required"),
        (GOOD.replace("[exact]", "[{exact: 3}]"), "exact: give it options as an object"),
        (GOOD.replace("[exact]", "[exact, exact]"), "two graders are called 'exact'"),
        (GOOD.replace("graders: [exact]", ""), "`graders` is a list of those who grade"),
        (GOOD.replace("agent: titler\n", ""), "give `workflow` or `agent`"),
        (GOOD + "wrokflow: a\n", "there is no key 'wrokflow', did you mean 'workflow'"),
        (GOOD + "variants: {b: {modell: x}}\n", "variant 'b': there is no key 'modell', did you mean 'model'?"),
        (GOOD + "variants: {b: {model: gpt}}\n", "variant 'b': model: expected provider:model"),
        (GOOD.replace("[exact]", "[{judge: {rubric: a, model: gpt}}]"), "judge: model: expected provider:model"),
        (
            GOOD.replace("[exact]", "[{judge: {rubrik: a, rubric: a}}]"),
            "judge: there is no key 'rubrik', did you mean 'rubric'?",
        ),
        (
            GOOD.replace("[exact]", "[{schema: {schema: {}, feld: a}}]"),
            "schema: there is no key 'feld', did you mean 'field'?",
        ),
        (GOOD.replace("[{input: 1, expected: 1}]", "7"), "`cases` is the path"),
        (GOOD.replace("[{input: 1, expected: 1}]", "[{inptu: 1}]"), "e.yaml:2:9: it has a key 'inptu'"),
        (GOOD.replace("[{input: 1, expected: 1}]", "missing.jsonl"), "no such file"),
    ],
)
def test_a_mistake_is_named_at_its_place(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        load_evaluation(written(tmp_path, text), limit_bytes=LIMIT)
    assert problem in raised.value.message


def test_a_variant_changes_the_tasks_that_it_is_about_and_nothing_else() -> None:
    workflow = parse_expression("reader | [critic, summarizer] | editor")
    everywhere = changed(workflow, Changes(model="openai:gpt-5"))
    assert {task.model for task in everywhere.tasks} == {"openai:gpt-5"}
    assert [task.after for task in everywhere.tasks] == [task.after for task in workflow.tasks]
    one = changed(workflow, Changes(task="critic", system="Be kind.", agent="judge"))
    assert [(task.id, task.agent) for task in one.tasks if task.system] == [("critic", "judge")]
    assert changed(workflow, Changes()) is workflow


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            Changes(task="critik", model="offline"),
            "'critik', which workflow 'workflow' does not have, did you mean 'critic'",
        ),
        (Changes(system="Be kind."), "for reader and critic alike: say which `task`"),
    ],
)
def test_a_variant_of_what_is_not_there_is_refused(changes: Changes, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        changed(parse_expression("reader | critic"), changes)
    assert problem in raised.value.message


def test_a_task_of_a_function_has_neither_a_model_nor_a_prompt() -> None:
    with pytest.raises(ValueError, match="are about an agent, and this task is a function"):
        TaskDefinition(id="clean", function="text:clean", model="offline")
    assert WorkflowDefinition(tasks=(TaskDefinition(id="a", agent="a"),)).canonical.count("model") == 0
