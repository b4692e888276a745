"""Conditions as tasks: how they are written, what is wrong with one, which branch is taken, and what shows through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.contracts.kinds import Branch
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import InputInvalid, WorkflowInvalid
from orchestrator.planning.builders import adaptive, sequential
from orchestrator.planning.diagram import as_text
from orchestrator.planning.files import load_workflow, workflow_from_data
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream, task_input
from orchestrator.planning.mermaid import as_mermaid
from orchestrator.planning.settling import Settled, settle

STATES = AgentRunState
REVIEW = {
    "score": {"agent": "evaluator"},
    "verdict": {
        "condition": {"good": "score.value > 7", "poor": "score.value < 3", "unclear": "else"},
        "after": "score",
    },
    "praise": {"agent": "writer", "after": "verdict", "branch": "good"},
    "rewrite": {
        "agent": "writer",
        "after": "verdict",
        "branch": ["poor", "unclear"],
        "input": {"old": "${score.text}"},
    },
    "editor": {"after": ["praise", "rewrite"]},
}


def plan(**tasks: Any) -> Plan:
    return Plan(workflow_from_data({"tasks": tasks}, "data"))


def done(output: Any) -> Upstream:
    return Upstream(STATES.SUCCEEDED, output)


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "w.yaml"
    path.write_text(f"tasks:\n{text}")
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(path)
    return [problem.split("\n")[0].removeprefix(f"{path}:") for problem in caught.value.problems]


def decided(made: Plan, name: str, run_input: Any = None, **upstream: Upstream) -> bool | Settled:
    return settle(made, made.position[name], run_input, upstream)


# Written --------------------------------------------------------------------------------------------------------------


def test_branches_are_written_by_name_as_a_list_or_as_one_expression() -> None:
    by_name = workflow_from_data({"tasks": {"c": {"condition": {"big": "input.n > 3", "small": "else"}}}}, "data")
    listed = TaskDefinition(
        id="c", condition=(Branch(name="big", when="input.n > 3"), Branch(name="small", when="else"))
    )
    assert by_name.tasks == (listed,)
    one = workflow_from_data({"tasks": {"c": {"condition": "input.n > 3"}}}, "data").tasks[0]
    assert one.condition == (Branch(name="then", when="input.n > 3"), Branch(name="otherwise", when="else"))


def test_the_order_of_branches_survives_a_database_that_puts_keys_in_order() -> None:
    workflow = workflow_from_data({"tasks": REVIEW}, "data")
    again = WorkflowDefinition.model_validate_json(workflow.canonical)
    assert again.by_id["verdict"].condition == workflow.by_id["verdict"].condition
    assert '"condition":[{"name":"good","when":"score.value > 7"},' in workflow.canonical


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "{condition: {good: input.x, good2: 5}}",
            "2:7: tasks.c.condition: a branch is taken by an expression, or `else`",
        ),
        ("{condition: {Good: input.x}}", "2:19: tasks.c.condition.Good: 'Good' is no name"),
        ("{condition: {a: else, b: else}}", "two branches are `else`: keep one"),
        ("{condition: {}}", "tasks.c.condition: a condition has 1 to 100 branches, and this one has 0"),
        ("{condition: 5}", "write `condition: {branch: expression, other: else}`, or one expression"),
        ("{condition: input.x, agent: reader}", "this one has agent and condition: keep one"),
        ("{condition: input.x, retry: {retries: 1}, on_error: continue}", "retry and on_error would mean nothing"),
        ("{condition: input.x, input: {a: 1}}", "input would mean nothing to a condition: leave out"),
        ("{condition: {a: 'input.x >'}}", "2:19: tasks.c.condition.a: `input.x >` is no condition: column 10"),
        ("{condition: {a: scor.x}}", "tasks.c.condition.a: `scor` is neither a task nor input, did you mean 'score'?"),
        ("{condition: {a: score.x}}", "`score` is the output of a task that this one does not wait for: add 'score'"),
        ("{condition: {a: else}}", "tasks.c.condition: it decides nothing: give a branch an expression"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told_at_its_place(tmp_path: Path, task: str, words: str) -> None:
    [problem] = problems(tmp_path, f"  c: {task}\n  score: {{agent: evaluator}}\n")
    assert words in problem


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            "{after: c}",
            "4:7: tasks.t.after: 'c' is a condition, and the task does not say which branch it belongs to: add",
        ),
        ("{after: c, branch: god}", "4:17: tasks.t.branch: there is no branch 'god', did you mean 'good'?"),
        ("{after: c, branch: nothing}", "tasks.t.branch: there is no branch 'nothing': c has good, poor"),
        (
            "{after: [a], branch: good}",
            "'good' is a branch of nothing: the task waits for no condition, add one to after",
        ),
        ("{after: [c, d], branch: good}", "c and d both have a branch 'good': give one of them another name"),
        ("{after: [c, d], branch: poor}", "'d' is a condition, and the task does not say which branch it belongs to"),
    ],
)
def test_a_task_behind_a_condition_says_which_branch_it_belongs_to(tmp_path: Path, fields: str, words: str) -> None:
    others = "  c: {condition: {good: input.x, poor: else}}\n  d: {condition: {good: input.y, bad: else}}\n"
    [problem] = problems(tmp_path, f"{others}  t: {fields}\n  a: {{agent: t}}\n")
    assert words in problem


def test_a_condition_in_words_of_its_own_says_it_as_well() -> None:
    made = plan(c={"condition": "input.x"}, t={"agent": "a", "after": "c", "when": "c.branch == 'then' && input.y"})
    assert decided(made, "t", {"y": True}, c=done({"branch": "then"})) is True
    assert decided(made, "t", {"y": False}, c=done({"branch": "then"})) is False


# Decided --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "branch"), [(9, "good"), (1, "poor"), (5, "unclear")])
def test_the_first_branch_whose_expression_holds_is_taken_else_the_one_of_else(value: int, branch: str) -> None:
    made = plan(**REVIEW)
    assert decided(made, "verdict", score=done({"value": value})) == Settled({"branch": branch})
    upstream = {"score": done({"value": value}), "verdict": done({"branch": branch})}
    assert decided(made, "praise", **upstream) is (branch == "good")
    assert decided(made, "rewrite", **upstream) is (branch != "good")


def test_without_an_else_none_may_be_taken_and_nothing_behind_runs() -> None:
    made = plan(c={"condition": {"big": "input.n > 3"}}, t={"agent": "a", "after": "c", "branch": "big"})
    assert decided(made, "c", {"n": 1}) == Settled({"branch": None})
    assert decided(made, "t", {"n": 1}, c=done({"branch": None})) is False


def test_a_condition_that_was_skipped_takes_none_of_its_branches() -> None:
    made = plan(
        a={"agent": "a"},
        c={"condition": "input.x", "when": "input.y"},
        t={"agent": "t", "after": ["a", "c"], "branch": "then"},
    )
    assert decided(made, "c", {"x": True, "y": False}) is False
    assert decided(made, "t", {}, a=done(1), c=Upstream(STATES.SKIPPED)) is False


def test_of_several_conditions_each_must_have_taken_a_branch_of_the_task() -> None:
    made = plan(
        c={"condition": {"a": "input.x", "b": "else"}},
        d={"condition": {"e": "input.x", "f": "else"}},
        t={"agent": "t", "after": ["c", "d"], "branch": ["a", "e", "f"]},
    )
    found = {
        (one, other): decided(made, "t", {}, c=done({"branch": one}), d=done({"branch": other}))
        for one in "ab"
        for other in "ef"
    }
    assert found == {("a", "e"): True, ("a", "f"): True, ("b", "e"): False, ("b", "f"): False}


def test_what_cannot_be_decided_is_told_with_what_was_there() -> None:
    with pytest.raises(
        InputInvalid, match=r"the condition `score\.value > 7` cannot be decided: there is no field 'value'"
    ):
        decided(plan(**REVIEW), "verdict", score=done({"valeu": 9}))


def test_nobody_runs_a_condition_and_everything_decided_has_a_counter() -> None:
    made = plan(**REVIEW)
    assert made.agents == {"evaluator", "writer", "editor"}
    assert {made.tasks[index].id for index in made.countdowns} == {"verdict", "praise", "rewrite", "editor"}
    assert made.path(made.position["score"], 6) == (made.position["score"],)


# What shows through ---------------------------------------------------------------------------------------------------


def test_a_task_behind_a_condition_gets_what_the_condition_got_and_may_look_at_what_that_saw() -> None:
    made = plan(**REVIEW)
    upstream = {"score": done({"value": 9, "text": "old"}), "verdict": done({"branch": "good"})}

    def given(name: str) -> Any:
        position = made.position[name]
        return task_input(made.tasks[position], {"r": 1}, upstream, made.passed[position])

    assert given("praise") == {"value": 9, "text": "old"}
    assert given("rewrite") == {"old": "old"}
    assert {made.tasks[index].id for index in made.sees[made.position["praise"]]} == {"score", "verdict"}


def test_conditions_behind_conditions_are_seen_through_as_well() -> None:
    made = plan(
        a={"agent": "a"},
        b={"agent": "b"},
        first={"condition": "a.x", "after": ["a", "b"]},
        second={"condition": "b.y", "after": "first", "branch": "then"},
        t={"agent": "t", "after": "second", "branch": "otherwise", "when": "a.x && !b.y"},
    )
    position = made.position["t"]
    assert made.passed[position] == ("a", "b")
    assert {made.tasks[index].id for index in made.sees[position]} == {"a", "b", "first", "second"}


def test_a_condition_that_waits_for_nothing_passes_on_the_input_of_the_run() -> None:
    made = plan(c={"condition": "input.x"}, t={"agent": "t", "after": "c", "branch": "then"})
    position = made.position["t"]
    assert task_input(made.tasks[position], {"x": True}, {"c": done({"branch": "then"})}, made.passed[position]) == {
        "x": True
    }


# Drawn and built ------------------------------------------------------------------------------------------------------


def test_a_drawing_shows_a_decision_and_the_names_of_its_branches() -> None:
    workflow = workflow_from_data({"name": "review", "tasks": REVIEW}, "data")
    assert as_text(workflow).split("\n")[:4] == [
        "review: 5 tasks in 4 stages",
        "  1  score (evaluator)",
        "  2  verdict (condition)  after score; good if score.value > 7; poor if score.value < 3; else unclear",
        "  3  praise (writer)      after verdict; branch good",
    ]
    drawn = as_mermaid(workflow)
    assert '  task_verdict{"verdict (condition)"}' in drawn
    assert '  task_verdict -->|"good"| task_praise' in drawn
    assert '  task_verdict -->|"poor or unclear"| task_rewrite' in drawn
    assert "  task_score --> task_verdict" in drawn


def test_a_condition_is_a_part_of_a_workflow_like_any_task() -> None:
    check = TaskDefinition(id="check", condition=(Branch(name="big", when="reader.n > 3"),), after=("reader",))
    both = sequential("reader", sequential("reader", check.model_copy(update={"after": ()})))
    assert both.by_id["check"].after == ("reader_2",)
    renamed = both.by_id["check"].condition
    assert renamed == (Branch(name="big", when="reader_2.n > 3"),)
    chosen = adaptive(
        TaskDefinition(
            id="check", condition=(Branch(name="big", when="input.n > 3"), Branch(name="small", when="else"))
        ),
        {"big": "critic", "small": "editor"},
        field="branch",
    )
    made = Plan(chosen)
    assert decided(made, "critic", {"n": 5}, check=done({"branch": "big"})) is True
