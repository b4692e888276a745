"""Tasks made of others, as data: files, checks with places, builders, drawings, and who else looks inside of tasks."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.contracts.composite import COMPOSITES, Member
from orchestrator.contracts.kinds import KINDS
from orchestrator.contracts.stored import Difference
from orchestrator.contracts.variant import Changes
from orchestrator.contracts.workflow import TaskDefinition, ToolUse, WorkflowDefinition
from orchestrator.errors import UnknownAgent, UnknownCapability, UsageError, WorkflowInvalid
from orchestrator.planning.builders import any_agent, parallel, sequential
from orchestrator.planning.composites import consensus, handoff, leader_follower, loop, map_over, nested, router
from orchestrator.planning.diagram import as_text
from orchestrator.planning.difference import differences
from orchestrator.planning.files import Known, load_workflow, workflow_from_data
from orchestrator.planning.frontier import Plan
from orchestrator.planning.mermaid import as_mermaid
from orchestrator.planning.steps import MADE_OF_OTHERS, ONE, SEVERAL, everything
from orchestrator.planning.validate import MAX_DEPTH, MAX_TASKS, validate
from orchestrator.planning.variants import changed
from orchestrator.planning.writing import as_data, as_yaml


def read(tasks: dict[str, Any], **fields: Any) -> WorkflowDefinition:
    return workflow_from_data({"tasks": tasks, **fields}, "data")


def problems_of(tasks: dict[str, Any], **fields: Any) -> list[str]:
    with pytest.raises(WorkflowInvalid) as caught:
        read(tasks, **fields)
    return list(caught.value.problems)


def invalid(workflow: WorkflowDefinition, **known: Any) -> list[str]:
    with pytest.raises(WorkflowInvalid) as caught:
        validate(workflow, known.pop("agents", None), **known)
    return list(caught.value.problems)


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The table ------------------------------------------------------------------------------------------------------------


def test_the_fields_that_are_steps_are_those_of_the_models() -> None:
    assert {*ONE} == {*COMPOSITES}
    assert {*KINDS} >= MADE_OF_OTHERS == {*COMPOSITES, "workflow"}
    for kind, model in COMPOSITES.items():
        one = {name for name, said in model.__annotations__.items() if said in {"Step", "Step | None"}}
        several = {name for name, said in model.__annotations__.items() if said == "Members"}
        assert {*ONE[kind]} == one
        assert {*SEVERAL.get(kind, ())} == several


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_step_is_an_agent_or_the_fields_of_a_task() -> None:
    one, other = read(
        {
            "a": {"loop": {"do": "editor", "until": "output.ok"}},
            "b": {"loop": {"do": {"tool": "calculator.calculate", "retry": {"retries": 1}}, "until": "true"}},
        }
    ).tasks
    assert one.loop is not None and other.loop is not None  # noqa: PT018 - for the type checker
    assert one.loop.do == TaskDefinition(id="step", agent="editor")
    assert (one.agent, other.loop.do.agent, other.loop.do.retry.retries) == ("loop", "tool", 1)


def test_members_are_a_list_of_agents_or_steps_by_their_names() -> None:
    data = {
        "a": {"consensus": {"members": ["critic", {"name": "kind", "do": {"agent": "critic", "model": "openai:x"}}]}},
        "b": {"consensus": {"members": {"critic": None, "kind": {"agent": "critic", "model": "openai:x"}}}},
    }
    one, other = read(data).tasks
    assert one.consensus == other.consensus
    assert one.consensus is not None
    assert [(each.name, each.do.agent) for each in one.consensus.members] == [("critic", "critic"), ("kind", "critic")]


def test_a_nested_workflow_is_written_like_one_in_a_file() -> None:
    workflow = read(
        {
            "digest": {
                "workflow": {
                    "tasks": {
                        "reader": None,
                        "good": {"agent": "critic", "after": "reader", "when": "reader.x > 1"},
                        "poor": {"agent": "critic", "after": "reader", "when": "else"},
                    },
                    "output": {"x": "${good}"},
                }
            }
        }
    )
    inner = workflow.tasks[0].workflow
    assert inner is not None
    assert inner.by_id["reader"].agent == "reader"
    assert inner.by_id["good"].after == ("reader",)
    assert inner.by_id["poor"].when == "!(reader.x > 1)"


def test_a_nested_workflow_and_a_step_may_be_an_expression() -> None:
    workflow = read({"a": {"workflow": "reader | [x, y] | z"}, "b": {"loop": {"do": "c | d", "until": "output.ok"}}})
    one, other = workflow.tasks
    assert one.workflow is not None and other.loop is not None  # noqa: PT018 - for the type checker
    assert [task.id for task in one.workflow.tasks] == ["reader", "x", "y", "z"]
    assert other.loop.do.workflow is not None


def test_a_map_over_a_reference_gets_it_as_a_field_of_its_input() -> None:
    task = read({"reader": None, "m": {"after": "reader", "map": {"over": "${reader.x}", "do": "writer"}}}).tasks[1]
    assert task.input == {"items": "${reader.x}"}
    assert task.map is not None
    assert task.map.over == "items"
    clash = {"input": {"items": 5}, "map": {"over": "${input.x}", "do": "writer"}}
    assert "which says that itself" in problems_of({"m": clash})[0]


def test_defaults_hold_for_what_does_the_work_and_what_follows_an_error_for_tasks() -> None:
    workflow = read(
        {
            "l": {"loop": {"do": {"agent": "a", "retry": {"first_delay": 7}}, "until": "true"}},
            "w": {
                "workflow": {"defaults": {"retry": {"first_delay": 9}}, "tasks": {"b": None, "c": {"on_error": "fail"}}}
            },
            "e": {"workflow": "d"},
        },
        defaults={"retry": {"retries": 1}, "timeouts": {"hard": 60}, "on_error": "continue"},
    )
    again, w, e = workflow.tasks
    assert again.loop is not None and w.workflow is not None and e.workflow is not None  # noqa: PT018 - for the type checker
    assert (again.retry.retries, again.timeouts.hard, again.on_error) == (3, None, "continue")
    step, b, c, d = again.loop.do, *w.workflow.tasks, *e.workflow.tasks
    assert (step.retry.retries, step.retry.first_delay.seconds, step.on_error) == (1, 7, "fail")
    assert (b.retry.retries, b.retry.first_delay.seconds, b.on_error, c.on_error) == (1, 9, "continue", "fail")
    assert (d.retry.retries, d.on_error) == (1, "continue")
    hard = {each.timeouts.hard and each.timeouts.hard.seconds for each in (step, b, c, d)}
    assert hard == {60}


FAULTY = """\
tasks:
  polish:
    loop: {do: {agent: editor, retry: {retires: 1}, after: x}, untill: a}
  press: {map: {over: "${x.y}", do: {agent: Writer}}}
  sort:
    router:
      routes:
        Billing: accountant
        other: {agnt: x}
        third: {condition: "a"}
  vote:
    consensus:
      members: [a, "B c", {name: d, do: e, z: 1}]
      rule: all
  digest:
    workflow:
      naem: x
      tasks:
        a: {retry: 1}
  plain: {loop: writer}
  told: {workflow: "a | | b"}
  five: {workflow: 5}
  limited: {loop: {do: a, until: "true"}, timeouts: {hard: 5}}
  two: {workflow: x, loop: {do: a, until: "true"}}
  none: {loop: {do: {id: y, agent: x}, until: "true"}}
  desk: {handoff: {agents: {}}}
