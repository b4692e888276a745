import random
from functools import partial
from typing import Any

import pytest
from counting import lines_run

from orchestrator.contracts.workflow import Fallback, TaskDefinition, WorkflowDefinition
from orchestrator.errors import UnknownAgent, WorkflowInvalid
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.graph import MAX_PROBLEMS, topological
from orchestrator.planning.validate import MAX_TASKS, validate


def task(task_id: str, *after: str, **fields: Any) -> TaskDefinition:
    return TaskDefinition.model_validate({"id": task_id, "agent": "agent", "after": after, **fields})


def workflow_of(*tasks: TaskDefinition) -> WorkflowDefinition:
    return WorkflowDefinition(tasks=tasks)


def problems_of(*tasks: TaskDefinition, known: list[str] | None = None) -> list[str]:
    with pytest.raises(WorkflowInvalid) as caught:
        validate(workflow_of(*tasks), known)
    return caught.value.problems


def random_dag(rng: random.Random, size: int) -> WorkflowDefinition:
    names = [f"t{index}" for index in range(size)]
    tasks = [task(name, *rng.sample(names[:index], min(index, rng.randint(0, 3)))) for index, name in enumerate(names)]
    rng.shuffle(tasks)
    return workflow_of(*tasks)


def test_a_good_workflow_has_no_problem() -> None:
    validate(
        workflow_of(
            task("reader", when="input.text != ''"),
            task(
                "critic", "reader", input={"text": "${reader.text} of ${input.title}"}, when="reader.n > 1 || input.all"
            ),
        ),
        ["agent"],
    )


def test_an_empty_workflow_is_a_problem() -> None:
    assert problems_of() == ["tasks: there are none, give at least one"]


def test_all_problems_are_told_at_once_with_their_places() -> None:
    assert problems_of(
        task("reader", "reader"),
        task("critic", "raeder", "gone", agent="other"),
        task("critic"),
        task("all"),
        task("editor", "critic", "critic", input={"x": "${reader.text}", "y": "${}"}, when="critic = 1"),
        known=["agent"],
    ) == [
        "tasks.critic: 2 tasks have this id, give each its own",
        "tasks.all: this id is reserved, give the task another one",
        "tasks.reader.after: the task waits for itself, remove 'reader'",
        "tasks.critic.after: there is no task 'raeder', did you mean 'reader'?",
        "tasks.critic.after: there is no task 'gone'",
        "tasks.editor.after: 'critic' is there 2 times, once is enough",
        (
            "tasks.editor.input: ${reader.text} is the output of a task that this one does not wait for: "
            "add 'reader' to after"
        ),
        "tasks.editor.input: ${} is no path, write ${task.field} or ${input.field}",
        "tasks.editor.when: `critic = 1` is no condition: column 8: unexpected '= ' - write `==` for `=`",
        "tasks.critic.agent: unknown agent 'other': `nightfleet agents list` shows what there is",
    ]


@pytest.mark.parametrize("task_id", ["all", "input"])
def test_reserved_ids_are_refused(task_id: str) -> None:
    assert problems_of(task(task_id)) == [f"tasks.{task_id}: this id is reserved, give the task another one"]


def test_a_cycle_is_named_in_the_order_in_which_it_would_run() -> None:
    assert problems_of(task("a", "c"), task("b", "a"), task("c", "b"), task("d", "c")) == [
        "tasks.a.after: these tasks wait for each other: a -> b -> c -> a"
    ]


def test_every_cycle_is_named_once() -> None:
    problems = problems_of(task("a", "b"), task("b", "a"), task("c", "d"), task("d", "c", "a"))
    assert [problem.partition("other: ")[2] for problem in problems] == ["a -> b -> a", "c -> d -> c"]


def test_a_long_cycle_is_shortened() -> None:
    (problem,) = problems_of(*(task(f"t{index}", f"t{(index - 1) % 1000}") for index in range(1000)))
    assert len(problem) < 200
    assert problem.endswith("(990 more) -> t0")


def test_a_reference_must_lead_to_a_direct_predecessor() -> None:
    tasks = (
        task("a"),
        task("b", "a"),
        task("c", "b", input={"deep": [{"x": "${a.text} ${c.y}"}], "typo": "${inptu.z}"}),
    )
    assert problems_of(*tasks) == [
        "tasks.c.input: ${a.text} is the output of a task that this one does not wait for: add 'a' to after",
        "tasks.c.input: ${c.y} is this task itself, which has no output yet",
        "tasks.c.input: ${inptu.z} is neither a task nor input, did you mean 'input'?",
    ]


@pytest.mark.parametrize("reference", ["${}", "${a.}", "${.b}", "${a..b}"])
def test_a_reference_is_a_path(reference: str) -> None:
    assert "is no path" in problems_of(task("a"), task("b", "a", input={"x": reference}))[0]


