"""Dropping a file into `agents/` is enough, and no plugin can harm another one or the process that loads it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.contracts.workflow import NODE_KINDS
from orchestrator.errors import InputInvalid, OutputInvalid, PluginInvalid, UnknownAgent
from worker.agent import AsyncContext, BaseAgent, Context
from worker.loader import AgentLoader, LoadedAgent, LoadedAgents, PluginProblem, load_class, shipped_agents

GREETER = """
    from pydantic import BaseModel
    from worker.agent import BaseAgent, Context

    class Person(BaseModel):
        name: str

    class Greeting(BaseModel):
        text: str

    class Greeter(BaseAgent):
        '''Greet a person
        by name.

        Never by anything else.
        '''

        CAPABILITIES = ("greet",)
        model = "openai:gpt-5-mini"

        def execute(self, data: Person, ctx: Context) -> Greeting:
            return Greeting(text=f"Hello {data.name}")
"""
MINIMAL = """
    from worker.agent import BaseAgent
    class {name}(BaseAgent):
        def execute(self, data, ctx):
            return {{"said": {said!r}}}
"""


@pytest.fixture(autouse=True)
def _no_module_stays() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("_nightfleet_agent_", "acme_")):
            del sys.modules[name]


def plugin_modules(stem: str) -> set[str]:
    """The modules of plugins of this name; other tests of this process may have loaded some."""
    return {name for name in sys.modules if name.startswith(f"_nightfleet_agent_{stem}_")}


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))
    return path


def minimal(path: Path, name: str, said: str = "hello") -> Path:
    return write(path, MINIMAL.format(name=name, said=said))


def load(base: Path, agents_path: str = "./agents") -> LoadedAgents:
    return AgentLoader(agents_path, base=base).load()


def only_problem(loaded: LoadedAgents) -> PluginProblem:
    [problem] = loaded.problems
    return problem


def said_by(loaded: LoadedAgent) -> str:
    return loaded.agent_class().execute({}, None)["said"]


def load_source(tmp_path: Path, source: str) -> LoadedAgents:
    write(tmp_path / "agents" / "plugin.py", source)
    return load(tmp_path)


# What is found --------------------------------------------------------------------------------------------------------


def test_a_file_in_the_folder_is_an_agent_with_a_card_that_describes_it(tmp_path: Path):
    file = write(tmp_path / "agents" / "greeter.py", GREETER)
    loaded = load(tmp_path)
    assert loaded.problems == ()
    card = loaded.get("greeter").card
    assert (card.name, card.description, card.capabilities) == ("greeter", "Greet a person by name.", ("greet",))
    assert (card.model, card.origin, len(card.digest)) == ("openai:gpt-5-mini", str(file), 32)
    assert card.input_schema is not None
    assert card.input_schema["required"] == ["name"]
    assert card.output_schema is not None
    assert card.output_schema["properties"].keys() == {"text"}
    assert card in loaded.cards
    assert not loaded.get("greeter").is_async


def test_a_folder_with_agent_py_is_an_agent_that_imports_its_own_files(tmp_path: Path):
    folder = tmp_path / "agents" / "my-greeter"
    write(folder / "prompts.py", "WORD = 'good day'")
    write(
        folder / "agent.py",
        """
        from worker.agent import BaseAgent
        from .prompts import WORD

        class Greeter(BaseAgent):
            def execute(self, data, ctx):
                return {"said": WORD}
        """,
    )
    loaded = load(tmp_path)
    assert loaded.problems == ()
    assert said_by(loaded.get("greeter")) == "good day"
    assert loaded.get("greeter").card.origin == str(folder)


def test_a_plugin_gets_a_private_module_name_and_shadows_nothing(tmp_path: Path):
    minimal(tmp_path / "agents" / "json.py", "Greeter")
    module = load(tmp_path).get("greeter").agent_class.__module__
    assert module.startswith("_nightfleet_agent_json_")
    assert sys.modules["json"].loads("1") == 1


def test_a_file_may_define_several_agents_and_only_what_it_defines_counts(tmp_path: Path):
    minimal(tmp_path / "acme_base.py", "Imported")
    sys.path.insert(0, str(tmp_path))
    try:
        loaded = load_source(
            tmp_path,
            """
            from abc import ABC, abstractmethod
            from acme_base import Imported
            from worker.agent import BaseAgent

            class _Base(BaseAgent):
                def execute(self, data, ctx):
                    return self.word()
                def word(self):
                    return "base"

            class Abstract(ABC, _Base):
                @abstractmethod
                def word(self): ...

            class First(Abstract):
                def word(self):
                    return "first"

            class SecondOne(_Base): ...

            Alias = First
            """,
        )
    finally:
        sys.path.remove(str(tmp_path))
    own = [card.name for card in loaded.cards if card.origin.startswith(str(tmp_path))]
    assert own == ["first", "second_one"]
    assert loaded.problems == ()


def test_names_that_begin_with_an_underscore_or_a_dot_and_folders_without_python_are_left_alone(tmp_path: Path):
    for name in ("_helpers.py", ".hidden.py", "_private/agent.py", "__pycache__/agent.py", "notes.txt", "data/a.json"):
        write(tmp_path / "agents" / name, "raise Exception('must not run')")
    assert load(tmp_path).problems == ()


def test_the_agents_that_ship_are_always_there_and_are_typed(tmp_path: Path):
    loaded = load(tmp_path)
    assert loaded.problems == ()
    assert loaded.get("summarizer").card.input_schema is not None
    assert all(card.origin.startswith(str(shipped_agents())) for card in loaded.cards if card.name not in NODE_KINDS)


def test_an_installed_wheel_carries_the_shipped_agents_as_data_and_takes_no_package_of_that_name_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    minimal(tmp_path / "worker" / "_shipped" / "agents" / "greeter.py", "Greeter")
    write(tmp_path / "agents" / "__init__.py", "raise Exception('must not run')")
    monkeypatch.setattr("worker.loader.__file__", str(tmp_path / "worker" / "loader.py"))
    loaded = load(tmp_path / "elsewhere")
    assert set(loaded.agents) - set(NODE_KINDS) == {"greeter"}
    assert loaded.problems == ()


def test_the_folder_of_the_shipped_agents_may_be_named_on_the_path_too(caplog: pytest.LogCaptureFixture):
    folder = shipped_agents()
    assert folder is not None
    with caplog.at_level(logging.INFO, logger="nightfleet.loader"):
        loaded = load(folder.parent, f"./{folder.name}:{folder}")
    assert loaded.problems == ()
    assert not caplog.records


# The path -------------------------------------------------------------------------------------------------------------


def test_the_path_takes_folders_and_modules_relative_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    minimal(tmp_path / "base" / "agents" / "a.py", "InFolder")
    minimal(tmp_path / "elsewhere" / "b.py", "FromElsewhere")
    minimal(tmp_path / "site" / "acme_app" / "agents.py", "FromModule")
    write(tmp_path / "site" / "acme_app" / "__init__.py", "")
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = os.pathsep.join(["./agents", "acme_app.agents", str(tmp_path / "elsewhere"), "./agents", ""])
    loaded = load(tmp_path / "base", path)
    assert loaded.problems == ()
    assert {"in_folder", "from_elsewhere", "from_module"} <= loaded.agents.keys()
    assert loaded.get("from_module").card.origin == "module acme_app.agents"
    assert len(loaded.get("from_module").card.digest) == 32


def test_a_package_on_the_path_offers_the_agents_that_it_takes_from_its_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    minimal(tmp_path / "acme_pack" / "deep.py", "Deep")
    write(tmp_path / "acme_pack" / "__init__.py", "from acme_pack.deep import Deep\nfrom worker.agent import BaseAgent")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load(tmp_path, "acme_pack")
    assert loaded.problems == ()
    assert said_by(loaded.get("deep")) == "hello"


def test_a_missing_default_folder_is_no_problem(tmp_path: Path):
    assert load(tmp_path, "./agents").problems == ()


def test_another_missing_folder_is_a_problem_that_names_it(tmp_path: Path):
    problem = only_problem(load(tmp_path, "./agents:./agentz"))
    assert problem.origin == "./agentz"
    assert f"no folder {tmp_path / 'agentz'}" in problem.message


def test_a_missing_module_is_a_problem_that_says_how_to_make_it_importable(tmp_path: Path):
    problem = only_problem(load(tmp_path, "acme_absent.agents"))
    assert "neither a folder" in problem.message
    assert "'acme_absent.agents'" in problem.message
    assert "PYTHONPATH" in problem.message


def test_a_module_that_misses_something_else_says_what_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write(tmp_path / "acme_needy.py", "import acme_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    message = only_problem(load(tmp_path, "acme_needy")).message
    assert f"{file}:1" in message
    assert "acme_not_installed" in message
    assert "install what the plugin needs" in message


# Distributions --------------------------------------------------------------------------------------------------------


def distribution(site: Path, entry_points: str) -> None:
    write(site / "acme_agents-1.2.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: acme-agents\nVersion: 1.2\n")
    write(site / "acme_agents-1.2.dist-info" / "entry_points.txt", "[nightfleet.agents]\n" + dedent(entry_points))


def test_an_installed_distribution_offers_a_class_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    minimal(tmp_path / "acme_one.py", "One")
    minimal(tmp_path / "acme_more.py", "Two")
    distribution(tmp_path, "one = acme_one:One\nmore = acme_more\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load(tmp_path)
    assert loaded.problems == ()
    assert "acme-agents 1.2" in loaded.get("one").card.origin
    assert said_by(loaded.get("two")) == "hello"


def test_a_new_version_of_a_distribution_has_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    minimal(tmp_path / "acme_one.py", "One")
    distribution(tmp_path, "one = acme_one:One")
    monkeypatch.syspath_prepend(tmp_path)
    before = load(tmp_path).get("one").card.digest
    write(
        tmp_path / "acme_agents-1.2.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: acme-agents\nVersion: 1.3\n"
    )
    assert load(tmp_path).get("one").card.digest != before


def test_one_class_found_by_its_module_and_by_an_entry_point_is_one_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    minimal(tmp_path / "acme_one.py", "One")
    distribution(tmp_path, "one = acme_one:One\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load(tmp_path, "acme_one")
    assert loaded.problems == ()
    assert said_by(loaded.get("one")) == "hello"


def test_an_entry_point_that_is_no_agent_or_cannot_be_imported_is_a_problem_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    distribution(tmp_path, "absent = acme_absent:Agent\nwrong = json:dumps\n")
    monkeypatch.syspath_prepend(tmp_path)
    absent, wrong = load(tmp_path).problems
    assert "'absent'" in absent.origin
    assert "acme_absent" in absent.message
    assert "neither a class derived from BaseAgent nor a module" in wrong.message


# Names ----------------------------------------------------------------------------------------------------------------


def test_an_agent_of_the_user_overrides_the_one_that_ships_and_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = minimal(tmp_path / "agents" / "mine.py", "Summarizer")
    with caplog.at_level(logging.INFO, logger="nightfleet.loader"):
        loaded = load(tmp_path)
    assert loaded.problems == ()
    assert loaded.get("summarizer").card.origin == str(file)
    assert f"'summarizer' of {file} overrides" in caplog.text


def test_two_agents_of_one_name_are_a_problem_that_names_both_and_neither_is_used(tmp_path: Path):
    first = minimal(tmp_path / "agents" / "a.py", "Greeter", "a")
    second = minimal(tmp_path / "agents" / "b.py", "Greeter", "b")
    loaded = load(tmp_path)
    problem = only_problem(loaded)
    assert "two agents of one name" in problem.message
    assert str(first) in problem.origin
    assert str(second) in problem.message
    with pytest.raises(UnknownAgent, match="two agents of one name"):
        loaded.get("greeter")


def test_two_agents_with_the_name_of_a_shipped_one_do_not_fall_back_to_it(tmp_path: Path):
    minimal(tmp_path / "agents" / "a.py", "Summarizer", "a")
    minimal(tmp_path / "agents" / "b.py", "Summarizer", "b")
    with pytest.raises(UnknownAgent, match="two agents of one name"):
        load(tmp_path).get("summarizer")


def test_a_broken_plugin_with_the_name_of_a_shipped_agent_does_not_fall_back_to_it(tmp_path: Path):
    write(tmp_path / "agents" / "summarizer.py", "1/0")
    with pytest.raises(UnknownAgent, match=r"cannot be used: .*summarizer\.py:1: ZeroDivisionError"):
        load(tmp_path).get("summarizer")


def test_an_unknown_name_is_answered_with_the_nearest_one_and_with_all_there_are(tmp_path: Path):
    with pytest.raises(
        UnknownAgent, match=r"no agent 'sumarizer' here, did you mean 'summarizer'\? \(known: chooser, comparer, "
    ):
        load(tmp_path).get("sumarizer")


# Content --------------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_names_and_contents_and_not_of_caches(tmp_path: Path):
    folder = tmp_path / "agents" / "greeter"
    minimal(folder / "agent.py", "Greeter")

    def digest() -> str:
        return load(tmp_path).get("greeter").card.digest

    first = digest()
    write(folder / "__pycache__" / "agent.pyc", "cache")
    write(folder / ".git" / "HEAD", "main")
    assert digest() == first
    write(folder / "prompt.md", "Say hello")
    second = digest()
    (folder / "prompt.md").rename(folder / "prompts.md")
    assert len({first, second, digest()}) == 3


def test_the_digest_does_not_depend_on_where_the_plugin_is(tmp_path: Path):
    digests = set[str]()
    for base in ("one", "other"):
        minimal(tmp_path / base / "agents" / "greeter.py", "Greeter")
        digests.add(load(tmp_path / base).get("greeter").card.digest)
    assert len(digests) == 1


def test_changed_content_is_a_new_module_and_the_old_one_goes_on_as_it_was(tmp_path: Path):
    folder = tmp_path / "agents" / "greeter"
    write(
        folder / "agent.py",
        """
        from worker.agent import BaseAgent

        class Greeter(BaseAgent):
            def execute(self, data, ctx):
                from .words import WORD
                return {"said": WORD}
        """,
    )
    write(folder / "words.py", "WORD = 'old'")
    old = load(tmp_path).get("greeter")
    assert said_by(old) == "old"
    write(folder / "words.py", "WORD = 'newer'")
    new = load(tmp_path).get("greeter")
    assert (said_by(new), said_by(old)) == ("newer", "old")
    assert new.card.digest != old.card.digest


def test_a_change_of_equal_size_within_a_second_is_seen(tmp_path: Path):
    said = list[str]()
    for word in ("one", "two"):
        minimal(tmp_path / "agents" / "greeter.py", "Greeter", word)
        os.utime(tmp_path / "agents" / "greeter.py", (1, 1))
        said.append(said_by(load(tmp_path).get("greeter")))
    assert said == ["one", "two"]


def test_unchanged_content_is_not_executed_again(tmp_path: Path):
    minimal(tmp_path / "agents" / "greeter.py", "Greeter")
    first, second = load(tmp_path).get("greeter"), load(tmp_path).get("greeter")
    assert first.agent_class is second.agent_class


def test_threads_that_load_at_once_get_whole_modules(tmp_path: Path):
    write(tmp_path / "agents" / "greeter.py", GREETER)
    found = list[LoadedAgents]()
    threads = [threading.Thread(target=lambda: found.append(load(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [loaded.problems for loaded in found] == [()] * 8
    assert len({loaded.get("greeter").agent_class for loaded in found}) == 1


# Plugins that fail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "line", "words"), [
    ("x = 1\ndef broken(:\n", 2, "SyntaxError"),
    ("\n\nimport acme_not_installed\n", 3, "No module named 'acme_not_installed' (install what the plugin needs)"),
    ("from json import no_such_name\n", 1, "no_such_name"),
    ("import json\njson.loads('nonsense')\n", 2, "JSONDecodeError"),
    ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3 (it ends the process when it is imported"),
    ("from .helpers import x\n", 1, "a plugin of several files is a folder with agent.py"),
    ("import asyncio\nraise asyncio.CancelledError\n", 2, "CancelledError"),
    ("class Bad(Exception):\n    def __str__(self):\n        1/0\nraise Bad\n", 4, "Bad"),
])  # fmt: skip
def test_a_plugin_that_fails_is_reported_with_file_and_line_and_the_others_load(
    tmp_path: Path, source: str, line: int, words: str
):
    file = write(tmp_path / "agents" / "broken.py", source)
    minimal(tmp_path / "agents" / "fine.py", "Fine")
    before = plugin_modules("broken")
    loaded = load(tmp_path)
    problem = only_problem(loaded)
    assert problem.origin == str(file)
    assert problem.message.startswith(f"{file}:{line}: ")
    assert words in problem.message
    assert said_by(loaded.get("fine")) == "hello"
    assert plugin_modules("broken") == before


def test_a_fault_in_a_file_of_a_folder_is_reported_there_and_nothing_of_it_stays(tmp_path: Path):
    folder = tmp_path / "agents" / "greeter"
    write(folder / "agent.py", "from . import prompts")
    broken = write(folder / "prompts.py", "\n1/0")
    before = plugin_modules("greeter")
    assert only_problem(load(tmp_path)).message == f"{broken}:2: ZeroDivisionError: division by zero"
    assert plugin_modules("greeter") == before


def test_interrupting_the_process_while_a_plugin_loads_is_not_swallowed(tmp_path: Path):
    write(tmp_path / "agents" / "slow.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)


def test_a_file_that_defines_no_agent_is_a_problem_with_advice(tmp_path: Path):
    write(tmp_path / "agents" / "helpers.py", "X = 1")
    message = only_problem(load(tmp_path)).message
    assert "defines no agent" in message
    assert "begin the name with _" in message


def test_a_folder_of_python_files_without_agent_py_is_a_problem(tmp_path: Path):
    write(tmp_path / "agents" / "greeter" / "agents.py", "")
    assert "has no agent.py" in only_problem(load(tmp_path)).message


def test_a_folder_that_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "agents"
    folder.mkdir()
    iterdir = Path.iterdir

    def denied(path: Path) -> Iterator[Path]:
        if path == folder:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    problem = only_problem(load(tmp_path))
    assert (problem.origin, problem.message) == (str(folder), "the folder cannot be read: Permission denied")


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert only_problem(load(tmp_path)).message.startswith("FileNotFoundError: [Errno 2] No such file")


# Classes that cannot be used ------------------------------------------------------------------------------------------

RETURN = "def execute(self, data, ctx): return {}"


@pytest.mark.parametrize(("body", "words"), [
    ("pass", "must define execute(self, data, ctx)"),
    ("def execute(self, data): return {}", "must take two arguments"),
    ("def execute(self, data, ctx, more=1): return {}", "must take two arguments"),
    ("def execute(self, data, *ctx): return {}", "must take two arguments"),
    ("@staticmethod\n    def execute(data, ctx): return {}", "must be a plain method"),
    ("def execute(self, data, ctx): yield 1", "must return its output, not yield"),
    ("async def execute(self, data, ctx): yield 1", "must return its output, not yield"),
    (f"name = 'Fact-Checker'\n    {RETURN}", "'Fact-Checker' does not match ^[a-z]"),
    (f"name = 'ends\\n'\n    {RETURN}", "does not match"),
    (f"name = 5\n    {RETURN}", "its name 5 does not match"),
    (f"name = 'celery'\n    {RETURN}", "its name 'celery' stands for tasks that name a celery in place of an agent"),
    (f"CAPABILITIES = 'greet'\n    {RETURN}", "write CAPABILITIES = ('greet',)"),
    (f"CAPABILITIES = ['greet']\n    {RETURN}", "is a list, and must be a tuple"),
    (f"CAPABILITIES = ('greet', 3)\n    {RETURN}", "CAPABILITIES holds 3"),
    (f"model = 'gpt-5'\n    {RETURN}", "write 'provider:model'"),
    (f"model = 5\n    {RETURN}", "`model` is 5"),
    (f"timeouts = 30\n    {RETURN}", "`timeouts` is a int, and must be Timeouts(...)"),
    (f"limits = {{}}\n    {RETURN}", "`limits` is a dict, and must be Limits(...)"),
    (f"limits = Limits(memory_mb=64)\n    {RETURN}", "can be kept in a process of its own alone: add isolation = 'process'"),
    (f"isolation = 'container'\n    {RETURN}", "`isolation` is 'container': write 'process'"),
    (f"def __init__(self, client): ...\n    {RETURN}", "made without arguments"),
    ("def execute(self, data, ctx: AsyncContext): return {}", "annotate `ctx: Context`, or write `async def execute`"),
    ("async def execute(self, data, ctx: Context): return {}", "annotate `ctx: AsyncContext`"),
    ("def execute(self, data: 'Nowhere', ctx): return {}", "annotations of execute cannot be resolved (name 'Nowhere'"),
    ("def execute(self, data: object(), ctx): return {}", "which is no shape of JSON"),
    ("def execute(self, data, ctx) -> threading.Lock: return {}", "use a pydantic model, or dict"),
])  # fmt: skip
def test_a_class_that_cannot_be_used_is_reported_with_advice_and_the_others_of_its_file_load(
    tmp_path: Path, body: str, words: str
):
    loaded = load_source(
        tmp_path,
        "import threading\nfrom worker.agent import AsyncContext, BaseAgent, Context, Limits\n"
        f"class Broken(BaseAgent):\n    {body}\n"
        f"class Fine(BaseAgent):\n    {RETURN}\n",
    )
    problem = only_problem(loaded)
    assert problem.message.startswith("Broken: ")
    assert words in problem.message
    assert loaded.get("fine")


def test_code_of_a_plugin_that_runs_while_its_class_is_examined_cannot_end_the_process(tmp_path: Path):
    loaded = load_source(
        tmp_path,
        """
        from worker.agent import BaseAgent

        class Hostile:
            @classmethod
            def __get_pydantic_core_schema__(cls, source, handler):
                raise SystemExit("bye")

        class Broken(BaseAgent):
            def execute(self, data: Hostile, ctx): ...
        """,
    )
    problem = only_problem(loaded)
    assert problem.message.startswith(f"Broken: {tmp_path / 'agents' / 'plugin.py'}:7: SystemExit: bye")
    with pytest.raises(UnknownAgent, match="the agent 'broken' cannot be used"):
        loaded.get("broken")


def test_everything_that_is_wrong_with_a_class_is_said_at_once():
    class Broken(BaseAgent):
        CAPABILITIES = "greet"  # pyright: ignore[reportAssignmentType]
        isolation = "prison"  # pyright: ignore[reportAssignmentType]

    with pytest.raises(PluginInvalid, match=r"Broken: CAPABILITIES .*; `isolation` is .*; it must define execute"):
        load_class(Broken, origin="a test", digest="of a test")


# Input and output -----------------------------------------------------------------------------------------------------


def test_postponed_annotations_are_resolved_where_the_plugin_defines_them(tmp_path: Path):
    loaded = load_source(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from pydantic import BaseModel
        from worker.agent import AsyncContext, BaseAgent

        class Greeter(BaseAgent):
            class Person(BaseModel):
                name: str
                friend: Friend | None = None

            async def execute(self, data: Person, ctx: AsyncContext) -> list[Line]:
                return [Line(data.name)]

        class Friend(BaseModel):
            name: str

        @dataclass
        class Line:
            text: str
        """,
    )
    assert loaded.problems == ()
    greeter = loaded.get("greeter")
    assert greeter.is_async
    assert greeter.parse_input({"name": "Ada", "friend": {"name": "Bob"}}).friend.name == "Bob"
    assert greeter.dump_output([{"text": "hi"}]) == [{"text": "hi"}]


