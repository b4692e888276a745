from typing import Any, cast

import pytest

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import WorkflowInvalid
from orchestrator.planning.builders import adaptive, parallel, sequential
from orchestrator.planning.decide import decide
from orchestrator.planning.validate import validate


def edges(workflow: WorkflowDefinition) -> dict[str, tuple[str, ...]]:
    return {task.id: task.after for task in workflow.tasks}


def conditions(workflow: WorkflowDefinition) -> dict[str, str]:
    return {task.id: task.when for task in workflow.tasks if task.when}


def taken(workflow: WorkflowDefinition, output: Any) -> list[str]:
    """Give the branches that run for an output of the task that decides."""
    return [key for key, when in conditions(workflow).items() if decide(when, {}, {"chooser": output})]


def test_a_sequence_joins_all_ends_to_all_firsts() -> None:
    workflow = sequential("reader", parallel("a", "b"), parallel("c", "d"), "editor")
    assert edges(workflow) == {
        "reader": (),
        "a": ("reader",),
        "b": ("reader",),
        "c": ("a", "b"),
        "d": ("a", "b"),
        "editor": ("c", "d"),
    }


def test_parts_are_agents_expressions_tasks_and_workflows() -> None:
    task = TaskDefinition(id="check", agent="critic", on_error="continue")
    workflow = sequential("reader", "a | b", task, parallel("c", "d"), name="mixed")
    assert list(edges(workflow)) == ["reader", "a", "b", "check", "c", "d"]
    assert workflow.by_id["check"] == task.model_copy(update={"after": ("b",)})
    assert workflow.name == "mixed"


def test_an_aggregate_waits_for_all_ends_of_all_branches() -> None:
    workflow = parallel("a | b", parallel("c", "d"), aggregate="e | f")
    assert edges(workflow)["e"] == ("b", "c", "d")
    assert workflow.ends == ("f",)


def test_the_first_to_have_an_id_keeps_it() -> None:
    workflow = sequential("critic", "critic | critic", parallel("critic", "critic_2"))
    assert list(edges(workflow)) == ["critic", "critic_3", "critic_2", "critic_4", "critic_5"]
    validate(workflow, {"critic", "critic_2"})


def test_renaming_takes_everything_along_that_refers_to_a_task() -> None:
    part = WorkflowDefinition(
        tasks=(
            TaskDefinition(id="critic", agent="critic"),
            TaskDefinition(
                id="writer",
                agent="writer",
                after=("critic",),
                input={
                    "a": "${critic.text}",
                    "b": ["see ${ critic.items.0 } and ${input.critic}"],
                    "c": "critic",
                    "d": 1,
                },
                when='critic.critic == "critic" && critic_x == critic && [critic].all(critic, critic.ok)',
            ),
        )
    )
    writer = sequential("critic | writer", part).by_id["writer_2"]
    assert writer.after == ("critic_2",)
    assert writer.input == {
        "a": "${critic_2.text}",
        "b": ["see ${critic_2.items.0} and ${input.critic}"],
        "c": "critic",
        "d": 1,
    }
    assert writer.when == 'critic_2.critic == "critic" && critic_x == critic_2 && [critic_2].all(critic, critic.ok)'


def test_the_same_part_can_be_used_again_and_again() -> None:
    step = adaptive("chooser", {"a": "x", "b": "y"})
    workflow = sequential(step, step, step)
    validate(workflow, {"chooser", "x", "y"})
    assert conditions(workflow)["x_3"] == 'chooser_3.choice == "a"'
    assert edges(workflow)["chooser_2"] == ("x", "y")


def test_empty_workflows_add_nothing() -> None:
    nothing = WorkflowDefinition(tasks=())
    assert edges(sequential("a", nothing, "b")) == {"a": (), "b": ("a",)}


