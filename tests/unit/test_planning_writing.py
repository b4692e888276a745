"""A workflow that is written as a file is the same workflow when it is read again, and differences are what was changed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator.contracts.kinds import KINDS
from orchestrator.contracts.stored import Difference
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.planning.builders import sequential
from orchestrator.planning.difference import differences
from orchestrator.planning.files import load_workflow, workflow_from_data
from orchestrator.planning.steps import NAMES, ONE, SEVERAL
from orchestrator.planning.writing import as_data, as_yaml
from orchestrator.schemas import schema_of

#: Text that YAML 1.1, YAML 1.2 or a careless writer takes for something else.
ODD = (
    *(
        "yes",
        "no",
        "on",
        "null",
        "~",
        "",
        " ",
        "1e3",
        "1.5e3",
        "012",
        "0x1f",
        "12:30",
        "2024-01-01",
        "-",
        "- a",
        "a: b",
    ),
    *(
        "# no comment",
        "a # b",
        "${input.z}",
        "{a}",
        "[a]",
        "&a",
        "*a",
        "!a",
        "%a",
        "@a",
        "`a`",
        "'",
        '"',
        "a\nb",
        "a\n",
        "\n",
    ),
    *(
        "a\n\n  b ",
        "\ta",
        "a\tb",
        "é 漢 🙂",
        "\x85",
        "\u2028",
        "true",
        "True",
        "NaN",
        ".inf",
        "=",
        "<<",
        "a\\nb",
        "x" * 300,
    ),
)


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(9 if depth < 3 else 6)
    match kind:
        case 0 | 1 | 2:
            return chance.choice(ODD)
        case 3:
            return chance.choice((0, -7, 10**20, True, False, None))
        case 4:
            return chance.choice((0.5, 1.0, -1e-9, 1e300, 3.14))
        case 5:
            return chance.choice(("plain", "words of a text"))
        case 6:
            return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice((*ODD, "a", "b")): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def task(chance: random.Random, number: int, depth: int = 0) -> TaskDefinition:
    fields: dict[str, Any] = {
        "id": f"t{number}",
        "after": [f"t{index}" for index in range(number) if chance.random() < 0.3],
    }
    kind = chance.choice(("agent", "itself", *KINDS) if depth < 3 else ("agent", "itself", "tool", "condition"))
    fields |= said(chance, kind, number, depth)
    if kind != "condition":
        more: dict[str, Any] = {
            "input": {"x": value(chance), "y": "${input.z}"},
            "retry": {"retries": chance.randrange(9), "first_delay": chance.choice((1, 0.5))},
            "timeouts": {"hard": 60},
            "on_error": chance.choice(("continue", {"fallback": "critic"})),
            "compensate": chance.choice(
                ({"agent": "undo"}, {"function": "a:b", "partial": True}, {"tool": {"name": "x"}})
            ),
            "when": "input.y",
        }
        lacks = KINDS[kind].lacks if kind in KINDS else frozenset[str]()
        unsaid = {"compensate"} if depth else set[str]()
        fields |= {key: each for key, each in more.items() if key not in {*lacks, *unsaid} and chance.random() < 0.4}
        if kind == "map" and chance.random() < 0.4:
            fields["map"]["over"] = "${input.z}"
    return TaskDefinition.model_validate(fields)


def said(chance: random.Random, kind: str, number: int, depth: int) -> dict[str, Any]:
    """What makes a task one of its kind."""
    plain: dict[str, dict[str, Any]] = {
        "agent": {"agent": "critic", "model": "openai:x"},
        "itself": {"agent": f"t{number}"},
        "function": {"function": "a.b:c"},
        "celery": {"celery": chance.choice(({"task": "a.b"}, {"task": "a.b", "queue": "q", "timeout": 2.5}))},
        "tool": {"tool": chance.choice(({"name": "a.b"}, {"name": "files", "options": {"root": value(chance, 3)}}))},
        "condition": {"condition": {f"z{number}": "input.a > 1", f"b{number}": "input.b", f"a{number}": "else"}},
    }
    if kind in plain:
        return plain[kind]
    return {kind: nested(chance, depth + 1) if kind == "workflow" else composite(chance, kind, depth + 1)}


def composite(chance: random.Random, kind: str, depth: int) -> dict[str, Any]:
    one = {name: step(chance, f"{kind}.{name}", depth) for name in ONE[kind]}
    names = chance.sample(("z", "a", "m", "critic", "step"), chance.randrange(1, 4))
    several = {
        name: chance.choice((names, {each: step(chance, f"{kind}.{name}", depth) for each in names}))
        for name in SEVERAL.get(kind, ())
    }
    own: dict[str, dict[str, Any]] = {
        "loop": {"until": "output.x > 1", "max_iterations": chance.choice((1, 10))},
        "map": {"max_concurrency": chance.choice((None, 4))},
        "router": {"choice": "a.b"},
        "leader_follower": {"max_rounds": 7},
        "consensus": {"rule": chance.choice(("majority", {"at_least": 0.5}, {"at_least": 1})), "answer": "a"},
        "handoff": {"first": names[0], "unmet": "last"},
    }
    return {**one, **several, **own[kind]}


def step(chance: random.Random, place: str, depth: int) -> Any:
    if chance.random() < 0.4:
        return chance.choice(("critic", "step", "z"))
    kind = chance.choice(
        [each for each in ("agent", *KINDS) if each != "condition"] if depth < 3 else ["agent", "tool"]
    )
    made = said(chance, kind, 0, depth)
    names = NAMES.get(place, NAMES.get(place.partition(".")[0], ()))
    if names and chance.random() < 0.4:
        made["input"] = {"x": value(chance), "y": f"${{{names[-1]}}}"}
    if chance.random() < 0.4:
        made["retry"] = {"retries": 1}
    return made


def nested(chance: random.Random, depth: int) -> WorkflowDefinition:
    tasks = tuple(task(chance, number, depth) for number in range(chance.randrange(1, 3)))
    return belonging(
        WorkflowDefinition(
            name=chance.choice(("inner", "workflow")), tasks=tasks, output=chance.choice((None, "${t0}"))
        )
    )


def belonging(made: WorkflowDefinition) -> WorkflowDefinition:
    """The workflow whose tasks say which branches of conditions they belong to."""
    decisions = {each.id: each.condition for each in made.tasks if each.condition is not None}

    def belong(each: TaskDefinition) -> TaskDefinition:
        branches = [branch.name for key in each.after if key in decisions for branch in decisions[key][:2]]
        return each.model_copy(update={"branch": tuple(branches)})

    return made.with_tasks(map(belong, made.tasks))


def workflow(seed: int) -> WorkflowDefinition:
    chance = random.Random(seed)
    made = WorkflowDefinition(
        name=chance.choice([each for each in ODD if 0 < len(each) < 200]),
        tasks=tuple(task(chance, number) for number in range(chance.randrange(1, 8))),
        deadline=chance.choice((None, 90, 0.25)),  # pyright: ignore[reportArgumentType] - as a file says it
        inputs=chance.choice((None, {"z": "str?", "y": {"type": "integer", "default": 3}})),  # pyright: ignore[reportArgumentType]
        output=chance.choice((None, "${t0}", {"a": "${t0.b}", "c": value(chance)})),
    )
    return belonging(made)


@pytest.mark.parametrize("seed", range(150))
def test_what_is_written_is_read_as_the_same_workflow(seed: int, tmp_path: Path) -> None:
    made = workflow(seed)
    text = as_yaml(made)
    assert yaml.safe_load(text) == as_data(made), "tools that know YAML 1.1 alone read the same"
    path = tmp_path / "w.yaml"
    path.write_text(text)
    again = load_workflow(path)
    assert again.digest == made.digest, text
    assert not differences(made, again)
    as_json = tmp_path / "w.json"
    as_json.write_text(json.dumps(as_data(made)))
    assert load_workflow(as_json).digest == made.digest


@pytest.mark.parametrize("seed", range(40))
def test_the_schema_for_editors_takes_what_is_written(seed: int) -> None:
    assert faults_of(as_data(workflow(seed))) == []


def faults_of(data: Any) -> list[str]:
    found = Draft202012Validator(schema_of("workflow-file")).iter_errors(data)
    return [f"{fault.json_path}: {fault.message[:100]}" for fault in found]


def test_the_schema_for_editors_takes_every_short_form() -> None:
    data: dict[str, Any] = {
        "name": "short",
        "inputs": {"text": "str", "tags": ["str"], "n": {"type": "integer", "default": 1}},
        "defaults": {"retry": {"retries": 1}, "timeouts": {"hard": 60}, "on_error": "continue"},
        "tasks": {
            "reader": None,
            "critic": {"after": "reader", "compensate": "undo"},
            "c": {"condition": {"good": "critic.x", "poor": "else"}, "after": ["critic"]},
            "d": {"condition": "critic.x", "after": "critic"},
            "t": {"tool": "calculator.calculate", "after": "c", "branch": "good", "input": {"expression": "1"}},
            "u": {"celery": "a.b", "after": ["c", "d"], "branch": ["good", "then"]},
            "v": {"workflow": "reader | critic"},
            "w": {"workflow": {"tasks": {"reader": None, "critic": {"after": "reader"}}, "output": "${critic}"}},
            "x": {"loop": {"do": "reader | critic", "until": "output.x"}},
            "y": {"map": {"do": {"tool": "calculator.calculate"}, "over": "${u.items}"}, "after": "u"},
            "z": {"router": {"routes": {"reader": None, "b": "critic", "c": {"loop": {"do": "a", "until": "true"}}}}},
            "l": {"leader_follower": {"leader": "a", "followers": ["b", {"name": "c", "do": "b"}, {"name": "d"}]}},
            "k": {"consensus": {"members": {"a": {"retry": {"retries": 1}}}, "rule": {"at_least": 1}}},
        },
        "output": "${t}",
    }
    workflow_from_data(data, "data")
    assert faults_of(data) == []
    assert faults_of({"tasks": [{"id": "a", "agent": "b"}]}) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tasks": {}},
        {"tasks": {"Reader": {}}},
        {"tasks": {"reader": {"agnt": "x"}}},
        {"tasks": {"reader": {"id": "reader"}}},
        {"tasks": [{"agent": "b"}]},
        {"tasks": {"a": {}}, "defaults": {"retries": 1}},
        {"tasks": {"a": {}}, "inputs": {"a b": "str"}},
        {"tasks": {"a": {}}, "inptus": {}},
        {"tasks": {"a": {"tool": {"nmae": "x"}}}},
        {"tasks": {"a": {"loop": {"until": "x"}}}},
        {"tasks": {"a": {"loop": {"do": {"agent": "x", "after": "b"}, "until": "x"}}}},
        {"tasks": {"a": {"router": {"routes": {"A b": "x"}}}}},
        {"tasks": {"a": {"router": {"routes": {"b": {"agnt": "x"}}}}}},
        {"tasks": {"a": {"handoff": {"agents": []}}}},
        {"tasks": {"a": {"workflow": {"taks": {}}}}},
    ],
)
def test_the_schema_for_editors_marks_what_a_check_refuses(data: Any) -> None:
    assert faults_of(data)


def test_what_is_written_is_short() -> None:
    assert as_yaml(sequential("reader", "critic", name="short")) == (
        "name: short\ntasks:\n  reader: {}\n  critic:\n    after: [reader]\n"
    )


# Differences ----------------------------------------------------------------------------------------------------------


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    return list(differences(workflow_from_data(before, "before"), workflow_from_data(after, "after")))


def test_equal_workflows_do_not_differ_however_they_are_written() -> None:
    one = {"tasks": {"a": {"agent": "a", "retry": {"retries": 3}}}}
    assert changed(one, {"name": "workflow", "tasks": [{"id": "a"}]}) == []
    assert (
        changed(
            {"tasks": {"a": {"retry": {"retries": 1}}}}, {"defaults": {"retry": {"retries": 1}}, "tasks": {"a": {}}}
        )
        == []
    )


def test_differences_are_told_by_tasks_and_fields() -> None:
    before = {
        "deadline": 60,
        "tasks": {"a": {}, "b": {"after": "a", "input": {"x": "${a.x}", "y": 1}}, "c": {"after": "a", "when": "a.ok"}},
    }
    after = {
        "tasks": {
            "a": {},
            "b": {"after": ["a", "d"], "input": {"x": "${a.z}", "y": True}},
            "d": {"retry": {"retries": 5}},
        },
        "output": "${b}",
    }
    assert changed(before, after) == [
        Difference(place="output", change="added", after="${b}"),
        Difference(place="deadline", change="removed", before=60),
        Difference(place="tasks.b.after", change="changed", before=["a"], after=["a", "d"]),
        Difference(place="tasks.b.input.x", change="changed", before="${a.x}", after="${a.z}"),
        Difference(place="tasks.b.input.y", change="changed", before=1, after=True),
        Difference(place="tasks.d", change="added", after={"retry": {"retries": 5}}),
        Difference(place="tasks.c", change="removed", before={"after": ["a"], "when": "a.ok"}),
    ]


def test_another_order_is_a_difference_of_tasks_and_of_branches_and_of_nothing_else() -> None:
    one = {"tasks": {"a": {}, "b": {}, "c": {"condition": {"x": "input.a", "y": "input.b"}}}}
    two = {"tasks": {"b": {}, "a": {}, "c": {"condition": {"y": "input.b", "x": "input.a"}}}}
    assert changed(one, two) == [
        Difference(place="tasks.c.condition", change="order", before=["x", "y"], after=["y", "x"]),
        Difference(place="tasks", change="order", before=["a", "b", "c"], after=["b", "a", "c"]),
    ]
    assert changed({"tasks": {"a": {"input": {"x": 1, "y": 2}}}}, {"tasks": {"a": {"input": {"y": 2, "x": 1}}}}) == []


@pytest.mark.parametrize("seed", range(40))
def test_workflows_differ_where_their_digests_do(seed: int) -> None:
    one, other = workflow(seed), workflow(seed + 1000)
    assert bool(differences(one, other)) == (one.digest != other.digest)
    assert not differences(one, WorkflowDefinition.model_validate_json(one.canonical))