def shaped(takes: Any = Any, gives: Any = Any) -> LoadedAgent:
    """Make an agent that is declared to take and give these types."""

    class Shaped(BaseAgent):
        def execute(self, data: Any, ctx: Any) -> Any:
            return data

    Shaped.execute.__annotations__ = {"data": takes, "return": gives}
    return load_class(Shaped, origin="a test", digest="of a test")


class Item(BaseModel):
    name: str
    count: int = 1


def test_input_of_a_model_is_validated_and_each_fault_is_named_with_agent_and_field():
    agent = shaped(takes=list[Item])
    assert agent.parse_input([{"name": "a"}]) == [Item(name="a")]
    with pytest.raises(
        InputInvalid, match=r"the input of agent 'shaped' is invalid: 0\.name: Field required; 1\.count: "
    ):
        agent.parse_input([{}, {"name": "a", "count": "many"}])


def test_input_of_the_wrong_kind_is_named_without_a_field():
    with pytest.raises(InputInvalid, match="is invalid: input: Input should be an object"):
        shaped(takes=Item).parse_input("text")


def test_many_faults_are_counted_rather_than_listed():
    with pytest.raises(InputInvalid, match=r"and 15 more$"):
        shaped(takes=list[int]).parse_input(["x"] * 20)


def test_a_strict_model_takes_what_json_can_say():
    from datetime import date

    class Strict(BaseModel, strict=True):
        day: date
        pair: tuple[int, int]

    parsed = shaped(takes=Strict).parse_input({"day": "2030-01-02", "pair": [1, 2]})
    assert (parsed.day, parsed.pair) == (date(2030, 1, 2), (1, 2))