def test_builders_need_a_part() -> None:
    with pytest.raises(WorkflowInvalid, match="at least one part"):
        sequential()
    with pytest.raises(WorkflowInvalid, match="at least one branch"):
        parallel()
    with pytest.raises(WorkflowInvalid, match="at least one branch"):
        adaptive("chooser", {})


def test_a_part_of_another_type_is_named() -> None:
    with pytest.raises(WorkflowInvalid, match="but no list"):
        sequential(cast("Any", ["reader"]))


def test_a_branch_is_taken_by_the_value_of_a_field() -> None:
    workflow = adaptive("chooser", {"billing": "accountant", "other": "a | b"}, otherwise="human")
    assert conditions(workflow) == {
        "accountant": 'chooser.choice == "billing"',
        "a": 'chooser.choice == "other"',
        "human": '!(chooser.choice == "billing") && !(chooser.choice == "other")',
    }
    assert workflow.ends == ("accountant", "b", "human")
    assert taken(workflow, {"choice": "billing"}) == ["accountant"]
    assert taken(workflow, {"choice": "nothing of these"}) == ["human"]


@pytest.mark.parametrize(
    "key", ['say "no"', "it's", "back\\slash", "two\nlines", "schön 😀", "a' || true || '", "\x7f\t"]
)
def test_any_text_can_be_a_key(key: str) -> None:
    workflow = adaptive("chooser", {key: "a", "other": "b"})
    validate(workflow, None)
    assert taken(workflow, {"choice": key}) == ["a"]


def test_keys_can_be_booleans_and_numbers() -> None:
    assert taken(adaptive("chooser", {True: "a", False: "b"}, field="ok"), {"ok": False}) == ["b"]
    assert taken(adaptive("chooser", {1: "a", 2: "b"}, field="level"), {"level": 2}) == ["b"]


@pytest.mark.parametrize(
    ("field", "output"),
    [("result.choice", {"result": {"choice": "x"}}), ("my-field", {"my-field": "x"}), ("in", {"in": "x"})],
)
def test_the_field_can_be_a_path_or_any_key(field: str, output: Any) -> None:
    assert taken(adaptive("chooser", {"x": "a", "y": "b"}, field=field), output) == ["a"]


def test_without_a_field_the_first_condition_that_holds_wins() -> None:
    workflow = adaptive(
        "chooser", {"chooser.score > 8": "praise", "chooser.score > 4": "edit"}, field=None, otherwise="rewrite"
    )
    assert conditions(workflow) == {
        "praise": "chooser.score > 8",
        "edit": "!(chooser.score > 8) && (chooser.score > 4)",
        "rewrite": "!(chooser.score > 8) && !(chooser.score > 4)",
    }
    assert [taken(workflow, {"score": score}) for score in (9, 5, 1)] == [["praise"], ["edit"], ["rewrite"]]


def test_without_a_field_keys_are_text() -> None:
    with pytest.raises(WorkflowInvalid, match="CEL conditions"):
        adaptive("chooser", {True: "a"}, field=None)


def test_a_branch_keeps_its_own_condition() -> None:
    branch = TaskDefinition(id="a", agent="a", when="input.fast || input.cheap")
    assert (
        conditions(adaptive("chooser", {"x": branch}))["a"] == '(chooser.choice == "x") && (input.fast || input.cheap)'
    )


def test_what_follows_waits_for_all_branches() -> None:
    workflow = sequential("reader", adaptive("reader | chooser", {"x": "a", "y": "b"}), "editor")
    assert edges(workflow)["editor"] == ("a", "b")
    assert edges(workflow)["chooser"] == ("reader_2",)


def test_what_decides_ends_in_one_task() -> None:
    with pytest.raises(WorkflowInvalid, match="ends in one task"):
        adaptive(parallel("a", "b"), {"x": "c"})


def test_ten_thousand_parts_are_put_in_sequence() -> None:
    workflow = sequential(*["a"] * 10_000)
    validate(workflow, {"a"})
    assert workflow.ends == ("a_10000",)
