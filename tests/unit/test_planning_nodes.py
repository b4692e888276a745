"""Tasks that name a function or a Celery task: definitions, files, expressions, checks, drawings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.contracts.workflow import CeleryTask, TaskDefinition, WorkflowDefinition
from orchestrator.errors import UnknownAgent, WorkflowInvalid
from orchestrator.planning.builders import sequential
from orchestrator.planning.diagram import as_text
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.files import load_workflow, workflow_from_data
from orchestrator.planning.mermaid import as_mermaid
from orchestrator.planning.validate import validate

FILE = """\
tasks:
  fetch: {agent: reader}
  clean: {function: "myproject.text:clean", after: [fetch]}
  resize:
    celery: {task: images.resize, app: "myproject.celery:app", queue: images, timeout: 60}
    after: [fetch]
    input: {url: "${fetch.url}"}
  report: {celery: reports.make, after: [clean, resize]}
"""


def problem_of(tmp_path: Any, task: str) -> str:
    path = tmp_path / "w.yaml"
    path.write_text(f"tasks:\n  t: {task}\n")
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(path)
    [problem] = caught.value.problems
    return problem.split("\n")[0].removeprefix(f"{path}:")


def test_a_file_names_functions_and_celery_tasks(tmp_path: Any) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(FILE)
    tasks = load_workflow(path).by_id
    assert tasks["clean"] == TaskDefinition(id="clean", function="myproject.text:clean", after=("fetch",))
    assert tasks["report"].celery == CeleryTask(task="reports.make")
    assert tasks["resize"].celery == CeleryTask(
        task="images.resize", app="myproject.celery:app", queue="images", timeout=timedelta(minutes=1)
    )
    assert [task.agent for task in tasks.values()] == ["reader", "function", "celery", "celery"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "{agent: reader, function: 'a:b'}",
            "2:3: tasks.t: a task is one of agent, function, celery, tool, condition, workflow, loop, map, router, leader_fo",
        ),
        ("{function: 'a:b', celery: c}", "has function and celery: keep one"),
        ("{agent: celery}", "'celery' is no agent: write `celery: registered.task.name`"),
        (
            "{function: clean}",
            "2:7: tasks.t.function: 'clean' names nothing that can be imported: write package.module",
        ),
        ("{function: 'a.b:c d'}", "names nothing that can be imported"),
        ("{function: ['a:b']}", "2:7: tasks.t.function: input should be a valid string"),
        ("{celery: 5}", "2:7: tasks.t.celery: write `celery: registered.task.name`, or an object with task, app"),
        ("{celery: {task: c, queu: q}}", "2:25: tasks.t.celery.queu: unknown key 'queu', did you mean 'queue'?"),
        ("{celery: {task: c, timeout: 0}}", "tasks.t.celery.timeout: input should be greater than 0 seconds"),
        ("{celery: {task: c, app: proj}}", "2:25: tasks.t.celery.app: 'proj' names nothing that can be imported"),
        ("{celery: {queue: q}}", "tasks.t.celery.task: field required"),
        ("{tool: [a]}", "2:7: tasks.t.tool: write `tool: kit.name`, or an object with name, options and permissions"),
        ("{tool: a.b.c}", "'a.b.c' names no tool: write `tool: name`, or `tool: kit.name` for one of a kit"),
        ("{tool: {name: files, optons: {}}}", "tasks.t.tool.optons: unknown key 'optons', did you mean 'options'?"),
        ("{tool: {name: http, permissions: {netwrk: [a]}}}", "unknown key 'netwrk', did you mean 'network'?"),
        (
            "{tool: a, model: 'openai:x'}",
            "model and system are about an agent, and this task is a tool: leave them out",
        ),
        ("{agent: tool}", "'tool' is no agent: write `tool: kit.name`"),
        ("{agent: condition}", "'condition' is no agent: write `condition: {branch: expression, other: else}`"),
        ("{compensate: {agent: condition}}", "'condition' is no agent: condition undoes nothing"),
        ("{compensate: {tool: 5}}", "tasks.t.compensate.tool: write `tool: kit.name`, or an object"),
        ("{on_error: {fallback: tool}}", "a fallback is an agent, and 'tool' is none"),
        ("{on_error: {fallback: function}}", "a fallback is an agent, and 'function' is none"),
    ],
)
def test_what_is_wrong_with_one_is_told_at_its_place(tmp_path: Any, task: str, words: str) -> None:
    assert words in problem_of(tmp_path, task)


def test_a_task_needs_something_to_do() -> None:
    with pytest.raises(
        ValidationError, match="give it one of agent, function, celery, tool, condition, workflow, loop"
    ):
        TaskDefinition(id="t")


def test_a_task_called_like_a_kind_is_no_task_of_that_kind() -> None:
    task = workflow_from_data({"tasks": {"celery": {"agent": "critic"}}}, "data").tasks[0]
    assert (task.agent, task.celery) == ("critic", None)


@pytest.mark.parametrize("text", ["reader | function", "x=celery", "[reader, celery]"])
def test_an_expression_says_that_it_knows_agents_alone(text: str) -> None:
    with pytest.raises(
        WorkflowInvalid, match="is no agent: an expression names agents: a function or a Celery task has"
    ):
        parse_expression(text)


def test_a_path_in_an_expression_is_answered_with_where_it_belongs() -> None:
    with pytest.raises(WorkflowInvalid, match=r"'myproject\.text' is no name: .*; an expression names agents"):
        parse_expression("reader | myproject.text:clean")


def test_workflows_of_agents_keep_the_digest_that_they_had_before_there_were_nodes() -> None:
    workflow = sequential("reader", "critic")
    assert workflow.digest == "4da5ddf752951ea0d9370573d73f0538"


def test_a_definition_with_nodes_survives_being_stored() -> None:
    workflow = WorkflowDefinition(
        tasks=(
            TaskDefinition(id="a", function="a.b:c"),
            TaskDefinition(id="b", celery=CeleryTask(task="c", timeout=timedelta(seconds=2))),
        )
    )
    again = WorkflowDefinition.model_validate_json(workflow.canonical)
    assert (again, again.digest) == (workflow, workflow.digest)
    assert workflow.digest != workflow_from_data({"tasks": {"a": {"function": "a.b:d"}}}, "data").digest


def test_nodes_are_known_without_being_announced() -> None:
    tasks = (TaskDefinition(id="a", function="a.b:c"), TaskDefinition(id="b", celery=CeleryTask(task="c")))
    validate(WorkflowDefinition(tasks=tasks), [])
    with pytest.raises(UnknownAgent):
        validate(WorkflowDefinition(tasks=(*tasks, TaskDefinition(id="c", agent="critic"))), [])


def test_a_drawing_says_what_a_node_calls(tmp_path: Any) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(FILE)
    workflow = load_workflow(path)
    assert "clean (function myproject.text:clean)" in as_text(workflow)
    assert 'task_report["report (celery reports.make)"]' in as_mermaid(workflow)


def test_nodes_are_parts_of_a_workflow_like_any_task() -> None:
    clean = TaskDefinition(id="clean", function="myproject.text:clean", input={"text": "${input.text}"})
    workflow = sequential(clean, clean, "critic")
    assert [(task.id, task.does) for task in workflow.tasks] == [
        ("clean", "function myproject.text:clean"),
        ("clean_2", "function myproject.text:clean"),
        ("critic", "critic"),
    ]


def test_a_tool_is_named_alone_with_its_kit_or_with_options() -> None:
    data = {
        "a": {"tool": "high_water"},
        "b": {"tool": "calculator.calculate"},
        "c": {"tool": {"name": "files.read", "options": {"root": "./notes"}, "permissions": {"env": ["KEY"]}}},
    }
    a, b, c = workflow_from_data({"tasks": data}, "data").tasks
    assert [(each.agent, each.does) for each in (a, b, c)] == [
        ("tool", "tool high_water"),
        ("tool", "tool calculator.calculate"),
        ("tool", "tool files.read"),
    ]
    assert a.tool is not None and b.tool is not None and c.tool is not None  # noqa: PT018 - for the type checker
    assert (a.tool.kit, a.tool.wanted, b.tool.kit, b.tool.wanted) == ("high_water", None, "calculator", "calculate")
    assert (c.tool.options, c.tool.permissions.env) == ({"root": "./notes"}, ("KEY",))


def test_what_is_wrong_with_a_tool_is_told_with_all_else_that_is_wrong() -> None:
    data = {"tasks": {"a": {"tool": "tides", "input": {"port": "x"}}, "b": {"agent": "critic", "after": "a"}}}
    workflow = workflow_from_data(data, "data")
    seen: list[Any] = []

    def faults(use: Any, given: Any) -> list[tuple[str, str]]:
        seen.append((use.name, given))
        return [("tool", "there is no tool 'tides'")]

    with pytest.raises(WorkflowInvalid) as caught:
        validate(workflow, [], tool_faults=faults)
    first, second = caught.value.problems
    assert first == "tasks.a.tool: there is no tool 'tides'"
    assert second.startswith("tasks.b.agent: unknown agent 'critic'")
    assert seen == [("tides", {"port": "x"})]