@pytest.mark.parametrize("annotation", [dict, dict[str, Any]])
def test_an_agent_that_declares_a_dict_takes_and_gives_any_object_and_has_no_schema(annotation: Any):
    agent = shaped(takes=annotation, gives=annotation)
    assert agent.card.input_schema is agent.card.output_schema is None
    assert agent.parse_input({"a": [1]}) == {"a": [1]}
    assert agent.dump_output({"a": [1]}) == {"a": [1]}
    with pytest.raises(InputInvalid, match=r"input of agent 'shaped' must be an object \(dict\), not list"):
        agent.parse_input([1])
    with pytest.raises(OutputInvalid, match=r"output of agent 'shaped' must be an object \(dict\), not NoneType"):
        agent.dump_output(None)


@pytest.mark.parametrize("annotation", [Any, object, BaseModel])
def test_an_agent_that_declares_nothing_takes_and_gives_anything_and_models_are_dumped(annotation: Any):
    agent = shaped(takes=annotation, gives=annotation)
    assert agent.card.input_schema is agent.card.output_schema is None
    assert agent.parse_input([1, "a"]) == [1, "a"]
    assert agent.dump_output([1, "a"]) == [1, "a"]
    assert agent.dump_output(Item(name="a")) == {"name": "a", "count": 1}