"""


def test_every_problem_inside_of_tasks_is_told_with_line_and_column(tmp_path: Path) -> None:
    path = file(tmp_path, "w.yaml", FAULTY)
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(path)
    found = [problem.split("\n")[0].removeprefix(f"{path}:") for problem in caught.value.problems]
    place = "would mean nothing to a step: say it of the task that the step is part of"
    name = "a name has lower-case letters, digits and _, begins with a letter, and is at most 63 long"
    kinds = (
        "agent, function, celery, tool, condition, workflow, loop, map, router, leader_follower, consensus and handoff"
    )
    assert sorted(found, key=lambda each: [int(number) for number in each.split(":")[:2]]) == [
        "3:5: tasks.polish.loop.until: field required",
        "3:40: tasks.polish.loop.do.retry.retires: unknown key 'retires', did you mean 'retries'?",
        f"3:53: tasks.polish.loop.do.after: after {place}",
        "3:64: tasks.polish.loop.untill: unknown key 'untill', did you mean 'until'?",
        f"4:38: tasks.press.map.do.agent: 'Writer' is no name: {name}",
        f"8:9: tasks.sort.router.routes.Billing: 'Billing' is no name: {name}",
        "9:17: tasks.sort.router.routes.other.agnt: unknown key 'agnt', did you mean 'agent'?",
        (
            "10:9: tasks.sort.router.routes.third: a condition decides about other tasks of a workflow, and a step has none: "
            "use a router"
        ),
        (
            "13:20: tasks.vote.consensus.members[1]: expected an agent's name, or {name: ..., do: ...}, found 'B c'; with names "
            "it may also be an object: {first: agent}"
        ),
        "13:44: tasks.vote.consensus.members[2].z: unknown key 'z', the keys are " + ", ".join(Member.model_fields),
        "14:7: tasks.vote.consensus.rule: expected majority, unanimous, plurality, or {at_least: 2}",
        "17:7: tasks.digest.workflow.naem: unknown key 'naem', did you mean 'name'?",
        "19:13: tasks.digest.workflow.tasks.a.retry: input should be a valid dictionary or instance of RetryPolicy, found 1",
        "20:11: tasks.plain.loop: write `loop: {do: agent, until: expression}`; found 'writer'",
        "21:10: tasks.told.workflow: column 5: expected an agent, '[' or '(', found '|'",
        "22:10: tasks.five.workflow: expected a file, an expression, or a workflow with its tasks, found 5",
        "23:3: tasks.limited: timeouts would mean nothing to a loop: leave out",
        f"24:3: tasks.two: a task is one of {kinds}, and this one has workflow and loop: keep one",
        "25:22: tasks.none.loop.do.id: nobody refers to a step, so it has no id: leave it out",
        "26:20: tasks.desk.handoff.agents: there are 0, and 1 to 100 are possible",
    ]


# Files in files -------------------------------------------------------------------------------------------------------


def test_a_file_is_put_in_whole_and_found_from_the_file_that_names_it(tmp_path: Path) -> None:
    file(
        tmp_path,
        "parts/digest.yaml",
        "name: digest\ndefaults: {on_error: continue}\ntasks: {a: {}, b: {workflow: c.json}}\n",
    )
    file(tmp_path, "parts/c.json", '{"tasks": {"c": {}}}')
    path = file(
        tmp_path, "w.yaml", "tasks: {d: {workflow: parts/digest.yaml}, e: {workflow: ./parts/c.json, after: d}}\n"
    )
    workflow = load_workflow(path)
    assert [place for place, _ in everything(workflow)] == [
        "tasks.d",
        "tasks.d.workflow.tasks.a",
        "tasks.d.workflow.tasks.b",
        "tasks.d.workflow.tasks.b.workflow.tasks.c",
        "tasks.e",
        "tasks.e.workflow.tasks.c",
    ]
    errors = {place: task.on_error for place, task in everything(workflow)}
    assert errors["tasks.d.workflow.tasks.a"] == "continue", "the defaults of a file are those of its own tasks"
    assert errors["tasks.e.workflow.tasks.c"] == "fail"


def test_what_is_wrong_in_a_file_that_is_named_is_told_at_its_own_line_once(tmp_path: Path) -> None:
    inner = file(tmp_path, "inner.yaml", "tasks:\n  a: {}\n  b:\n    retires: 1\n")
    path = file(tmp_path, "w.yaml", "tasks:\n  x: {workflow: inner.yaml}\n  y: {workflow: inner.yaml, wehn: a}\n")
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(path)
    found = [problem.split("\n")[0] for problem in caught.value.problems]
    assert found == [
        f"{inner}:4:5: tasks.b.retires: unknown key 'retires', the keys are {', '.join(TaskDefinition.model_fields)}",
        f"{path}:3:29: tasks.y.wehn: unknown key 'wehn', did you mean 'when'?",
    ]


def test_unknown_agents_of_a_file_that_is_named_are_told_at_its_own_line(tmp_path: Path) -> None:
    inner = file(tmp_path, "inner.yaml", "tasks:\n- {id: a}\n- {id: b, agent: critc}\n")
    path = file(
        tmp_path, "w.yaml", "tasks:\n  x: {loop: {do: inner.yaml, until: 'true'}}\n  y: {workflow: inner.yaml}\n"
    )
    with pytest.raises(UnknownAgent) as caught:
        load_workflow(path, Known(["a", "critic"]))
    assert caught.value.message.split("\n")[0] == (
        f"{inner}:3:11: tasks.x.loop.do.workflow.tasks.b.agent: unknown agent 'critc' in 2 places, did you mean 'critic'? "
        "`nightfleet agents list` shows what there is"
    )


def test_a_circle_of_files_is_named(tmp_path: Path) -> None:
    file(tmp_path, "b.yaml", "tasks: {b: {workflow: sub/c.yaml}}\n")
    file(tmp_path, "sub/c.yaml", "tasks: {c: {workflow: ../a.yaml}}\n")
    path = file(tmp_path, "a.yaml", "tasks: {a: {workflow: b.yaml}}\n")
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(path)
    [problem] = caught.value.problems
    assert problem.split("\n")[0].endswith("these files are parts of themselves: a.yaml -> b.yaml -> c.yaml -> a.yaml")
    assert "sub/c.yaml:1:13" in problem


def test_files_name_files_eight_deep_and_no_deeper(tmp_path: Path) -> None:
    file(tmp_path, "w0.yaml", "tasks: {a: {}}\n")
    for number in range(1, 9):
        file(tmp_path, f"w{number}.yaml", f"tasks: {{a: {{workflow: w{number - 1}.yaml}}}}\n")
    assert len(list(everything(load_workflow(tmp_path / "w7.yaml")))) == 8
    with pytest.raises(WorkflowInvalid, match="files name files more than 8 deep"):
        load_workflow(tmp_path / "w8.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: {a: {workflow: nothere.yaml}}", "there is no such file in"),
        ("tasks: {a: {workflow: ./}}", "it is a folder"),
        ("tasks: {a: {workflow: bad.yaml}}", "bad.yaml:1:"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem_like_others(tmp_path: Path, text: str, words: str) -> None:
    file(tmp_path, "bad.yaml", "tasks: {a\n")
    with pytest.raises(WorkflowInvalid) as caught:
        load_workflow(file(tmp_path, "w.yaml", text))
    assert words in caught.value.problems[0]


def test_files_that_double_each_other_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    file(tmp_path, "w0.yaml", "tasks: {a: {}}\n")
    for number in range(1, 8):
        tasks = ", ".join(f"t{index}: {{workflow: w{number - 1}.yaml}}" for index in range(50))
        file(tmp_path, f"w{number}.yaml", f"tasks: {{{tasks}}}\n")
    with pytest.raises(WorkflowInvalid, match="with what is inside of them there are more than 20,000"):
        load_workflow(tmp_path / "w7.yaml")


# Checks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            {"map": {"do": {"agent": "a", "input": {"x": "${item.x} ${idx}"}}}},
            "tasks.t.map.do.input: ${idx} leads nowhere: a step knows input, item, index alone, did you mean 'index'?",
        ),
        (
            {"map": {"do": {"agent": "a", "input": {"x": "${reader.x}"}}}},
            (
                "tasks.t.map.do.input: ${reader.x} leads nowhere: a step knows input, item, index alone, and of other tasks what "
                "the input of its task names"
            ),
        ),
        (
            {"map": {"do": {"agent": "a", "input": {"x": "${}"}}}},
            "tasks.t.map.do.input: ${} is no path, write ${index} or ${input.field}",
        ),
        (
            {"map": {"do": "a", "over": "x ${input.y}"}},
            (
                "tasks.t.map.over: 'x ${input.y}' is text with a reference in it: write one reference alone, or the name of a "
                "field"
            ),
        ),
        (
            {"map": {"do": "a", "over": "topcs"}, "input": {"topics": []}},
            "tasks.t.map.over: the input of the task has no 'topcs', did you mean 'topics'?",
        ),
        (
            {"map": {"do": "a", "over": "a..b"}},
            "tasks.t.map.over: 'a..b' is no path: write a field, such as `result.over`",
        ),
        (
            {"loop": {"do": "a", "until": "score > 7"}},
            (
                "tasks.t.loop.until: `score` is none of input, output, iteration: what the step gave is `output`, as in "
                "`output.score`"
            ),
        ),
        (
            {"loop": {"do": "a", "until": "output.x >"}},
            "tasks.t.loop.until: `output.x >` is no condition: column 11: unexpected end",
        ),
        (
            {"loop": {"do": "a", "until": "true", "next": {"x": "${outptu.x}"}}},
            (
                "tasks.t.loop.next: ${outptu.x} leads nowhere: a step knows input, output, iteration alone, did you mean "
                "'output'?"
            ),
        ),
        (
            {"loop": {"do": {"agent": "a", "input": {"x": "${output}"}}, "until": "true", "next": {}}},
            "tasks.t.loop.next: the step says with `input` what it gets each time: keep one of the two",
        ),
        (
            {"router": {"by": {"agent": "a", "input": {"x": "${by.x}"}}, "routes": {"b": "b"}}},
            (
                "tasks.t.router.by.input: ${by.x} leads nowhere: a step knows input alone, and of other tasks what the input of "
                "its task names"
            ),
        ),
        (
            {"router": {"routes": {"b": {"agent": "b", "input": {"x": "${item}"}}}}},
            (
                "tasks.t.router.routes.b.input: ${item} leads nowhere: a step knows input, by alone, and of other tasks what the "
                "input of its task names"
            ),
        ),
        (
            {"consensus": {"members": {"a": {"agent": "x", "input": {"y": 1}}}}},
            (
                "tasks.t.consensus.members.a.input: a member of a team gets the messages of its team, in whose place there is "
                "nothing to say: leave it out"
            ),
        ),
        (
            {"workflow": {"tasks": {"a": {"after": "b"}}}},
            "tasks.t.workflow.tasks.a.after: there is no task 'b'",
        ),
        (
            {"workflow": {"tasks": {"a": {"after": "b"}, "b": {"after": "a"}}}},
            "tasks.t.workflow.tasks.a.after: these tasks wait for each other: a -> b -> a",
        ),
        (
            {"workflow": {"tasks": {"a": {"compensate": "undo"}}}},
            (
                "tasks.t.workflow.tasks.a.compensate: a task of a nested workflow cannot be undone by itself: let the task that "
                "the workflow is have a `compensate`, which gets what the whole has given"
            ),
        ),
        (
            {"workflow": {"deadline": 60, "tasks": {"a": {}}}},
            (
                "tasks.t.workflow.deadline: a nested workflow is a part of a run and has no deadline: give one to the workflow "
                "that has it as a task"
            ),
        ),
        (
            {
                "workflow": {"inputs": {"text": "str", "n": "int"}, "tasks": {"a": {}}},
                "input": {"txt": "", "n": "${input.n}"},
            },
            "tasks.t.input: of the nested workflow 'workflow': text is missing (it asks for text, n)",
        ),
    ],
)
def test_what_is_wrong_inside_is_told_with_its_place(task: dict[str, Any], problem: str) -> None:
    assert problem in [each.split("\n")[0] for each in problems_of({"t": task})]


def test_agents_capabilities_and_tools_inside_are_checked_like_all_others() -> None:
    inside = {
        "loop": {
            "do": {
                "router": {
                    "routes": {
                        "a": {"agent": "critc", "on_error": {"fallback": "wrter"}},
                        "b": {"capability": "reviw"},
                    },
                    "otherwise": {"tool": "tides", "input": {"port": "x"}},
                }
            },
            "until": "true",
        }
    }
    workflow = read({"t": inside})
    with pytest.raises(UnknownAgent) as caught:
        validate(workflow, ["critic", "writer"], ["review"])
    place = "tasks.t.loop.do.router"
    first, second, third = caught.value.message.split("\n")
    assert first.startswith(f"{place}.routes.a.agent: unknown agent 'critc', did you mean 'critic'?")
    assert second.startswith(f"{place}.routes.a.on_error.fallback: unknown agent 'wrter', did you mean 'writer'?")
    assert third.startswith(f"{place}.routes.b.capability: no agent has the capability 'reviw', did you mean 'review'?")
    with pytest.raises(UnknownCapability):
        validate(workflow, ["critc", "wrter"], ["review"])
    told = invalid(workflow, tool_faults=tides_take_nothing)
    assert told == [f"{place}.otherwise.input: tides takes no ['port']"]


def tides_take_nothing(use: ToolUse, given: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [("input", f"{use.name} takes no {list(given or ())}")]


def deep(levels: int) -> TaskDefinition:
    made = TaskDefinition(id="inner", agent="writer")
    for _ in range(levels):
        made = loop(made, until="true")
    return made


def test_tasks_stand_as_deep_in_others_as_agents_may_call_agents() -> None:
    validate(WorkflowDefinition(tasks=(deep(8),)), None, max_depth=8)
    [problem] = invalid(WorkflowDefinition(tasks=(deep(9),)), max_depth=8)
    assert problem == (
        "tasks.loop.loop.do" + ".loop.do" * 8 + ": it stands inside of 9 others, and 8 is the most "
        "(NIGHTFLEET_MAX_CALL_DEPTH): take it apart"
    )


def test_a_file_may_be_checked_for_a_depth(tmp_path: Path) -> None:
    path = file(tmp_path, "w.yaml", "tasks:\n  a: {loop: {do: {map: {do: b}}, until: 'true'}}\n")
    load_workflow(path, Known(max_depth=2))
    with pytest.raises(WorkflowInvalid, match=r"w.yaml:2:25: tasks.a.loop.do.map.do: it stands inside of 2 others"):
        load_workflow(path, Known(max_depth=1))


def test_what_is_as_deep_as_possible_can_be_stored_and_read() -> None:
    made: Any = "writer"
    for _ in range(MAX_DEPTH):
        made = router({"a": made})
    workflow = WorkflowDefinition(tasks=(made,))
    validate(workflow, None)
    assert WorkflowDefinition.model_validate_json(workflow.canonical) == workflow
    assert load_as_written(workflow) == workflow
    assert invalid(WorkflowDefinition(tasks=(router({"a": made}),)))


def load_as_written(workflow: WorkflowDefinition) -> WorkflowDefinition:
    return workflow_from_data(as_data(workflow), "data")


def test_the_number_of_tasks_is_bounded_with_all_that_is_inside() -> None:
    many = parallel(*(f"t{number}=writer" for number in range(MAX_TASKS // 2)))
    validate(WorkflowDefinition(tasks=(nested(many, id="a"),)), None)
    assert (
        "with what is inside of them there are more than 20,000"
        in invalid(parallel(nested(many, id="a"), nested(many, id="b")))[0]
    )


def test_checks_take_time_that_grows_with_the_number_of_tasks_alone() -> None:
    def seconds(count: int) -> float:
        steps = {f"r{number}": loop("writer", until="output.ok") for number in range(100)}
        workflow = parallel(*(router(steps, id=f"t{number}") for number in range(count // 200)))
        began = time.process_time()
        validate(workflow, ["writer"])
        return time.process_time() - began

    seconds(2_000)
    assert min(seconds(16_000) for _ in range(2)) < 30 * min(seconds(1_600) for _ in range(3))


# Builders -------------------------------------------------------------------------------------------------------------


def test_builders_make_what_files_say() -> None:
    built = sequential(
        "reader",
        loop("editor", until="output.score >= 8", next={"text": "${output.text}"}, max_iterations=4),
        map_over("${loop.topics}", "writer", max_concurrency=4),
        router({"billing": "accountant", "other": "a | b"}, by="chooser", otherwise="clerk"),
        nested("x | y", id="digest", on_error="continue"),
        leader_follower("chief", ["reader", "writer"], max_rounds=2, unmet="last"),
        consensus({"a": "critic", "b": any_agent("review")}, rule={"at_least": 2}, quorum=1, decides="judge"),
        handoff(["clerk", TaskDefinition(id="expert", agent="critic", model="openai:x")], first="expert"),
        name="all",
    )
    written = {
        "reader": None,
        "loop": {
            "after": "reader",
            "loop": {
                "do": "editor",
                "until": "output.score >= 8",
                "next": {"text": "${output.text}"},
                "max_iterations": 4,
            },
        },
        "map": {"after": "loop", "map": {"over": "${loop.topics}", "do": "writer", "max_concurrency": 4}},
        "router": {
            "after": "map",
            "router": {"by": "chooser", "routes": {"billing": "accountant", "other": "a | b"}, "otherwise": "clerk"},
        },
        "digest": {"after": "router", "workflow": "x | y", "on_error": "continue"},
        "leader_follower": {
            "after": "digest",
            "leader_follower": {"leader": "chief", "followers": ["reader", "writer"], "max_rounds": 2, "unmet": "last"},
        },
        "consensus": {
            "after": "leader_follower",
            "consensus": {
                "members": {"a": "critic", "b": {"capability": "review"}},
                "rule": {"at_least": 2},
                "quorum": 1,
                "decides": "judge",
            },
        },
        "handoff": {
            "after": "consensus",
            "handoff": {
                "agents": {"clerk": None, "expert": {"agent": "critic", "model": "openai:x"}},
                "first": "expert",
            },
        },
    }
    assert not differences(built, read(written, name="all"))
    assert built.digest == read(written, name="all").digest
    validate(
        built,
        {
            "reader",
            "editor",
            "writer",
            "accountant",
            "a",
            "b",
            "chooser",
            "clerk",
            "x",
            "y",
            "chief",
            "critic",
            "judge",
        },
    )


def test_the_same_composite_is_a_part_again_and_again_and_its_references_follow() -> None:
    part = sequential("reader", map_over("${reader.topics}", "writer"))
    twice = sequential(part, part)
    assert [task.id for task in twice.tasks] == ["reader", "map", "reader_2", "map_2"]
    assert twice.by_id["map_2"].input == {"items": "${reader_2.topics}"}


def test_a_nested_workflow_is_called_as_it_is_and_may_be_a_file(tmp_path: Path) -> None:
    assert nested(sequential("a", "b", name="press")).id == "press"
    assert nested(sequential("a", "b", name="Press review")).id == "workflow"
    path = file(tmp_path, "w.yaml", "name: digest\ntasks: {a: {}}\n")
    assert nested(path) == nested(str(path))
    assert loop(str(path), until="true").loop == loop(nested(path), until="true").loop


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: loop("a", until=""), r"loop\(\).*until: string should have at least 1 character"),
        (
            lambda: loop(cast("Any", 5), until="x"),
            "a step is an agent, a task, a workflow, or text such as 'reader | editor', but no int",
        ),
        (
            lambda: loop(TaskDefinition(id="a", agent="a", after=("b",)), until="x"),
            "after would mean nothing to a step",
        ),
        (lambda: map_over("${x}", "a", max_concurrency=0), r"map_over\(\).*map.max_concurrency"),
        (lambda: consensus("critic"), "'critic' is one step: give a list of agents"),
        (lambda: consensus(["a", "a"]), "a is there more than once"),
        (lambda: router({"A": "a"}), "'A' is no name"),
        (lambda: handoff([sequential("a", "b")]), "give them as {name: step}"),
        (lambda: nested("a | | b"), "expected an agent"),
        (lambda: loop("a", until="true", id="Loop"), "'Loop' is no name"),
    ],
)
def test_builders_say_what_is_wrong(make: Any, words: str) -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        make()
    assert re.search(words, caught.value.message.replace("\n", " ")), caught.value.message


# Drawings and differences ---------------------------------------------------------------------------------------------

SHOWN = {
    "reader": None,
    "polish": {"after": "reader", "loop": {"do": "editor", "until": "output.score >= 8", "max_iterations": 4}},
    "sort": {
        "after": "reader",
        "router": {
            "by": "chooser",
            "routes": {"billing": {"agent": "accountant", "retry": {"retries": 1}}, "x": "a | b"},
        },
    },
    "vote": {"after": ["polish", "sort"], "consensus": {"members": ["p", "q"], "rule": "unanimous", "unmet": "last"}},
}


def test_the_text_shows_what_is_inside_where_the_title_does_not_say_it() -> None:
    assert as_text(read(SHOWN)).splitlines() == [
        "workflow: 4 tasks in 3 stages",
        "  1  reader",
        "  2  polish (loop of editor)      after reader; until output.score >= 8; at most 4 times",
        "     sort (router to billing, x)  after reader",
        "       by       chooser",
        "       billing  accountant        1 retry from 2 s on",
        "       x        workflow of a, b",
        "                1  a",
        "                2  b  after a",
        "  3  vote (consensus of p, q)     after polish, sort; unanimous; then the last",
    ]


def test_a_flowchart_has_a_box_around_what_is_inside() -> None:
    assert as_mermaid(read(SHOWN)).splitlines() == [
        "flowchart TD",
        '  task_reader["reader"]',
        '  subgraph task_polish["polish (loop of editor)<br/>until output.score #62;= 8<br/>at most 4 times"]',
        '    step_1["editor"]',
        "    step_1 --> step_1",
        "  end",
        '  subgraph task_sort["sort (router to billing, x)"]',
        '    step_2["by (chooser)"]',
        '    step_3["billing (accountant)"]',
        '    subgraph step_4["x (workflow of a, b)"]',
        '      step_5_a["a"]',
        '      step_5_b["b"]',
        "      step_5_a --> step_5_b",
        "    end",
        '    step_2 -->|"billing"| step_3',
        '    step_2 -->|"x"| step_4',
        "  end",
        '  subgraph task_vote["vote (consensus of p, q)<br/>unanimous<br/>then the last"]',
        '    step_6["p"]',
        '    step_7["q"]',
        "  end",
        "  task_reader --> task_polish",
        "  task_reader --> task_sort",
        "  task_polish --> task_vote",
        "  task_sort --> task_vote",
    ]


def test_differences_are_told_by_the_place_inside() -> None:
    one = read({"a": {"router": {"routes": {"x": "p", "y": {"agent": "q", "retry": {"retries": 1}}}}}})
    two = read({"a": {"router": {"routes": {"y": {"agent": "r", "retry": {"retries": 1}}, "x": "p"}}}})
    assert list(differences(one, two)) == [
        Difference(place="tasks.a.router.routes.y.agent", change="changed", before="q", after="r"),
        Difference(place="tasks.a.router.routes", change="order", before=["x", "y"], after=["y", "x"]),
    ]


# Who else looks inside ------------------------------------------------------------------------------------------------


def test_a_plan_needs_the_agents_and_capabilities_inside() -> None:
    plan = Plan(sequential("reader", loop(router({"a": "critic", "b": any_agent("review")}), until="true")))
    assert plan.agents == {"reader", "loop", "router", "critic"}
    assert (plan.wanted, plan.needs) == ({"review"}, {})


def test_a_variant_changes_agents_inside_of_tasks_too() -> None:
    workflow = sequential("reader", loop(router({"a": "critic", "b": "reader"}), until="true"), nested("critic | x"))
    varied = changed(workflow, Changes(model="openai:y"), of_agent="critic")
    models = {place: task.model for place, task in everything(varied) if task.model}
    assert models == {
        "tasks.loop.loop.do.router.routes.a": "openai:y",
        "tasks.workflow.workflow.tasks.critic": "openai:y",
    }
    other = changed(workflow, Changes(agent="judge", task="workflow"), of_agent="critic")
    assert [each.agent for _, each in everything(other)][-2:] == ["judge", "x"]
    with pytest.raises(
        UsageError, match=r"for critic and reader alike: the task has several agents, change `model` alone"
    ):
        changed(workflow, Changes(agent="judge", task="loop"))


def test_a_task_made_of_others_is_stored_and_read_as_it_was() -> None:
    workflow = read(SHOWN)
    again = WorkflowDefinition.model_validate_json(workflow.canonical)
    assert (again, again.digest) == (workflow, workflow.digest)


@pytest.mark.parametrize("seed", range(40))
def test_every_place_inside_of_a_file_has_its_line(seed: int, tmp_path: Path) -> None:
    """Each agent of a random workflow is misspelled, one after the other, and found where the file has it."""
    chance = random.Random(seed)
    made = WorkflowDefinition(tasks=tuple(nest(chance, number) for number in range(2)))
    agents = [task.agent for _, task in everything(made) if task.agent not in KINDS]
    text = as_yaml(made)
    path = file(tmp_path, "w.yaml", text)
    for agent in agents:
        with pytest.raises(UnknownAgent) as caught:
            load_workflow(path, Known([each for each in agents if each != agent]))
        line = caught.value.message.removeprefix(f"{path}:").partition(":")[0]
        assert agent in text.splitlines()[int(line) - 1]


def nest(chance: random.Random, number: int, depth: int = 0) -> TaskDefinition:
    """A task of any kind, each agent with a name that nothing else has."""

    def inner() -> TaskDefinition:
        return nest(chance, chance.randrange(10**6), depth + 1)

    name = f"x{number}_{chance.randrange(10**9)}"
    make: list[Any] = [
        lambda: TaskDefinition(id=f"t{number}", agent=name),
        lambda: loop(inner(), until="true", id=f"t{number}"),
        lambda: map_over(None, inner(), id=f"t{number}"),
        lambda: router({"p": inner(), "q": inner()}, by=inner(), otherwise=inner(), id=f"t{number}"),
        lambda: nested(
            WorkflowDefinition(tasks=(inner(), TaskDefinition(id="end", agent=f"{name}_e"))), id=f"t{number}"
        ),
        lambda: leader_follower(inner(), {"p": inner()}, id=f"t{number}"),
        lambda: consensus({"p": inner(), "q": inner()}, decides=inner(), id=f"t{number}"),
        lambda: handoff({"p": inner()}, id=f"t{number}"),
    ]
    return chance.choice(make if depth < 3 else make[:1])()
