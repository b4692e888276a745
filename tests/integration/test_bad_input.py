"""Models, servers and tools that are as bad as they can be, in a real worker: clear errors, nobody else is affected."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, fleet

from orchestrator.errors import UnknownAgent
from worker.emulator import Answer, Emulator, Match, ToolCall

AGENTS = Path(__file__).parents[1] / "rough_agents"
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}
ENDLESS = {"type": "object", "properties": {"word": {"pattern": "^(a+)+$"}}, "unevaluatedProperties": False}
TOOLS = [
    {"name": "die", "inputSchema": WORD},
    {"name": "lie", "inputSchema": ENDLESS, "outputSchema": ENDLESS},
    {"name": "odd", "inputSchema": {"type": "object", "properties": {"word": {"type": "no such type"}}}},
]
LIES = {"content": [], "structuredContent": {"word": "a" * 60 + "!"}}
DOCUMENT = """
openapi: 3.1.0
paths:
  /circle: {get: {operationId: circle, parameters: [{$ref: '#/components/parameters/a'}]}}
  /tree: {get: {operationId: tree, parameters: [{name: x, in: query, schema: {$ref: '#/components/schemas/n'}}]}}
components:
  parameters: {a: {$ref: '#/components/parameters/b'}, b: {$ref: '#/components/parameters/a'}}
  schemas: {n: {type: object, properties: {n: {$ref: '#/components/schemas/n'}}}}
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Fleet, Emulator]]:
    """Give one worker for all of these, and the model that its agents ask."""
    folder = tmp_path_factory.mktemp("rough")
    (folder / "server.json").write_text(json.dumps({"tools": TOOLS, "calls": {"die": "die", "lie": LIES}}))
    (folder / "document.yaml").write_text(DOCUMENT)
    with Emulator() as emulator, fleet(folder, agents_path=AGENTS) as made:
        made.environment |= emulator.env | {
            "NIGHTFLEET_TEST_SERVER": str(folder / "server.json"),
            "NIGHTFLEET_TEST_DOCUMENT": str(folder / "document.yaml"),
        }
        worker = made.start_worker()
        yield made, emulator
        assert worker.poll() is None, "the worker lives"


def wishes(emulator: Emulator, text: str, calls: Sequence[ToolCall]) -> None:
    """Let the model wish for calls when it is asked this, and be done when it has their results."""
    emulator.reply_to(Match(text=text, turn=0), [Answer(tool_calls=tuple(calls))], repeat=True)
    emulator.reply_to(Match(text=text, turn=1), [Answer(text="Done.")], repeat=True)


def result_of(made: Fleet, agent: str, text: str) -> Any:
    """Run an agent, and one that has nothing to do with it at the same time; gives what came of the first one."""
    run = made.orchestrator.submit(agent, {"text": text})
    other = made.orchestrator.submit("asker", {"text": "Say anything."})
    assert other.wait(timeout=60).output["said"].startswith("[emulator]")
    return run.wait(timeout=120)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (ToolCall(name="subtract", arguments={}), "there is no tool subtract; there are: add, hang, flood"),
        (ToolCall(name="add", arguments='{"first": '), "the arguments of add are no JSON"),
        (ToolCall(name="add", arguments="[" * 20_000), "the arguments of add are no JSON: it is nested too deep"),
        (ToolCall(name="add", arguments={"first": "x"}), "the arguments do not fit add: first: "),
        (ToolCall(name="hang", arguments={}), r"hang has taken longer than 0.5 s"),
    ],
    ids=["unknown", "broken", "deep", "unfit", "hanging"],
)
def test_a_call_that_comes_to_nothing_is_told_to_the_model(
    installation: tuple[Fleet, Emulator], call: ToolCall, told: str, request: pytest.FixtureRequest
) -> None:
    made, emulator = installation
    text = f"Call {request.node.callspec.id}."
    wishes(emulator, text, [call])
    result = result_of(made, "asker", text)
    assert result.output["said"] == "Done."
    assert told in result.output["told"][0]


@pytest.mark.parametrize("agent", ["asker", "async_asker"])
def test_a_thousand_calls_at_once_are_all_made_and_told_in_order(
    installation: tuple[Fleet, Emulator], agent: str
) -> None:
    made, emulator = installation
    text = f"Call {agent} a thousand times."
    wishes(emulator, text, [ToolCall(name="add", arguments={"first": n, "second": n}) for n in range(1000)])
    result = result_of(made, agent, text)
    assert result.output["results"] == 1000
    assert result.output["told"] == [str(2 * n) for n in range(10)]


def test_a_result_that_no_record_may_hold_fails_its_agent_alone(installation: tuple[Fleet, Emulator]) -> None:
    made, emulator = installation
    wishes(emulator, "Flood.", [ToolCall(name="flood", arguments={})])
    result = result_of(made, "asker", "Flood.")
    assert result.error.code == "value_too_large"
    assert "flood" in result.error.message


def test_a_server_that_dies_and_lies_is_told_to_the_model(installation: tuple[Fleet, Emulator]) -> None:
    made, emulator = installation
    calls = [
        ToolCall(name="raw_die", arguments={}),
        ToolCall(name="raw_odd", arguments={}),
    ]
    wishes(emulator, "Die.", calls)
    died, unknown = result_of(made, "shop_asker", "Die.").output["told"]
    assert "the server of MCP 'raw' has ended in the middle of it; whether it has done its work is not known" in died
    assert "there is no tool raw_odd" in unknown
    wishes(emulator, "Lie.", [ToolCall(name="raw_lie", arguments={"word": "a" * 60 + "!"})])
    assert "aaa!" in result_of(made, "shop_asker", "Lie.").output["told"][0]


def test_a_document_that_leads_to_itself_leaves_the_operations_that_can_be_called(
    installation: tuple[Fleet, Emulator],
) -> None:
    made, emulator = installation
    wishes(emulator, "Circle.", [ToolCall(name="odd_circle", arguments={}), ToolCall(name="odd_tree", arguments={})])
    circle, tree = result_of(made, "service_asker", "Circle.").output["told"]
    assert "there is no tool odd_circle" in circle
    assert "odd_tree: the server cannot be asked" in tree


def test_an_answer_that_cannot_be_repaired_ends_its_agent_with_what_is_wrong(
    installation: tuple[Fleet, Emulator],
) -> None:
    made, emulator = installation
    emulator.reply_to(Match(system="", text="Count|corrected"), [Answer(text='{"total": "many"}')], repeat=True)
    result = result_of(made, "counter", "Count.")
    assert result.error.code == "output_invalid"
    assert "total: Input should be a valid integer" in result.error.message


def test_a_tool_without_annotations_breaks_its_agent_alone_and_says_what_to_write(
    installation: tuple[Fleet, Emulator],
) -> None:
    made, _ = installation
    told = "tool 'guess': parameter 'number' has no annotation: say what it is (number: str)"
    assert told in (made.folder / "worker-0.log").read_text()
    with pytest.raises(UnknownAgent, match="untyped"):
        made.orchestrator.submit("untyped", {"text": "Guess."})