def test_input_nested_beyond_reason_is_a_problem() -> None:
    value: Any = "x"
    for _ in range(50_000):
        value = [value]
    assert problems_of(task("a").model_copy(update={"input": {"x": value}})) == [
        "tasks.a.input: it is nested too deeply"
    ]


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ("a.x == 1 && b.y", "`b` is the output of a task that this one does not wait for: add 'b' to after"),
        ("c.x", "`c` is this task itself"),
        ("inputs.x", "`inputs` is neither a task nor input, did you mean 'input'?"),
        ("a.x ==", "column 7: unexpected end"),
        ("a.x == 'one", "column 8: unexpected ''one'"),
        ("a.x and a.y", "write `&&` for `and`"),
        ("a.x == None", "write `null` for `None`"),
        ("else", "reserved identifier: else"),
        ("(" * 2000 + "a" + ")" * 2000, "2,000 nested brackets, at most 32"),
    ],
)
def test_a_condition_must_compile_and_look_at_predecessors_only(when: str, problem: str) -> None:
    (found,) = problems_of(task("a"), task("b"), task("c", "a", when=when))
    assert found.startswith("tasks.c.when: ")
    assert problem in found
    assert len(found) < 300


def test_types_functions_and_names_in_macros_are_no_tasks() -> None:
    when = "type(a.x) == int && size(a.items) > 0 && a.items.exists(item, item.ok && input.on)"
    validate(workflow_of(task("a"), task("b", "a", when=when)), None)


def test_unknown_agents_alone_are_their_own_error() -> None:
    tasks = (task("a", agent="sumarizer"), task("b", agent="sumarizer", on_error=Fallback(fallback="nobody")))
    with pytest.raises(UnknownAgent) as caught:
        validate(workflow_of(*tasks), ["summarizer", "critic"])
    assert str(caught.value).splitlines() == [
        (
            "tasks.a.agent: unknown agent 'sumarizer' in 2 places, did you mean 'summarizer'? "
            "`nightfleet agents list` shows what there is"
        ),
        "tasks.b.on_error.fallback: unknown agent 'nobody': `nightfleet agents list` shows what there is",
    ]
    assert caught.value.details == {"agents": ["sumarizer", "nobody"]}


def test_agents_are_not_looked_at_where_nobody_knows_them() -> None:
    validate(workflow_of(task("a", agent="unheard_of")), None)


def test_too_many_tasks_are_refused() -> None:
    (problem,) = problems_of(*[task("a")] * (MAX_TASKS + 1))
    assert problem.startswith("tasks: there are 20,001, but a workflow has 1 to 20,000")


def test_two_wide_stages_need_a_task_between_them() -> None:
    wide = ", ".join(["a"] * 500)
    with pytest.raises(WorkflowInvalid, match=r"250,000 dependencies.*put one task between wide stages"):
        validate(parse_expression(f"[{wide}] | [{wide}]"), None)
    validate(parse_expression(f"[{wide}] | join | [{wide}]"), None)


def test_a_thousand_problems_are_not_all_told() -> None:
    problems = problems_of(*(task(f"t{index}", "gone") for index in range(1000)))
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1] == "and more: correct these first"


@pytest.mark.parametrize("shape", ["chain", "wide", "conditions", "typos", "cycle", "agents"])
def test_validation_takes_time_in_proportion_to_the_tasks(shape: str) -> None:
    small, large = (lines_run(partial(_validate, shape, count)) for count in (100, 1000))
    assert large < 15 * small


def _validate(shape: str, count: int) -> None:
    names = [f"t{index}" for index in range(count)]
    previous = dict(zip(names[1:], names, strict=False))
    tasks = {
        "chain": lambda: [task(name, *filter(None, [previous.get(name)])) for name in names],
        "wide": lambda: [*(task(name) for name in names), task("join", *names, input={"x": "${t7.x}"})],
        "conditions": lambda: [task("t0"), *(task(a, b, when=f"{b}.choice == '{a}'") for a, b in previous.items())],
        "typos": lambda: [task(name, f"x{name}", agent=name) for name in names],
        "cycle": lambda: [task(name, previous.get(name, names[-1])) for name in names],
        "agents": lambda: [task(name, agent=f"x{name}") for name in names],
    }[shape]()
    try:
        validate(workflow_of(*tasks), [*names, "agent"])
    except (WorkflowInvalid, UnknownAgent):
        assert shape in {"typos", "cycle", "agents"}


def test_a_topological_order_has_every_task_after_those_it_waits_for() -> None:
    rng = random.Random(7)
    for _ in range(100):
        workflow = random_dag(rng, rng.randint(1, 60))
        validate(workflow, None)
        order = [task.id for task in topological(workflow)]
        place = {task_id: index for index, task_id in enumerate(order)}
        assert sorted(order) == sorted(workflow.by_id)
        assert all(place[before] < place[task.id] for task in workflow.tasks for before in task.after)


def test_any_edge_back_in_a_graph_is_found_as_a_cycle() -> None:
    rng = random.Random(7)
    for _ in range(100):
        workflow = random_dag(rng, rng.randint(2, 40))
        order = topological(workflow)
        last = rng.choice([task for task in order if task.after] or [None])
        if last is None:
            continue
        first = workflow.by_id[last.after[0]]
        closed = [
            task.model_copy(update={"after": (*task.after, last.id)}) if task is first else task
            for task in workflow.tasks
        ]
        assert any("wait for each other" in problem for problem in problems_of(*closed))


def test_the_order_among_ready_tasks_is_that_of_the_definition() -> None:
    workflow = workflow_of(task("d", "c"), task("a"), task("c"), task("b", "a"))
    assert [task.id for task in topological(workflow)] == ["a", "c", "d", "b"]


def test_a_cycle_has_no_topological_order() -> None:
    with pytest.raises(WorkflowInvalid, match="a -> b -> a"):
        topological(workflow_of(task("a", "b"), task("b", "a")))
