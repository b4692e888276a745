"""What a workflow declares of its input and its output, and what its tasks have where they say nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.workflow import Fallback, TaskDefinition, WorkflowDefinition
from orchestrator.errors import InputInvalid, WorkflowInvalid
from orchestrator.planning.diagram import as_text
from orchestrator.planning.files import load_workflow, workflow_from_data
from orchestrator.planning.fork import beginning
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream, run_input_of, run_output
from orchestrator.planning.mermaid import as_mermaid
from orchestrator.planning.settling import Settled, settle

READER = {"reader": {"agent": "reader"}}


def workflow(**fields: Any) -> WorkflowDefinition:
    return workflow_from_data({"tasks": READER, **fields}, "data")


def asking(**inputs: Any) -> WorkflowDefinition:
    return workflow(inputs=inputs)


def problem(tmp_path: Path, text: str) -> str:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(path)
    [found] = caught.value.problems
    return found.split("\n")[0].removeprefix(f"{path}:")


def fault(asked: WorkflowDefinition, given: Any) -> str:
    with pytest.raises(InputInvalid) as caught:
        run_input_of(asked, given)
    return caught.value.message.removeprefix("the input of workflow 'workflow' ")


# Inputs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "schema"),
    [
        ("str", {"type": "string"}),
        ("int", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("object", {"type": "object"}),
        ("any", {}),
        ("good | bad", {"enum": ["good", "bad"]}),
        (["int"], {"type": "array", "items": {"type": "integer"}}),
        ([["str"]], {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
        ("str?", {"type": ["string", "null"], "default": None}),
        ("a | b?", {"enum": ["a", "b", None], "default": None}),
        ("any?", {"default": None}),
        ({"type": "integer", "minimum": 1, "default": 3}, {"type": "integer", "minimum": 1, "default": 3}),
    ],
)
def test_an_input_is_said_by_a_word_or_by_a_json_schema(said: Any, schema: Any) -> None:
    assert asking(x=said).inputs == {"x": schema}


def test_what_fits_gets_the_defaults_of_what_it_leaves_out() -> None:
    asked = asking(text="str", lang={"enum": ["en", "de"], "default": "en"}, note="str?", tags=["str"])
    assert run_input_of(asked, {"text": "a", "tags": []}) == {"text": "a", "tags": [], "lang": "en", "note": None}
    given = {"text": "a", "tags": ["b"], "lang": "de", "note": "c"}
    assert run_input_of(asked, given) == given
    assert run_input_of(workflow(), 5) == 5, "a workflow that asks for nothing takes anything"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "is invalid: text is missing (it asks for text, n, point)"),
        ({"text": 5}, "is invalid: text must be of type string (it asks"),
        ({"text": "a", "n": 0, "langauge": 1}, "n must be at least 1; 'langauge' is not asked for (it"),
        ({"text": "a", "txet": "b"}, "'txet' is not asked for, did you mean 'text'?"),
        ({"text": "a", "point": {"x": "b"}}, "point.y is missing; point.x must be of type number"),
        ([1], "must be an object, and is a list: it asks for text, n, point"),
        (None, "must be an object, and is nothing"),
    ],
)
def test_everything_that_is_wrong_with_an_input_is_told_at_once(given: Any, words: str) -> None:
    point: dict[str, Any] = {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {}},
        "required": ["x", "y"],
        "default": None,
    }
    point["default"] = {"x": 0, "y": 0}
    assert words in fault(asking(text="str", n={"type": "integer", "minimum": 1, "default": 1}, point=point), given)


def test_very_much_that_is_wrong_is_cut_short() -> None:
    assert fault(asking(**{f"x{number}": "str" for number in range(30)}), {}).count("is missing") == 10


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("string", "3:3: inputs.x: there is no type 'string', did you mean 'str'?"),
        ("strr", "there is no type 'strr', did you mean 'str'?"),
        ("str | int", "'str | int' mixes types and choices"),
        ("[str, int]", "a list says what its items are, once: write [str]"),
        ("5", "expected a type such as str, int, float, bool, object, any, or a JSON Schema"),
        ("{typ: string}", "3:7: inputs.x.typ: nothing checks 'typ', did you mean 'type'?"),
        ("{$ref: '#/x'}", "nothing checks '$ref'"),
        ("{type: txt}", "inputs.x.type: there is no type 'txt'"),
        ("{type: array, items: {minimum: a}}", "3:28: inputs.x.items.minimum: expected a number, found 'a'"),
        ("{minLength: -1}", "inputs.x.minLength: expected a whole number from 0 on, found -1"),
        ("{enum: []}", "inputs.x.enum: expected a list of the values that are possible"),
        ("{pattern: '('}", "inputs.x.pattern: '(' is no regular expression"),
        ("{anyOf: {}}", "inputs.x.anyOf: expected a list of JSON Schemas"),
        ("{required: a}", "inputs.x.required: expected a list of names"),
        ("{properties: {a: 5}}", "inputs.x.properties.a: expected a JSON Schema"),
        ("{type: integer, default: a}", "inputs.x.default: the default must be of type integer"),
    ],
)
def test_a_schema_that_nobody_could_keep_is_refused_at_its_place(tmp_path: Path, said: str, words: str) -> None:
    assert words in problem(tmp_path, f"tasks: {{reader: {{}}}}\ninputs:\n  x: {said}\n")


def test_a_name_of_an_input_can_be_written_in_a_reference(tmp_path: Path) -> None:
    assert "inputs.a b: 'a b' is no name of an input" in problem(tmp_path, "tasks: {reader: {}}\ninputs:\n  a b: str\n")


def test_a_reference_to_an_input_that_is_not_asked_for_is_found(tmp_path: Path) -> None:
    text = "inputs: {text: str}\ntasks:\n  reader: {input: {t: '${input.txt}', u: '${input.text.0}', v: '${input}'}}\n"
    assert "3:12: tasks.reader.input: ${input.txt} is no input of the workflow, did you mean 'text'?" in problem(
        tmp_path, text
    )


# Outputs --------------------------------------------------------------------------------------------------------------


def declared(output: Any) -> Plan:
    tasks = {"a": {"agent": "a"}, "b": {"agent": "b", "after": "a"}, "c": {"agent": "c", "after": "a", "when": "a.go"}}
    return Plan(workflow_from_data({"tasks": tasks, "output": output}, "data"))


def upstream(**outputs: Any) -> dict[str, Upstream]:
    skipped, done = Upstream(AgentRunState.SKIPPED), AgentRunState.SUCCEEDED
    return {name: skipped if value is None else Upstream(done, value) for name, value in outputs.items()}


def test_the_output_is_made_when_every_end_is_there_and_is_the_one_end_of_the_run() -> None:
    plan = declared({"x": "${a.n}"})
    assert plan.output_position == 3
    assert {plan.tasks[index].id for index in plan.predecessors[3]} == {"a", "b", "c"}
    assert (plan.ends, plan.workflow.ends) == ((3,), ("output",))
    assert plan.agents == {"a", "b", "c"}
    assert plan.countdowns[3] == 3


@pytest.mark.parametrize(
    ("output", "made"),
    [
        ({"n": "${a.n}", "text": "n is ${a.n}", "of": ["${input.x}", 1]}, {"n": 5, "text": "n is 5", "of": [7, 1]}),
        ("${b}", "two"),
        ("${b} of ${a.n}", "two of 5"),
        ({"skipped": "${c.text}", "whole": "${a}"}, {"skipped": None, "whole": {"n": 5}}),
    ],
)
def test_an_output_is_put_together_of_what_tasks_have_given(output: Any, made: Any) -> None:
    plan = declared(output)
    found = settle(plan, 3, {"x": 7}, upstream(a={"n": 5}, b="two", c=None))
    assert found == Settled(made)
    assert run_output(plan.workflow, {"output": Upstream(AgentRunState.SUCCEEDED, made)}) == made


def test_an_output_is_made_of_nothing_too() -> None:
    assert settle(declared({"x": "${b.y}"}), 3, {}, upstream(a=None, b=None, c=None)) == Settled({"x": None})


def test_a_reference_of_the_output_that_leads_to_nothing_is_told_with_what_is_there() -> None:
    with pytest.raises(
        InputInvalid, match=r"^the output of the workflow refers to \$\{a.m\}, but a has no 'm', it has n$"
    ):
        settle(declared({"x": "${a.m}"}), 3, {}, upstream(a={"n": 5}, b=1, c=None))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("output: {x: '${b.y}'}\ntasks: {a: {agent: a}}\n", "1:1: output: ${b.y} is neither a task nor input"),
        ("output: {x: '${.y}'}\ntasks: {a: {agent: a}}\n", "output: ${.y} is no path"),
        ("output: text\ntasks: {a: {agent: a}}\n", "1:1: output: 'text' is always the same"),
        (
            "output: '${a}'\ntasks: {output: {agent: a}, a: {}}\n",
            "2:9: tasks.output: this is the id of the workflow's own out",
        ),
        (
            "output: {x: '${input.y}'}\ninputs: {z: str}\ntasks: {a: {agent: a}}\n",
            "${input.y} is no input of the workflow",
        ),
    ],
)
def test_what_is_wrong_with_a_declared_output_is_told_at_its_place(tmp_path: Path, text: str, words: str) -> None:
    assert words in problem(tmp_path, text)


def test_a_task_may_be_called_output_where_the_workflow_declares_none() -> None:
    assert workflow(tasks={"output": {"agent": "a"}}).ends == ("output",)


def test_a_fork_makes_the_output_anew() -> None:
    plan = declared({"x": "${b.y}"})
    ended = [AgentRunState.SUCCEEDED, AgentRunState.SUCCEEDED, AgentRunState.SKIPPED, AgentRunState.SUCCEEDED]
    begin = beginning(plan, ended, {plan.position["b"]})
    assert (set(begin.kept), begin.first) == ({0, 2}, (1,))
    assert begin.left[3] == 1
    skipped = [AgentRunState.SKIPPED] * 3 + [AgentRunState.SUCCEEDED]
    assert beginning(plan, skipped, {3}).first == (3,), "an output is made although everything before it was skipped"


def test_a_drawing_shows_what_the_output_is_made_of() -> None:
    drawn = declared({"x": "${b.y}", "z": "${a}"}).workflow
    assert as_text(drawn).split("\n")[-1] == "     output  from b, a"
    assert as_text(drawn).startswith("workflow: 3 tasks in 2 stages\n")
    assert '  task_output(["output"])' in as_mermaid(drawn)
    assert "  task_b --> task_output" in as_mermaid(drawn)


# Defaults -------------------------------------------------------------------------------------------------------------


def test_tasks_have_the_defaults_of_the_file_where_they_say_nothing() -> None:
    made = workflow(
        defaults={"retry": {"retries": 7, "first_delay": 1}, "timeouts": {"hard": 60}, "on_error": "continue"},
        tasks={
            "a": {"agent": "a"},
            "b": {"agent": "b", "retry": {"retries": 3}, "timeouts": {"soft": 5}, "on_error": {"fallback": "a"}},
            "c": {"agent": "c", "on_error": "fail", "retry": None},
            "d": {"condition": "a.x", "after": "a"},
        },
    ).by_id
    seconds = timedelta(seconds=1)
    assert (made["a"].retry, made["a"].on_error) == (RetryPolicy(retries=7, first_delay=seconds), "continue")
    assert made["b"].retry == RetryPolicy(retries=3, first_delay=seconds), "what is not said is the file's default"
    assert made["b"].timeouts == Timeouts(soft=5 * seconds, hard=60 * seconds)
    assert made["b"].on_error == Fallback(fallback="a")
    assert (made["c"].on_error, made["c"].retry) == ("fail", made["a"].retry)
    assert made["d"] == TaskDefinition(id="d", condition=made["d"].condition, after=("a",)), (
        "it means nothing to a condition"
    )


def test_a_definition_that_was_stored_has_its_defaults_in_its_tasks() -> None:
    made = workflow(defaults={"retry": {"retries": 7}}, tasks={"a": {"retry": {"retries": 3}}, "b": {}})
    again = WorkflowDefinition.model_validate_json(made.canonical)
    assert [task.retry.retries for task in again.tasks] == [3, 7]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{retires: 1}", "1:12: defaults.retires: unknown key 'retires', the keys are retry, timeouts, on_error"),
        ("{retry: {retires: 1}}", "1:20: defaults.retry.retires: unknown key 'retires', did you mean 'retries'?"),
        ("{on_error: stop}", "defaults.on_error: expected fail, continue, or {fallback: another_agent}"),
        ("{timeouts: {soft: 5, hard: 2}}", "defaults.timeouts: soft"),
        ("[1]", "1:1: defaults: input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_with_defaults_is_told_once_and_at_their_place(tmp_path: Path, said: str, words: str) -> None:
    assert words in problem(tmp_path, f"defaults: {said}\ntasks: {{a: {{}}, b: {{}}}}\n")