def test_an_output_is_checked_against_what_is_declared_and_given_as_json_values():
    from datetime import date

    agent = shaped(gives=dict[str, date])
    assert agent.dump_output({"day": date(2030, 1, 2)}) == {"day": "2030-01-02"}
    with pytest.raises(OutputInvalid, match="the output of agent 'shaped' is invalid: day: ") as raised:
        agent.dump_output({"day": "someday"})
    assert not raised.value.retryable


def test_an_output_that_was_made_without_validation_and_does_not_fit_is_refused():
    broken = Item.model_construct(name=object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(OutputInvalid, match="'shaped' cannot be written as JSON"):
        shaped(gives=Item).dump_output(broken)


def test_an_output_is_written_with_the_names_under_which_it_is_read():
    from pydantic import Field

    class Aliased(BaseModel):
        class_: str = Field(alias="class")

    agent = shaped(takes=Aliased, gives=Aliased)
    assert agent.parse_input(agent.dump_output({"class": "a"})).class_ == "a"
    assert shaped().dump_output(Aliased.model_validate({"class": "a"})) == {"class": "a"}


def test_a_typed_dict_is_validated():
    from typing_extensions import TypedDict

    class Options(TypedDict):
        depth: int

    agent = shaped(takes=Options)
    assert agent.parse_input({"depth": 3}) == {"depth": 3}
    with pytest.raises(InputInvalid, match="depth: Field required"):
        agent.parse_input({})


def test_contexts_of_the_right_kind_are_accepted():
    class Sync(BaseAgent):
        def execute(self, data: Any, ctx: Context) -> Any: ...

    class Async(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any: ...

    assert not load_class(Sync, origin="a test", digest="of a test").is_async
    assert load_class(Async, origin="a test", digest="of a test").is_async


# One plugin alone ------------------------------------------------------------------------------------------------------


def test_the_agent_of_one_plugin_is_loaded_and_no_other_plugin_is(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(
        "from worker.agent import BaseAgent\n\nclass Good(BaseAgent):\n    def execute(self, data, ctx):\n        return 1\n"
    )
    (tmp_path / "other.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    loader = AgentLoader(str(tmp_path), base=tmp_path)
    origin = str(tmp_path / "good.py")
    assert loader.load_from(origin, "good").card.origin == origin
    assert not (tmp_path / "trace").exists()
    with pytest.raises(UnknownAgent, match="there is no agent 'bad' here"):
        loader.load_from(origin, "bad")


def test_an_agent_that_ships_is_loaded_by_its_origin_too(tmp_path: Path) -> None:
    loader = AgentLoader("", base=tmp_path)
    reader = loader.load().get("reader")
    assert loader.load_from(reader.card.origin, "reader").card == reader.card
