import re

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.planning.builders import adaptive, sequential
from orchestrator.planning.diagram import as_text
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.files import workflow_from_data
from orchestrator.planning.mermaid import as_mermaid

PRESS_REVIEW = workflow_from_data(
    {
        "name": "press-review",
        "tasks": {
            "reader": {},
            "summarizer": {"after": ["reader"], "timeouts": {"soft": 30, "hard": 60}},
            "critic": {"after": ["reader"], "on_error": "continue", "retry": {"retries": 5}},
            "last": {"agent": "editor", "after": ["summarizer", "critic"], "on_error": {"fallback": "writer"}},
        },
    },
    "test",
)


def test_the_text_shows_stages_and_what_is_special() -> None:
    assert as_text(PRESS_REVIEW).splitlines() == [
        "press-review: 4 tasks in 3 stages",
        "  1  reader",
        "  2  summarizer     after reader; soft timeout 30 s; hard timeout 60 s",
        "     critic         after reader; 5 retries from 2 s on; on error continue",
        "  3  last (editor)  after summarizer, critic; on error writer",
    ]


def test_the_text_shows_conditions() -> None:
    workflow = sequential(adaptive("chooser", {"a": "x", "b": "y"}), "join")
    assert as_text(workflow).splitlines() == [
        "workflow: 4 tasks in 3 stages",
        "  1  chooser",
        '  2  x        after chooser; when chooser.choice == "a"',
        '     y        after chooser; when chooser.choice == "b"',
        "  3  join     after x, y",
    ]


def test_one_task_is_in_the_singular() -> None:
    assert as_text(parse_expression("reader")).splitlines() == ["workflow: 1 task in 1 stage", "  1  reader"]


def test_a_task_stands_in_the_stage_after_its_longest_path() -> None:
    workflow = workflow_from_data({"tasks": {"c": {"after": ["a", "b"]}, "b": {"after": "a"}, "a": {}}}, "test")
    assert [line[:6] for line in as_text(workflow).splitlines()[1:]] == ["  1  a", "  2  b", "  3  c"]


def test_mermaid_has_nodes_arrows_and_conditions() -> None:
    workflow = sequential(adaptive("chooser", {"a": "x", "b": "end=writer"}), "join")
    assert as_mermaid(workflow).splitlines() == [
        "flowchart TD",
        '  task_chooser["chooser"]',
        '  task_x["x"]',
        '  task_end["end (writer)"]',
        '  task_join["join"]',
        '  task_chooser -->|"chooser.choice == #34;a#34;"| task_x',
        '  task_chooser -->|"chooser.choice == #34;b#34;"| task_end',
        "  task_x --> task_join",
        "  task_end --> task_join",
    ]


def test_the_condition_of_a_first_task_stands_in_its_node() -> None:
    workflow = WorkflowDefinition(tasks=(TaskDefinition(id="a", agent="a", when="input.n < 3"),))
    assert as_mermaid(workflow).splitlines()[1] == '  task_a["a<br/>when input.n #60; 3"]'


def test_hostile_text_cannot_leave_its_label_or_line() -> None:
    hostile = 'a.x == \'y"]; click x "javascript:z"\' ||\n`<b>` & %% # \x1b[31m\u2028'
    tasks = (TaskDefinition(id="a", agent="a"), TaskDefinition(id="b", agent="b", after=("a",), when=hostile))
    workflow = WorkflowDefinition(name="x\n\x1b[2J  y", tasks=tasks)
    arrow = as_mermaid(workflow).splitlines()[-1]
    label = re.fullmatch(r'  task_a -->\|"([^"]*)"\| task_b', arrow)
    assert label
    assert not set(label[1]) & set('"<>&`|%\x1b')
    assert len(as_text(workflow).splitlines()) == 3
    assert as_text(workflow).startswith("x [2J y: 2 tasks")
    assert "\x1b" not in as_text(workflow)
