from typing import Any

import pytest

from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import InputInvalid
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.inputs import Upstream, run_output, task_input

SKIPPED = Upstream(AgentRunState.SKIPPED)
FAILED = Upstream(AgentRunState.FAILED, error=ErrorInfo(code="agent_failed", message="no"))


def ok(output: Any) -> Upstream:
    return Upstream(AgentRunState.SUCCEEDED, output)


def task(*after: str, **mapping: Any) -> TaskDefinition:
    return TaskDefinition(id="editor", agent="editor", after=after, input=mapping or None)


def error_of(reference: str, run_input: Any = None, **upstream: Upstream) -> str:
    with pytest.raises(InputInvalid) as caught:
        task_input(task("reader", x=reference), run_input, upstream)
    return str(caught.value)


def test_a_first_task_gets_the_runs_input() -> None:
    assert task_input(task(), {"text": "x"}, {}) == {"text": "x"}
    assert task_input(task(), None, {}) is None


def test_after_one_task_its_output_is_the_input() -> None:
    assert task_input(task("reader"), {"text": "x"}, {"reader": ok({"text": "y"})}) == {"text": "y"}
    assert task_input(task("reader"), {}, {"reader": ok(None)}) is None


def test_after_several_tasks_the_input_is_by_id_in_their_order() -> None:
    upstream = {"critic": ok(2), "reader": ok(1), "other": ok(3)}
    found = task_input(task("reader", "critic"), {}, upstream)
    assert list(found.items()) == [("reader", 1), ("critic", 2)]


@pytest.mark.parametrize("absent", [SKIPPED, FAILED])
def test_skipped_and_failed_predecessors_are_absent(absent: Upstream) -> None:
    assert task_input(task("reader"), {}, {"reader": absent}) == {}
    assert task_input(task("reader", "critic"), {}, {"reader": ok(1), "critic": absent}) == {"reader": 1}
    assert task_input(task("reader", "critic"), {}, {"reader": absent, "critic": absent}) == {}


def test_a_declared_input_is_filled_in() -> None:
    declared = task(
        "reader",
        "critic",
        text="${reader.text}",
        first="${ reader.items.0.name }",
        whole="${critic}",
        line="${input.title}: ${reader.items.1.name} of ${reader.count} ${reader.items}",
        nested=[{"deep": "${input.tags}"}],
        number=5,
    )
    reader = {"text": "t", "items": [{"name": "a"}, {"name": "b"}], "count": 2}
    assert task_input(declared, {"title": "T", "tags": ["x"]}, {"reader": ok(reader), "critic": ok([1])}) == {
        "text": "t",
        "first": "a",
        "whole": [1],
        "line": 'T: b of 2 [{"name": "a"}, {"name": "b"}]',
        "nested": [{"deep": ["x"]}],
        "number": 5,
    }


@pytest.mark.parametrize("absent", [SKIPPED, FAILED])
def test_a_reference_to_what_is_absent_gives_none(absent: Upstream) -> None:
    declared = task("reader", x="${reader.any.path}", y="${reader}", z="<${reader.text}>")
    assert task_input(declared, {}, {"reader": absent}) == {"x": None, "y": None, "z": "<null>"}
    assert task_input(declared, {}, {})["x"] is None


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("${reader.txt}", "reader has no 'txt', did you mean 'text'? it has text, items, sub"),
        ("${reader.zebra}", "reader has no 'zebra', it has text, items, sub"),
        ("${reader.sub.x}", "reader.sub has no 'x', it has nothing"),
        ("${reader.text.0}", "reader.text is 'some', without fields"),
        ("${reader.items.2}", "reader.items is a list of 2: take one by its index from 0 on"),
        ("${reader.items.-1}", "reader.items is a list of 2: take one by its index from 0 on"),
        (f"${{reader.items.{'9' * 5000}}}", "reader.items is a list of 2: take one by its index from 0 on"),
        ("${input.text}", "input is null"),
        ("${raeder.text}", "it waits for no task 'raeder', did you mean 'reader'?"),
    ],
)
def test_a_reference_to_nothing_says_what_is_there(reference: str, reason: str) -> None:
    text = error_of(reference, reader=ok({"text": "some", "items": [1, 2], "sub": {}}))
    assert text == f"the input of task 'editor' refers to {reference}, but {reason}"


def test_a_large_object_is_not_listed_in_full() -> None:
    assert len(error_of("${reader.x}", reader=ok({f"field_{index}": 1 for index in range(10_000)}))) < 500


def test_one_end_gives_the_runs_output() -> None:
    workflow = parse_expression("a | b")
    assert run_output(workflow, {"a": ok(1), "b": ok({"text": "x"})}) == {"text": "x"}
    assert run_output(workflow, {"a": ok(1), "b": FAILED}) is None


def test_several_ends_give_their_outputs_by_id() -> None:
    workflow = parse_expression("[a, b, c]")
    assert run_output(workflow, {"a": ok(1), "b": ok(None), "c": ok(3)}) == {"a": 1, "b": None, "c": 3}
    assert run_output(workflow, {"a": ok(1), "b": FAILED, "c": SKIPPED}) == {"a": 1}
    assert run_output(workflow, {"a": FAILED, "b": FAILED, "c": SKIPPED}) == {}


def test_ends_that_were_skipped_do_not_count() -> None:
    workflow = parse_expression("[a, b]")
    assert run_output(workflow, {"a": SKIPPED, "b": ok(2)}) == 2
    assert run_output(workflow, {"b": ok(2)}) == 2
    assert run_output(workflow, {"a": SKIPPED, "b": FAILED}) is None
    assert run_output(workflow, {"a": SKIPPED, "b": SKIPPED}) is None
    assert run_output(workflow, {}) is None
