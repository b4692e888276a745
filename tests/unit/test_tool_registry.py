"""Tools by name: those that ship, those of files beside the agents, those of distributions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from orchestrator.errors import PluginInvalid, UnknownAgent
from worker.agent import Calculator, Http, Tool
from worker.loader import AgentLoader, LoadedAgents
from worker.tools.registry import ToolRegistry

WEATHER = """
    from worker.agent import Toolkit, tool
    from worker.agent import Calculator  # imported, and so not this file's

    @tool
    def weather(city: str) -> str:
        '''Tell the weather.'''
        return f"Rain in {city}"

    class TideTables(Toolkit):
        '''Tides.'''

        def __init__(self, port: str = "Hull") -> None:
            self.port = port

        @property
        def tools(self):
            port = self.port

            def high_water() -> str:
                '''Tell when the water is high.'''
                return port

            return (tool(high_water),)

    HARBOUR = TideTables("Rotterdam")
    _PRIVATE = TideTables("nobody's")
"""
AGENT = """
    from worker.agent import BaseAgent

    class Sailor(BaseAgent):
        tools = ({tools},)

        def execute(self, data, ctx):
            return {{}}
"""


@pytest.fixture(autouse=True)
def _no_module_stays() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("_nightfleet_agent_", "acme_")):
            del sys.modules[name]


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))
    return path


def load(base: Path) -> LoadedAgents:
    return AgentLoader("./agents", base=base).load()


def registry(base: Path) -> ToolRegistry:
    return AgentLoader("./agents", base=base).registry()


def test_the_kits_that_ship_have_names() -> None:
    known = ToolRegistry()
    assert known.names == ("adapter", "calculator", "files", "http", "search", "server")
    assert isinstance(known.resolve("calculator"), Calculator)
    assert known.resolve({"http": {"hosts": ["example.com"], "methods": ["GET", "POST"]}}) == Http(
        ("example.com",), methods=("GET", "POST")
    )


def test_a_file_beside_the_agents_adds_tools_kits_and_classes_of_kits(tmp_path: Path) -> None:
    write(tmp_path / "agents/tools/weather.py", WEATHER)
    write(tmp_path / "agents/tools/_helpers.py", "raise RuntimeError")
    known = registry(tmp_path)
    assert set(known.names) - set(ToolRegistry().names) == {"weather", "tide_tables", "harbour"}
    weather = known.resolve("weather")
    assert isinstance(weather, Tool)
    assert weather(city="Hull") == "Rain in Hull"
    for named, port in (
        ("tide_tables", "Hull"),
        ({"tide_tables": {"port": "Ghent"}}, "Ghent"),
        ("harbour", "Rotterdam"),
    ):
        [high_water] = known.resolve(named).tools  # type: ignore[union-attr]
        assert high_water() == port


def test_an_agent_names_them_and_nothing_else_is_an_agent(tmp_path: Path) -> None:
    write(tmp_path / "agents/tools/weather.py", WEATHER)
    write(tmp_path / "agents/sailor.py", AGENT.format(tools="'weather', {'tide_tables': {'port': 'Ghent'}}"))
    loaded = load(tmp_path)
    assert loaded.problems == ()
    assert loaded.get("sailor").card.tools == ("weather", "high_water")


def test_the_version_of_an_agent_changes_with_the_file_of_a_tool_that_it_names(tmp_path: Path) -> None:
    file = write(tmp_path / "agents/tools/weather.py", WEATHER)
    write(tmp_path / "agents/sailor.py", AGENT.format(tools="'weather'"))
    write(tmp_path / "agents/other.py", AGENT.format(tools="'calculator'").replace("Sailor", "Other"))
    before = load(tmp_path)
    file.write_text(file.read_text().replace("Rain", "Snow"))
    after = load(tmp_path)
    assert before.get("sailor").card.digest != after.get("sailor").card.digest
    assert before.get("other").card.digest == after.get("other").card.digest
    [weather] = after.get("sailor").granted.tools
    assert isinstance(weather, Tool)
    assert weather(city="Hull") == "Snow in Hull"


@pytest.mark.parametrize(
    "source", ["def x(", "raise ValueError('broken')", "import sys; sys.exit(3)", "import no_such_module_here"]
)
def test_a_file_that_cannot_be_used_is_reported_and_harms_nobody_else(tmp_path: Path, source: str) -> None:
    broken = write(tmp_path / "agents/tools/broken.py", source)
    write(tmp_path / "agents/tools/weather.py", WEATHER)
    write(tmp_path / "agents/sailor.py", AGENT.format(tools="'weather'"))
    write(tmp_path / "agents/lost.py", AGENT.format(tools="'broken'").replace("Sailor", "Lost"))
    loaded = load(tmp_path)
    assert loaded.get("sailor")
    assert str(broken) in {problem.origin for problem in loaded.problems}
    with pytest.raises(UnknownAgent, match="the tool 'broken' cannot be used"):
        loaded.get("lost")


def test_a_function_without_annotations_is_a_broken_file(tmp_path: Path) -> None:
    write(tmp_path / "agents/tools/bad.py", "from worker.agent import tool\n@tool\ndef bad(x):\n    return x\n")
    [problem] = load(tmp_path).problems
    assert "parameter 'x' has no annotation" in problem.message


def test_two_tools_of_one_name_are_an_error_for_both(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / f"agents/tools/{name}.py", WEATHER)
    write(tmp_path / "agents/sailor.py", AGENT.format(tools="'weather'"))
    loaded = load(tmp_path)
    with pytest.raises(UnknownAgent, match="two tools are called 'weather', and neither can be used"):
        loaded.get("sailor")


def test_a_tool_of_yours_takes_the_place_of_one_that_ships(tmp_path: Path) -> None:
    write(tmp_path / "agents/tools/own.py", WEATHER.replace("def weather", "def search"))
    assert isinstance(registry(tmp_path).resolve("search"), Tool)


def test_a_folder_of_tools_without_agents_is_no_problem(tmp_path: Path) -> None:
    write(tmp_path / "agents/tools/weather.py", WEATHER)
    assert load(tmp_path).problems == ()


def test_a_distribution_offers_tools_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "acme_tools.py", WEATHER)
    offered = ("weather = acme_tools:weather", "tides = acme_tools:TideTables", "lost = acme_tools:lost")
    points = "\n".join(["[nightfleet.tools]", *(f"acme_{each}" for each in offered)])
    write(tmp_path / "acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (tmp_path / "acme-1.0.dist-info/entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    known = ToolRegistry()
    assert "acme_tools" not in sys.modules  # it is imported when an agent names it
    assert isinstance(known.resolve("acme_weather"), Tool)
    [high_water] = known.resolve({"acme_tides": {"port": "Ghent"}}).tools  # type: ignore[union-attr]
    assert high_water() == "Ghent"
    with pytest.raises(
        PluginInvalid, match=r"tool 'acme_lost' \(entry point acme_tools:lost of acme 1\.0\): AttributeError"
    ):
        known.resolve("acme_lost")
    with pytest.raises(PluginInvalid, match=r"acme_tides.*unexpected keyword argument"):
        known.resolve({"acme_tides": {"prt": "Ghent"}})
    with pytest.raises(PluginInvalid, match="takes no options"):
        known.resolve({"acme_weather": {"city": "Ghent"}})


def test_an_unknown_name_says_which_one_was_meant() -> None:
    with pytest.raises(
        PluginInvalid,
        match=r"there is no tool 'htpp', did you mean 'http'\? \(known: adapter, calculator, files, http, search, server\)",
    ):
        ToolRegistry().resolve("htpp")
