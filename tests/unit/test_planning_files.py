import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from counting import lines_run

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import UsageError, WorkflowInvalid
from orchestrator.planning.builders import adaptive, sequential
from orchestrator.planning.files import load_workflow, resolve_workflow, workflow_from_data
from orchestrator.planning.graph import MAX_PROBLEMS

PRESS_REVIEW = """\
name: press-review
tasks:
  reader:     {agent: reader}
  summarizer: {agent: summarizer, after: [reader], timeouts: {hard: 60}}
  critic:     {agent: critic, after: [reader], on_error: continue, retry: {retries: 5, first_delay: 2}}
  editor:     {agent: editor, after: [summarizer, critic], input: {text: "${summarizer.text}", notes: "${critic.text}"}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str | bytes, name: str = "press.yaml") -> WorkflowDefinition:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_workflow(name)


def problems_of(text: str | bytes, name: str = "press.yaml") -> list[str]:
    with pytest.raises(WorkflowInvalid) as caught:
        load(text, name)
    assert str(caught.value).startswith(f"{name}: ")
    return caught.value.problems


def first_lines(problems: list[str]) -> list[str]:
    return [problem.split("\n")[0] for problem in problems]


def test_a_file_gives_the_workflow_that_it_says(here: Path) -> None:
    workflow = load(PRESS_REVIEW)
    assert workflow.name == "press-review"
    assert list(workflow.by_id) == ["reader", "summarizer", "critic", "editor"]
    assert workflow.by_id["critic"] == TaskDefinition.model_validate(
        {
            "id": "critic",
            "agent": "critic",
            "after": ["reader"],
            "on_error": "continue",
            "retry": {"retries": 5, "first_delay": 2},
        }
    )
    assert workflow.by_id["editor"].input == {"text": "${summarizer.text}", "notes": "${critic.text}"}


def test_what_needs_no_saying_may_be_left_out(here: Path) -> None:
    text = "tasks: {reader: , editor: {after: reader, retry: , on_error: {fallback: writer}}}"
    expected = {
        "reader": {"agent": "reader"},
        "editor": {"agent": "editor", "after": ["reader"], "on_error": {"fallback": "writer"}},
    }
    assert load(text) == workflow_from_data({"tasks": expected}, "data")


def test_tasks_can_be_a_list(here: Path) -> None:
    assert load("tasks:\n- id: reader\n- {id: last, agent: editor, after: [reader]}").digest == (
        sequential("reader", "last=editor").digest
    )


def test_a_definition_as_json_can_be_loaded_again(here: Path) -> None:
    workflow = load(PRESS_REVIEW)
    for name in ("again.json", "again.yaml"):
        assert load(workflow.model_dump_json(indent=2), name) == workflow


def test_json_is_read_as_json(here: Path) -> None:
    value = {"emoji": "😀", "escaped": "\\ud83d \\\\u", "slash": "a/b", "tab": "\t", "many": 1e30, "nothing": None}
    text = json.dumps({"tasks": {"a": {"input": value}}}, indent="\t").replace("a/b", "a\\/b")
    assert load(text, "press.json").tasks[0].input == value


def test_plain_values_are_those_of_yaml_1_2(here: Path) -> None:
    text = "tasks: {a: {input: {no: off, date: 2024-01-01, time: 12:30, o: 010, f: 1.5e3, t: true, n: ~, i: .inf}}}"
    assert load(text).tasks[0].input == {
        "no": "off",
        "date": "2024-01-01",
        "time": "12:30",
        "o": 10,
        "f": 1500.0,
        "t": True,
        "n": None,
        "i": ".inf",
    }


def test_a_byte_order_mark_and_foreign_line_ends_do_not_matter(here: Path) -> None:
    assert load(b"\xef\xbb\xbf" + PRESS_REVIEW.replace("\n", "\r\n").encode()) == load(PRESS_REVIEW)


def test_else_is_what_is_left_when_no_other_condition_holds(here: Path) -> None:
    text = """
tasks:
  chooser:
  billing: {agent: a, after: [chooser], when: chooser.choice == "billing"}
  support: {agent: b, after: [chooser], when: chooser.choice == "support"}
  other: {agent: c, after: [chooser], when: else}
  unrelated: {after: [billing], when: billing.ok}
