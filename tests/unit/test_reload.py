"""Which agents are used when plugins have changed, and which modules stay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.errors import SettingsInvalid, UnknownAgent
from worker.loader import AgentLoader, LoadedAgents
from worker.reload import ReloadedAgents, Versions, folders_of, successor

PLUGIN = """
from worker.agent import BaseAgent


class {name}(BaseAgent):
    def execute(self, data, ctx):
        return {{"version": {version!r}}}
"""


class Plugins:
    """A folder of plugins, and what a worker uses of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.used: LoadedAgents = ReloadedAgents({})

    def write(self, name: str, version: object = 1) -> None:
        (self.folder / f"{name}.py").write_text(PLUGIN.format(name=name.title(), version=version))

    def reload(self) -> LoadedAgents:
        loaded = AgentLoader(str(self.folder), base=self.folder).load()
        ours = {name: agent for name, agent in loaded.agents.items() if str(self.folder) in agent.card.origin}
        self.used = successor(self.used, LoadedAgents(ours, loaded.problems))
        return self.used

    def version(self, name: str) -> object:
        return self.used.get(name).agent_class().execute(None, None)["version"]  # pyright: ignore[reportArgumentType, reportIndexIssue]


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def test_a_changed_plugin_is_used_and_a_new_one_is_there(plugins: Plugins) -> None:
    plugins.write("alpha", 1)
    plugins.reload()
    plugins.write("alpha", 2)
    plugins.write("beta")
    assert set(plugins.reload().agents) == {"alpha", "beta"}
    assert plugins.version("alpha") == 2


@pytest.mark.parametrize("content", ["def (", "raise RuntimeError", "x = 1"], ids=["syntax", "raises", "no agent"])
def test_a_broken_plugin_keeps_its_last_version(content: str, plugins: Plugins) -> None:
    plugins.write("alpha", 1)
    plugins.reload()
    (plugins.folder / "alpha.py").write_text(content)
    used = plugins.reload()
    assert [problem.origin for problem in used.problems] == [str(plugins.folder / "alpha.py")]
    assert set(used.agents) == {"alpha"}
    assert plugins.version("alpha") == 1


def test_a_broken_plugin_keeps_all_of_its_agents_whatever_their_names(plugins: Plugins) -> None:
    both = PLUGIN.format(name="One", version=1) + PLUGIN.format(name="Two", version=1)
    (plugins.folder / "several.py").write_text(both)
    plugins.reload()
    (plugins.folder / "several.py").write_text(f"{both}\nraise SystemExit")
    assert set(plugins.reload().agents) == {"one", "two"}


def test_two_plugins_of_one_name_leave_the_first_in_use(plugins: Plugins) -> None:
    plugins.write("alpha", 1)
    plugins.reload()
    (plugins.folder / "copy.py").write_text(PLUGIN.format(name="Alpha", version=2))
    assert set(plugins.reload().agents) == {"alpha"}
    assert plugins.version("alpha") == 1


def test_a_removed_agent_is_not_served_but_runs_what_is_here(plugins: Plugins) -> None:
    plugins.write("alpha", 1)
    plugins.reload()
    (plugins.folder / "alpha.py").unlink()
    used = plugins.reload()
    assert dict(used.agents) == {}
    assert used.cards == ()
    assert plugins.version("alpha") == 1
    plugins.write("alpha", 2)
    assert set(plugins.reload().agents) == {"alpha"}
    assert plugins.version("alpha") == 2


def test_only_the_last_of_those_that_went_are_kept(plugins: Plugins) -> None:
    for number in range(30):
        plugins.write(f"a{number}")
    plugins.reload()
    for path in sorted(plugins.folder.glob("a*.py")):
        path.unlink()
        plugins.reload()
    assert plugins.version("a9") == 1
    with pytest.raises(UnknownAgent, match="no agent 'a0'"):
        plugins.used.get("a0")


def modules(name: str) -> list[str]:
    return [module for module in sys.modules if module.startswith(f"_nightfleet_agent_{name}_") and "." not in module]


def test_old_versions_leave_and_their_classes_go_on_working(plugins: Plugins) -> None:
    versions = Versions()
    in_flight = []
    for number in range(10):
        plugins.write("ephemeral", number)
        used = plugins.reload()
        assert isinstance(used, ReloadedAgents)
        versions.keep(used)
        in_flight.append(used.get("ephemeral").agent_class())
        assert used.get("ephemeral").agent_class.__module__ in sys.modules
    assert len(modules("ephemeral")) == 3
    assert [agent.execute(None, None)["version"] for agent in in_flight] == list(range(10))  # pyright: ignore[reportArgumentType, reportIndexIssue]


def test_a_version_that_comes_back_is_the_same_module(plugins: Plugins) -> None:
    versions = Versions()
    classes = []
    for version in (1, 2, 1, 2, 1):
        plugins.write("returning", version)
        used = plugins.reload()
        assert isinstance(used, ReloadedAgents)
        versions.keep(used)
        classes.append(used.get("returning").agent_class)
    assert len(modules("returning")) == 2
    assert classes[0] is classes[2] is classes[4]


def test_there_must_be_a_folder_to_watch(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    assert folders_of(f"{here}:{there}:some.module") == [here]
    with pytest.raises(SettingsInvalid, match="no folder to watch"):
        folders_of(str(there))
