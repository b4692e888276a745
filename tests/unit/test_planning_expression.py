import contextlib
import random

import pytest

from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import WorkflowInvalid
from orchestrator.planning.builders import parallel, sequential
from orchestrator.planning.expression import MAX_NESTING, parse_expression
from orchestrator.planning.validate import validate


def edges(workflow: WorkflowDefinition) -> dict[str, tuple[str, ...]]:
    return {task.id: task.after for task in workflow.tasks}


def problem_of(text: str) -> str:
    with pytest.raises(WorkflowInvalid) as caught:
        parse_expression(text)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_a_pipe_puts_agents_in_sequence() -> None:
    assert edges(parse_expression("reader | summarizer | editor")) == {
        "reader": (),
        "summarizer": ("reader",),
        "editor": ("summarizer",),
    }


def test_brackets_run_in_parallel_and_what_follows_aggregates() -> None:
    assert edges(parse_expression("reader|[summarizer,critic]|editor")) == {
        "reader": (),
        "summarizer": ("reader",),
        "critic": ("reader",),
        "editor": ("summarizer", "critic"),
    }


def test_brackets_nest() -> None:
    assert edges(parse_expression("[a | b, [c, d] | e] | f")) == {
        "a": (),
        "b": ("a",),
        "c": (),
        "d": (),
        "e": ("c", "d"),
        "f": ("b", "e"),
    }


def test_parentheses_group_without_changing_a_sequence() -> None:
    assert parse_expression("(a | (b)) | [(c | d), e]") == parse_expression("a | b | [c | d, e]")


def test_parallel_stages_meet_fully() -> None:
    assert edges(parse_expression("[a, b] | [c, d]"))["d"] == ("a", "b")


def test_an_equals_sign_names_a_task() -> None:
    tasks = parse_expression("[x=critic, y=critic]").tasks
    assert [(task.id, task.agent) for task in tasks] == [("x", "critic"), ("y", "critic")]


def test_ids_default_to_the_agent_and_are_numbered_when_taken() -> None:
    assert list(edges(parse_expression("critic | critic | critic"))) == ["critic", "critic_2", "critic_3"]


def test_a_default_id_never_takes_a_given_one() -> None:
    tasks = parse_expression("critic | critic | critic_2=writer | critic=editor").tasks
    assert [(task.id, task.agent) for task in tasks] == [
        ("critic_3", "critic"),
        ("critic_4", "critic"),
        ("critic_2", "writer"),
        ("critic", "editor"),
    ]


def test_a_number_that_belongs_to_the_agents_name_stays() -> None:
    assert list(edges(parse_expression("gpt_4 | gpt_4"))) == ["gpt_4", "gpt_4_2"]


def test_the_longest_name_is_shortened_to_be_numbered() -> None:
    name = "a" * 63
    ids = list(edges(parse_expression(f"{name} | {name}")))
    assert ids == [name, "a" * 61 + "_2"]


def test_all_ways_to_write_a_workflow_give_the_same_digest() -> None:
    built = sequential("reader", parallel("summarizer", "critic", aggregate="editor"))
    assert parse_expression("reader | [summarizer, critic] | editor").digest == built.digest


def test_white_space_and_lines_do_not_matter() -> None:
    assert parse_expression(" a\n | b\t|c ") == parse_expression("a|b|c")


def test_a_name_is_taken() -> None:
    assert parse_expression("a", name="nightly").name == "nightly"
    assert parse_expression("a").name == "workflow"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "column 1: expected an agent, '[' or '(', found the end"),
        ("a |", "column 4: expected an agent, '[' or '(', found the end"),
        ("| a", "column 1: expected an agent, '[' or '(', found '|'"),
        ("a b", "column 3: expected '|' or the end, found 'b'"),
        ("a, b", "column 2: expected '|' or the end, found ','"),
        ("[a, b", "column 6: expected '|', ',' or ']', found the end"),
        ("(a, b)", "column 3: expected '|' or ')', found ','"),
        ("[]", "column 2: expected an agent, '[' or '(', found ']'"),
        ("[a,]", "column 4: expected an agent, '[' or '(', found ']'"),
        ("a]", "column 2: expected '|' or the end, found ']'"),
        ("x=", "column 3: expected an agent, found the end"),
        ("x=y=z", "column 4: expected '|' or the end, found '='"),
        ("a | b\n | | c", "line 2, column 4: expected an agent, '[' or '(', found '|'"),
        ("a | Reader", "column 5: 'Reader' is no name"),
        ("reader-2", "column 1: 'reader-2' is no name"),
        ("é", "column 1: 'é' is no name"),
        ("a" * 64, "is no name"),
        ("x=a | x=b", "column 7: 'x' is the name of another task already"),
        ("a \x00", "column 3: expected '|' or the end"),
    ],
)
def test_an_error_names_the_place_and_what_may_stand_there(text: str, expected: str) -> None:
    assert expected in problem_of(text)


def test_an_error_shows_the_line_with_a_caret() -> None:
    assert problem_of("a | b\nc | d").splitlines()[1:] == ["      c | d", "      ^"]
    _, line, caret = problem_of("a | " * 100 + "Bad | " + "b | " * 100).splitlines()
    assert line[caret.index("^") :].startswith("Bad")
    assert len(line) < 140


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("[", "]"), ("[a, (", ")]")])
def test_hostile_nesting_is_a_clear_error(opening: str, closing: str) -> None:
    assert "brackets inside each other" in problem_of(opening * 100_000 + "a" + closing * 100_000)


def test_nesting_up_to_the_bound_works() -> None:
    assert list(edges(parse_expression("(" * MAX_NESTING + "a" + ")" * MAX_NESTING))) == ["a"]


def test_ten_thousand_agents_are_parsed() -> None:
    workflow = parse_expression("[" + ", ".join(["critic"] * 10_000) + "] | editor")
    validate(workflow, {"critic", "editor"})
    assert len(workflow.by_id["editor"].after) == 10_000


def random_expression(rng: random.Random, depth: int) -> str:
    parts = [
        rng.choice("abc") if depth == 0 or rng.random() < 0.5 else random_expression(rng, depth - 1)
        for _ in range(rng.randint(1, 3))
    ]
    return rng.choice([f"({' | '.join(parts)})", f"[{', '.join(parts)}]"])


def test_any_expression_gives_a_valid_workflow() -> None:
    rng = random.Random(7)
    for _ in range(300):
        validate(parse_expression(random_expression(rng, 4)), set("abc"))


def test_no_text_gives_any_other_error() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        text = "".join(rng.choice("ab=|[](), \n2_") for _ in range(rng.randint(0, 12)))
        with contextlib.suppress(WorkflowInvalid):
            validate(parse_expression(text), None)