"""
    built = adaptive("chooser", {"billing": "billing=a", "support": "support=b"}, otherwise="other=c")
    loaded = load(text)
    assert loaded.tasks[:4] == built.tasks
    assert loaded.by_id["other"].when == '!(chooser.choice == "billing") && !(chooser.choice == "support")'


def test_else_looks_at_tasks_that_wait_for_the_same_in_any_order(here: Path) -> None:
    text = "tasks: {a: , b: , c: {after: [a, b], when: a.x}, d: {after: [b, a], when: else}}"
    assert load(text).by_id["d"].when == "!(a.x)"


def test_else_without_another_condition_is_a_problem(here: Path) -> None:
    assert first_lines(problems_of("tasks:\n  a:\n  b: {after: [a], when: else}\n")) == [
        (
            "press.yaml:3:19: tasks.b.when: there is no other task with a condition after the same tasks: "
            "nothing to be the `else` of"
        )
    ]


def test_every_problem_is_told_with_file_line_and_column(here: Path) -> None:
    text = """\
taks: 1
name: ''
tasks:
  Reader: {}
  summarizer: {agnet: x, after: 5, timeouts: {hard: -1, sfot: 3}}
  critic: {on_error: contine, retry: {retrys: 5, first_delay: soon}, when: 3, input: [1]}
  slow: {timeouts: {soft: 5, hard: 2}}
  editor: reader
  editor: {id: x}
  2: {}
  last: {zebra: 1}
"""
    assert first_lines(problems_of(text)) == [
        "press.yaml:9:3: the key 'editor' is there twice: remove one",
        "press.yaml:10:3: a key is text: put it in quotes",
        "press.yaml:1:1: taks: unknown key 'taks', did you mean 'tasks'?",
        (
            "press.yaml:4:3: tasks.Reader: 'Reader' is no name: a name has lower-case letters, digits and _, "
            "begins with a letter, and is at most 63 long"
        ),
        "press.yaml:5:26: tasks.summarizer.after: expected a list of ids, found 5",
        "press.yaml:5:47: tasks.summarizer.timeouts.hard: input should be greater than 0 seconds, found -1",
        "press.yaml:5:57: tasks.summarizer.timeouts.sfot: unknown key 'sfot', did you mean 'soft'?",
        "press.yaml:5:16: tasks.summarizer.agnet: unknown key 'agnet', did you mean 'agent'?",
        "press.yaml:6:79: tasks.critic.input: input should be a valid dictionary, found a list",
        "press.yaml:6:70: tasks.critic.when: input should be a valid string, found 3",
        (
            "press.yaml:6:50: tasks.critic.retry.first_delay: input should be a valid timedelta, invalid digit in "
            "duration, found 'soon'"
        ),
        "press.yaml:6:39: tasks.critic.retry.retrys: unknown key 'retrys', did you mean 'retries'?",
        "press.yaml:6:12: tasks.critic.on_error: expected fail, continue, or {fallback: another_agent}",
        "press.yaml:7:10: tasks.slow.timeouts: soft (0:00:05) must be shorter than hard (0:00:02)",
        "press.yaml:9:3: tasks.editor: the id of a task is its key: remove this one",
        (
            "press.yaml:10:3: tasks.2: '2' is no name: a name has lower-case letters, digits and _, "
            "begins with a letter, and is at most 63 long"
        ),
        (
            "press.yaml:11:10: tasks.last.zebra: unknown key 'zebra', the keys are id, agent, after, input, when, "
            "retry, timeouts, on_error, function, celery, compensate, model, system, capability, tool, condition, branch, "
            "workflow, loop, map, router, leader_follower, consensus, handoff"
        ),
        "press.yaml:2:1: name: string should have at least 1 character, found ''",
    ]


def test_a_problem_shows_its_line_with_a_caret(here: Path) -> None:
    (problem,) = problems_of("tasks:\n  reader: {agnet: x}\n")
    assert problem.split("\n")[1:] == ["        reader: {agnet: x}", "                 ^"]


def test_problems_of_the_graph_have_lines_too(here: Path) -> None:
    text = """\
tasks:
  reader:
  editor: {after: raeder, input: {text: "${reader.text}"}, when: "a = 1"}
  all: {agent: x, after: [other]}
  other: {after: [all]}
