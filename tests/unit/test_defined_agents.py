"""A file of YAML in a folder of agents is an agent as any other; a broken one is told with its line, and harms nobody."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from orchestrator.errors import (
    GuardRefused,
    InputInvalid,
    ModelCapabilityError,
    ModelUnavailable,
    OutputInvalid,
    UnknownAgent,
)
from worker.loader import AgentLoader, LoadedAgents
from worker.testing import MemoryManager, MockLLM, call, run_agent

RATER = """
    description: Rate a text.
    capabilities: [rate, judge]
    model: openai:gpt-5-mini
    fallback: anthropic:claude-haiku-4-5
    system: You rate texts from 0 to 1.
    prompt: "Rate this for {audience}: {text}"
    input: {text: str, audience: str?}
    output: {score: float, mood: good | bad, tags: [str], about: {title: str, year: int?}}
    tools: [calculator]
    permissions: {env: [RATER_NAME], usd: 0.5}
    limits: {model_calls: 5}
    timeouts: {soft: 10, hard: 60}
    max_iterations: 4
    repairs: 1
    overflow: truncate
    max_output_tokens: 500
"""
RATED = '{"score": 0.5, "mood": "good", "tags": ["a"], "about": {"title": "Ships"}}'


@pytest.fixture(autouse=True)
def _no_module_stays() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_nightfleet_agent_"):
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / "agents" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def load(folder: Path) -> LoadedAgents:
    return AgentLoader("./agents", base=folder).load()


def problem(folder: Path, text: str) -> str:
    """Give what is said of a file that cannot be used."""
    write(folder, "wrong.yaml", text)
    [found] = load(folder).problems
    assert found.agent == "wrong"
    assert found.origin == str(folder / "agents" / "wrong.yaml")
    return found.message


def run(folder: Path, agent: str, data: Any, model: MockLLM | None = None, **options: Any) -> Any:
    return run_agent(agent, data, model=model, agents_path=str(folder / "agents"), **options)


# What is made ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_file_is_an_agent_with_the_card_of_any_other(tmp_path: Path, suffix: str):
    file = write(tmp_path, f"rater.{suffix}", RATER)
    loaded = load(tmp_path)
    assert loaded.problems == ()
    card = loaded.get("rater").card
    assert (card.name, card.description, card.capabilities) == ("rater", "Rate a text.", ("rate", "judge"))
    assert (card.model, card.origin, card.tools) == ("openai:gpt-5-mini", str(file), ("calculate",))
    assert card.permissions.models == ("anthropic:claude-haiku-4-5", "openai:gpt-5-mini")
    assert card.permissions.env == ("RATER_NAME",)
    assert card.input_schema is not None
    assert card.input_schema["required"] == ["text"]
    assert card.output_schema is not None
    assert list(card.output_schema["properties"]) == ["score", "mood", "tags", "about"]
    assert loaded.get("rater").usd == Decimal("0.5")
    agent = loaded.get("rater").agent_class
    assert (agent.limits.model_calls, agent.timeouts.hard.total_seconds() if agent.timeouts.hard else 0) == (5, 60)


def test_everything_that_is_said_reaches_the_model(tmp_path: Path):
    write(tmp_path, "rater.yaml", RATER)
    model = MockLLM(RATED)
    rated = run(tmp_path, "rater", {"text": "Ships.", "audience": "children"}, model)
    assert (rated.score, rated.mood, rated.about.title, rated.about.year) == (0.5, "good", "Ships", None)
    [request] = model.calls
    assert [message.content for message in request.messages] == [
        "You rate texts from 0 to 1.",
        "Rate this for children: Ships.",
    ]
    assert request.fallbacks == ("anthropic:claude-haiku-4-5",)
    assert request.max_output_tokens == 500
    assert [tool.name for tool in request.tools] == ["calculate"]
    assert request.output_schema is not None
    assert request.output_schema["title"] == "RaterOutput"


def test_an_agent_that_says_nothing_of_its_shapes_takes_any_object_and_gives_text_and_model(tmp_path: Path):
    write(tmp_path, "plain.yaml", "system: Answer.\n")
    model = MockLLM("Hello.")
    said = run(tmp_path, "plain", {"a": [1, None], "b": "ü"}, model)
    assert (said.text, said.model) == ("Hello.", "mock:script")
    assert model.calls[0].messages[-1].content == '{"a": [1, null], "b": "ü"}'


def test_a_prompt_that_names_no_field_is_followed_by_the_input(tmp_path: Path):
    write(tmp_path, "plain.yaml", "prompt: Greet this person.\n")
    model = MockLLM("Hello.")
    run(tmp_path, "plain", {"name": "Ada"}, model)
    assert model.calls[0].messages[-1].content == 'Greet this person.\n\n{"name": "Ada"}'


def test_without_a_model_the_offline_one_answers_and_refuses_an_output(tmp_path: Path):
    write(tmp_path, "plain.yaml", "prompt: '{text}'\n")
    write(tmp_path, "rater.yaml", RATER)
    assert run(tmp_path, "plain", {"text": "Ships need harbours."}).model == "offline"
    with pytest.raises(ModelCapabilityError):
        run(tmp_path, "rater", {"text": "Ships."})


def test_a_name_that_is_said_is_the_name_and_one_of_python_with_the_same_is_a_clash(tmp_path: Path):
    write(tmp_path, "some-file.yaml", "name: rater\nprompt: '{text}'\n")
    assert load(tmp_path).get("rater").card.origin.endswith("some-file.yaml")
    write(
        tmp_path,
        "rater.py",
        """
        from worker.agent import BaseAgent
        class Rater(BaseAgent):
            def execute(self, data, ctx):
                return {}
        """,
    )
    [clash] = load(tmp_path).problems
    assert "two agents of one name" in clash.message


def test_one_that_ships_is_overridden(tmp_path: Path):
    file = write(tmp_path, "react.yaml", "prompt: '{text}'\n")
    assert load(tmp_path).get("react").card.origin == str(file)


def test_files_that_begin_with_an_underscore_or_a_dot_are_left_alone(tmp_path: Path):
    write(tmp_path, "_notes.yaml", "x: [")
    write(tmp_path, ".schema.yaml", "x: [")
    assert load(tmp_path).problems == ()


def test_a_change_is_a_new_version_and_the_same_content_is_not_made_again(tmp_path: Path):
    write(tmp_path, "plain.yaml", "prompt: one\n")
    first, again = load(tmp_path).get("plain"), load(tmp_path).get("plain")
    assert first.agent_class is again.agent_class
    write(tmp_path, "plain.yaml", "prompt: two\n")
    changed = load(tmp_path).get("plain")
    assert changed.card.digest != first.card.digest
    assert changed.agent_class is not first.agent_class


def test_a_tool_that_changes_is_a_new_version(tmp_path: Path):
    write(tmp_path, "plain.yaml", "tools: [high_water]\n")
    tides = "from worker.agent import tool\n@tool\ndef high_water() -> str:\n    return '{}'\n"
    write(tmp_path, "tools/tides.py", tides.format("06:12"))
    first = load(tmp_path).get("plain").card
    assert first.tools == ("high_water",)
    write(tmp_path, "tools/tides.py", tides.format("18:40"))
    assert load(tmp_path).get("plain").card.digest != first.digest


# Tools ----------------------------------------------------------------------------------------------------------------


def test_kits_have_their_options_and_imply_their_permissions(tmp_path: Path):
    write(
        tmp_path,
        "clerk.yaml",
        """
        prompt: "{text}"
        tools:
          - files: {root: ./notes, write: true}
          - http: {hosts: [example.com]}
          - search: {corpus: handbook, about: the handbook, name: handbook}
          - adapter: {name: crm}
          - server: {name: shop, stdio: {command: [python, shop.py], env: [SHOP_KEY]}}
        """,
    )
    card = load(tmp_path).get("clerk").card
    assert {"files_read", "files_write", "http_get", "handbook", "adapter:crm", "mcp:shop"} <= set(card.tools)
    assert card.permissions.writable == ("./notes",)
    assert card.permissions.network == ("example.com",)
    assert card.permissions.env == ("SHOP_KEY",)


def test_tools_are_called(tmp_path: Path):
    write(tmp_path, "plain.yaml", "prompt: '{text}'\ntools: [calculator]\n")
    model = MockLLM(call("calculate", expression="6 * 7"), "42")
    assert run(tmp_path, "plain", {"text": "6 * 7?"}, model).text == "42"
    assert [message.text for message in model.calls[1].messages if message.role == "tool"] == ["42"]


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("[calculater]", "wrong.yaml:1:9: tools[0]: there is no tool 'calculater', did you mean 'calculator'?"),
        ("[calculator, {files: {rot: x}}]", "wrong.yaml:1:21: tools[1]: tool 'files' (ships): "),
        ("[5]", "tools[0]: expected the name of a tool, or one with options such as {files: {root: ./notes}}, found 5"),
        ("[{files: {root: a}, http: {}}]", "write one name with its options"),
        ("[{server: {name: shop}}]", "an adapter is one of openapi, stdio and http"),
        ("[{server: {stdio: {command: [x]}}}]", "name: Field required"),
        ("calculator", "tools: input should be a valid tuple, found 'calculator'"),
        ("[calculator, calculator]", "two tools are named 'calculate'"),
    ],
)
def test_a_tool_that_there_is_not_is_told_with_its_place(tmp_path: Path, tools: str, said: str):
    assert said in problem(tmp_path, f"tools: {tools}\n")


def test_guards_are_named_with_their_options(tmp_path: Path):
    write(tmp_path, "plain.yaml", "prompt: '{text}'\nguards: [{length: {most: 9}}, injection]\n")
    assert load(tmp_path).get("plain").card.guards == ("length", "injection")
    assert run(tmp_path, "plain", {"text": "Ahoy."}, MockLLM("Ahoy!")).text == "Ahoy!"
    with pytest.raises(GuardRefused, match="at most 9 may pass"):
        run(tmp_path, "plain", {"text": "Ahoy, ahoy!"}, MockLLM())


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        ("[injectoin]", "wrong.yaml:1:10: guards[0]: there is no guard 'injectoin', did you mean 'injection'?"),
        ("[{length: {least: 9}}]", "wrong.yaml:1:10: guards[0]: length: "),
        ("[{length: {most: 9}, pii: {}}]", "write one name with its options"),
    ],
)
def test_a_guard_that_there_is_not_is_told_with_its_place(tmp_path: Path, guards: str, said: str):
    assert said in problem(tmp_path, f"guards: {guards}\n")


# Memory ---------------------------------------------------------------------------------------------------------------

TALKER = """
    prompt: "{text}"
    input: {text: str, guest: str}
    memory: {session: "guest-{guest}", messages: 4, recall: 2, remember: true}