"""
    assert first_lines(problems_of(text)) == [
        "press.yaml:4:3: tasks.all: this id is reserved, give the task another one",
        "press.yaml:3:12: tasks.editor.after: there is no task 'raeder', did you mean 'reader'?",
        (
            "press.yaml:3:27: tasks.editor.input: ${reader.text} is the output of a task that this one does not wait "
            "for: add 'reader' to after"
        ),
        "press.yaml:3:60: tasks.editor.when: `a = 1` is no condition: column 3: unexpected '= ' - write `==` for `=`",
        "press.yaml:4:19: tasks.all.after: these tasks wait for each other: all -> other -> all",
    ]


def test_problems_in_a_list_have_lines_too(here: Path) -> None:
    assert first_lines(problems_of("tasks:\n- id: a\n- id: b\n  after: [c]\n")) == [
        "press.yaml:4:3: tasks.b.after: there is no task 'c'"
    ]
    assert first_lines(problems_of("tasks:\n- agent: a\n- {id: b, aftr: 1}\n- 5\n")) == [
        "press.yaml:2:3: tasks[0]: expected the task's fields, such as {agent: reader, after: [other]}, and its id",
        "press.yaml:3:11: tasks[1].aftr: unknown key 'aftr', did you mean 'after'?",
        "press.yaml:4:3: tasks[2]: expected the task's fields, such as {agent: reader, after: [other]}, and its id",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tasks: {a: [1, 2", "press.yaml:1:12: no YAML: did not find expected ',' or ']'"),
        ("tasks:\n  a: 'x\n", "press.yaml:2:6: no YAML: found unexpected end of stream"),
        ("tasks:\n\ta: {}", "press.yaml:2:1: no YAML: found character that cannot start any token"),
        ("tasks:\n\ta: {}", "indent with spaces, not tabs"),
        ("a: b: c", "press.yaml:1:5: no YAML: mapping values are not allowed"),
        ("a: *b", "no YAML: found undefined alias"),
        ("--- {}\n--- {}", "press.yaml:2:1: no YAML"),
        ("a: x\x01", "press.yaml:1:5: no YAML: control characters are not allowed"),
        (
            "a: !!python/object:os.system ls",
            "press.yaml:1:4: the tag 'tag:yaml.org,2002:python/object:os.system' means",
        ),
        ("a: !mine 1", "press.yaml:1:4: the tag '!mine' means nothing here"),
        ("a: !!int one", "press.yaml:1:4: 'one' is no int"),
        ("a: !!float 1e999", "press.yaml:1:4: '1e999' is no float"),
        ("", "press.yaml:1:1: it is empty: write for example `tasks:"),
        ("# nothing\n", "press.yaml:1:1: it is empty: write for example `tasks:"),
        ("{}", "press.yaml:1:1: it is empty"),
        ("[reader, editor]", "press.yaml:1:1: it is a list, but a workflow has the keys name and tasks"),
        ("reader | editor", "press.yaml:1:1: it is 'reader | editor', but a workflow has the keys name and tasks"),
        ("name: x", "press.yaml:1:1: tasks: expected tasks by their id, found nothing"),
        ("tasks: 5", "press.yaml:1:1: tasks: expected tasks by their id, found 5"),
        ("tasks: {}", "press.yaml:1:1: tasks: there are none"),
        ("schema_version: 2\ntasks: {a: }", "press.yaml:1:1: schema_version: input should be 1, found 2"),
        ("tasks: {a: {id: b}}", "press.yaml:1:9: tasks.a: the id of a task is its key: remove this one"),
        ("? [a]\n: b", "press.yaml:1:3: a key is text"),
    ],
)
def test_what_is_no_workflow_is_told_with_its_place(here: Path, text: str, problem: str) -> None:
    assert any(problem in found for found in problems_of(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"tasks": {\n  "a": {"agent": "x",}}}', "press.json:2:"),
        ("tasks: {a: }", "press.json:1:1: no JSON: Expecting value"),
        ('{"tasks": {"a": {}, "a": {}}}', "press.json:1:21: the key 'a' is there twice"),
        ('{"tasks": {\n\t"a": {"agnet": 1}}}', "press.json:2:8: tasks.a.agnet: unknown key 'agnet'"),
        (" \n", "press.json:1:1: it is empty"),
        ("[" * 100_000, "nested more than 100 levels deep"),
    ],
)
def test_problems_in_json_have_places_too(here: Path, text: str, problem: str) -> None:
    assert any(problem in found for found in problems_of(text, "press.json"))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "tasks: " + "[" * 50_000 + "]" * 50_000,
        "{a: " * 5_000,
        "".join(f"{' ' * depth}a:\n" for depth in range(2000)),
        "tasks: {a: {input: &x {y: *x}}}",
        "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    ],
)
def test_a_hostile_file_is_a_clear_error(here: Path, text: str) -> None:
    (problem,) = problems_of(text)
    assert "nested more than 100 levels deep" in problem or "aliases repeat" in problem


def test_a_file_that_cannot_be_read_says_what_to_do(here: Path) -> None:
    Path("folder.yaml").mkdir()
    Path("latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    expected = {
        "gone.yaml": f"workflow 'gone.yaml': there is no such file in {here}: correct the path",
        "folder.yaml": "workflow 'folder.yaml': it is a folder: name the file in it",
        "latin.yaml": "workflow 'latin.yaml': it is not UTF-8 (byte 9): save it as UTF-8",
        "/dev/zero": "workflow '/dev/zero': it has more than 33,554,432 bytes",
    }
    for name, message in expected.items():
        with pytest.raises(UsageError) as caught:
            load_workflow(name)
        assert str(caught.value).startswith(message)


def test_data_has_problems_by_place(here: Path) -> None:
    data: Any = {"tasks": {"a": {"afte": 1}, 3: {}, "b": 5}}
    with pytest.raises(WorkflowInvalid) as caught:
        workflow_from_data(data, "request body")
    assert str(caught.value).startswith("request body: 3 problems")
    assert caught.value.problems == [
        "tasks.a.afte: unknown key 'afte', did you mean 'after'?",
        "tasks[3]: input should be a valid string, found 3",
        "tasks.b: expected the task's fields, such as {agent: reader, after: [other]}",
    ]
    with pytest.raises(WorkflowInvalid) as caught:
        workflow_from_data({"tasks": {"a": {"after": "b"}}}, "request body")
    assert caught.value.problems == ["tasks.a.after: there is no task 'b'"]


def test_whatever_names_a_workflow_is_resolved(here: Path) -> None:
    workflow = load(PRESS_REVIEW)
    Path("plain").write_text(PRESS_REVIEW)
    assert resolve_workflow("press.yaml") == workflow
    assert resolve_workflow(Path("press.yaml")) == workflow
    assert resolve_workflow(str(here / "press.yaml")) == workflow
    assert resolve_workflow("plain") == workflow
    assert resolve_workflow(workflow) is workflow
    assert resolve_workflow(workflow.tasks[0]).tasks == workflow.tasks[:1]
    assert resolve_workflow("reader | editor") == sequential("reader", "editor")
    assert resolve_workflow("reader") == sequential("reader")


@pytest.mark.parametrize("path", ["gone.yaml", "gone.yml", "gone.json", "flows/gone", "./gone"])
def test_a_path_to_nothing_names_itself_and_the_folder(here: Path, path: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_workflow(path)
    assert path in str(caught.value)
    assert str(here) in str(caught.value)


@pytest.mark.parametrize("text", ["", "a" * 5000, "a\x00b", "a |"])
def test_what_is_no_path_is_read_as_an_expression(here: Path, text: str) -> None:
    with pytest.raises(WorkflowInvalid, match="workflow expression"):
        resolve_workflow(text)


@pytest.mark.parametrize("field", ["agent", "agnt"])
def test_a_file_is_read_in_proportion_to_its_tasks(here: Path, field: str) -> None:
    def read(count: int) -> None:
        lines = (f"  t{index}: {{{field}: reader, after: [t{index - 1}]}}\n" for index in range(1, count))
        text = "tasks:\n  t0: {agent: reader}\n" + "".join(lines)
        if field == "agent":
            assert len(load(text).tasks) == count
        else:
            assert len(problems_of(text)) == MAX_PROBLEMS + 1

    small, large = (lines_run(partial(read, count)) for count in (200, 1000))
    assert large < 8 * small