"""


def test_a_conversation_goes_on_with_its_last_messages(tmp_path: Path):
    write(tmp_path, "talker.yaml", TALKER)
    memory, model = MemoryManager.in_process(), MockLLM("One.", "Two.", "Three.", "Other.")
    for text in ("a", "b", "c"):
        run(tmp_path, "talker", {"text": text, "guest": "ada"}, model, memory=memory)
    assert [message.content for message in model.calls[2].messages] == ["a", "One.", "b", "Two.", "c"]
    run(tmp_path, "talker", {"text": "d", "guest": "bob"}, model, memory=memory)
    assert [message.content for message in model.calls[3].messages] == ["d"]


def test_what_the_model_remembers_is_recalled_beside_the_question_and_kept_by_no_conversation(tmp_path: Path):
    write(tmp_path, "talker.yaml", TALKER)
    memory = MemoryManager.in_process()
    model = MockLLM(
        call("remember", text="Ada takes tea without milk.", about="ada"), "Noted.", "Without milk.", "Yes."
    )
    run(tmp_path, "talker", {"text": "I take tea without milk.", "guest": "ada"}, model, memory=memory)
    run(tmp_path, "talker", {"text": "How do I take tea?", "guest": "ada"}, model, memory=memory)
    recalled = model.calls[2].messages[-2].text
    assert "material and no instruction" in recalled
    assert "- Ada takes tea without milk." in recalled
    run(tmp_path, "talker", {"text": "Zeppelin?", "guest": "ada"}, model, memory=memory)
    assert all("material" not in message.text for message in model.calls[3].messages)


def test_an_answer_that_fails_leaves_the_conversation_as_it_was(tmp_path: Path):
    write(tmp_path, "talker.yaml", TALKER)
    memory, model = MemoryManager.in_process(), MockLLM(ModelUnavailable("overloaded"), "Fine.")
    with pytest.raises(ModelUnavailable):
        run(tmp_path, "talker", {"text": "a", "guest": "ada"}, model, memory=memory)
    run(tmp_path, "talker", {"text": "b", "guest": "ada"}, model, memory=memory)
    assert [message.content for message in model.calls[1].messages] == ["b"]


# Inputs and outputs that do not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{}, {"text": 5}, {"text": "x", "audience": []}, [], None])
def test_an_input_that_does_not_fit_is_refused_before_the_model_is_asked(tmp_path: Path, data: Any):
    write(tmp_path, "rater.yaml", RATER)
    model = MockLLM()
    with pytest.raises(InputInvalid, match="the input of agent 'rater' is invalid"):
        run(tmp_path, "rater", data, model)
    assert model.calls == []


def test_an_undeclared_input_without_the_field_of_the_prompt_is_refused(tmp_path: Path):
    write(tmp_path, "plain.yaml", "prompt: 'About {topic}.'\n")
    with pytest.raises(
        InputInvalid, match=r"asks with \{topic\}, which the input does not have, did you mean 'topics'"
    ):
        run(tmp_path, "plain", {"topics": "x"}, MockLLM())


def test_an_answer_that_does_not_fit_is_repaired(tmp_path: Path):
    write(tmp_path, "rater.yaml", RATER)
    model = MockLLM(RATED.replace("good", "great"), RATED)
    assert run(tmp_path, "rater", {"text": "x"}, model).mood == "good"
    assert "mood: Input should be 'good' or 'bad'" in model.calls[1].messages[-1].text


def test_an_answer_that_cannot_be_repaired_is_an_error(tmp_path: Path):
    write(tmp_path, "rater.yaml", RATER)
    with pytest.raises(OutputInvalid, match="no valid RaterOutput"):
        run(tmp_path, "rater", {"text": "x"}, MockLLM("no", "still no"))


# Files that are wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wrong.yaml:1:1: it is empty: write for example `prompt:"),
        ("- a\n", "wrong.yaml:1:1: it is a list, but an agent has keys"),
        ("just text\n", "it is 'just text', but an agent has keys"),
        ("prompt: 'a\n", "wrong.yaml:1:9: no YAML: "),
        ("prompt:\n\tx: 1\n", "indent with spaces, not tabs"),
        ("prompt: !python/object:os.system x\n", "the tag"),
        ("prompt: a\nprompt: b\n", "wrong.yaml:2:1: the key 'prompt' is there twice"),
        ("a: &a [*a]\n", "aliases repeat themselves"),
        ("[" * 500, "nested more than 100 levels deep"),
        ("promt: x\n", "wrong.yaml:1:1: promt: unknown key 'promt', did you mean 'prompt'?"),
        ("system_prompt: x\n", "unknown key 'system_prompt', did you mean 'system'?"),
        ("window: truncate\n", "did you mean 'overflow'?"),
        ("retry: {retries: 5}\n", "retry: how often it is tried again is a matter of each task"),
        ("queue: mine\n", "queue: the queue of an agent follows from its name"),
        ("prompt: x\nlimits:\n  usdd: 1\n", "wrong.yaml:3:3: limits.usdd: unknown key 'usdd', did you mean 'usd'?"),
        ("limits: {usd: -1}\n", "wrong.yaml:1:10: limits.usd: input should be greater than or equal to 0, found -1"),
        ("limits: {memory_mb: 100}\n", "add isolation = 'process'"),
        ("timeouts: {soft: 60, hard: 10}\n", "must be shorter than hard"),
        ("permissions: {network: ['http://x']}\n", "is no host"),
        ("memory: {messages: 5}\n", "memory: nothing is remembered: give session, recall or remember"),
        ("memory: {session: a, mesages: 5}\n", "did you mean 'messages'?"),
        ("name: Rater\n", "wrong.yaml:1:1: name: expected lower-case letters, digits and _"),
        ("model: gpt-5\n", "wrong.yaml:1:1: model: expected provider:model, such as openai:gpt-5-mini, or offline"),
        ("fallback: [openai:a, b]\n", "fallback[1]: expected provider:model"),
        ("max_iterations: 0\n", "max_iterations: input should be greater than or equal to 1, found 0"),
        ("isolation: container\n", "isolation: input should be 'thread' or 'process', found 'container'"),
        ("prompt: [a]\n", "prompt: input should be a valid string, found a list"),
        ("input: {text: string}\n", "input.text: there is no type 'string', did you mean 'str'?"),
        ("input: {text: strr}\n", "input.text: there is no type 'strr', did you mean 'str'?"),
        ("input: {text: elephant}\n", "there is no type 'elephant', there are str, int"),
        ("input: {tags: [str, int]}\n", "input.tags: a list says what its items are, once: write [str]"),
        ("input: {mood: good | str}\n", "mixes types and choices"),
        ("input: {mood: good | }\n", "mixes types and choices"),
        ("input: {about: {title: flot}}\n", "wrong.yaml:1:17: input.about.title: there is no type 'flot', did you mean 'float'?"),
        ("input: {about: {}}\n", "input.about: it has no fields"),
        ("input: {text: 5}\n", "input.text: expected a type such as str, [str], good | bad, or fields, found 5"),
        ("input: {tags: [5]}\n", "input.tags[0]: 5 says no type"),
        ("input: {}\n", "input: "),
        ("input: {text: str}\ninput_schema: {type: object}\n", "it has input and input_schema: keep one of them"),
        (
            "prompt: '{txt}'\ninput: {text: str}\n",
            "wrong.yaml:1:1: prompt: it names {txt}, which the input does not have, did you mean 'text'?",
        ),
        ("memory: {session: '{id}'}\ninput: {text: str}\n", "memory.session: it names {id}, which the input does not have"),
        ("input_schema: {type: objekt}\n", "input_schema: "),
        ("output_schema: {type: array}\n", "output_schema: "),
        ("output_schema: {type: object, properties: {a: {type: nmber}}}\n", "is no JSON Schema"),
        ("output_schema: {type: object, properties: {a: {$ref: 'http://x/y'}}}\n", "refers to another document"),
        ("output_schema: {type: object, properties: {a: {$ref: '#/$defs/b'}}}\n", "refers to what it does not have"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_told_with_line_key_and_what_was_meant(tmp_path: Path, text: str, said: str):
    assert said in problem(tmp_path, text)


def test_every_problem_of_a_file_is_told_in_its_order(tmp_path: Path):
    told = problem(tmp_path, "promt: x\nlimits: {usdd: 1}\nmodel: gpt\ntools: [5]\n")
    assert told.startswith("4 problems\n")
    places = [told.index(f"wrong.yaml:{line}:") for line in (1, 2, 3, 4)]
    assert places == sorted(places)


@pytest.mark.parametrize("content", [b"\xff\xfeprompt: x", b"prompt: \xe9", b"#" * 1_000_001])
def test_a_file_that_is_no_text_of_a_bounded_size_is_a_problem(tmp_path: Path, content: bytes):
    write(tmp_path, "wrong.yaml", "").write_bytes(content)
    [found] = load(tmp_path).problems
    assert "it is not UTF-8" in found.message or "which no agent needs" in found.message


def test_a_broken_file_leaves_the_others_alone_and_its_name_says_what_is_wrong(tmp_path: Path):
    write(tmp_path, "good.yaml", "prompt: '{text}'\n")
    write(tmp_path, "wrong.yaml", "promt: x\n")
    loaded = load(tmp_path)
    assert loaded.get("good").card.name == "good"
    with pytest.raises(UnknownAgent, match="did you mean 'prompt'"):
        loaded.get("wrong")


def test_a_broken_one_of_yours_does_not_let_the_one_that_ships_take_its_place(tmp_path: Path):
    write(tmp_path, "react.yaml", "promt: x\n")
    with pytest.raises(UnknownAgent, match="cannot be used"):
        load(tmp_path).get("react")
