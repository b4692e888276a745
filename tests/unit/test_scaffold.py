"""The files of new projects and agents: sound whatever they are called, and never in the place of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from honcho.environ import parse

from orchestrator.errors import UsageError
from orchestrator.planning.files import load_workflow
from orchestrator.scaffold import agent_files, project_files, write
from orchestrator.settings import Settings
from worker.loader import AgentLoader
from worker.testing import MockLLM, run_agent

ROOT = Path(__file__).parents[2]

TITLES = [
    "press",
    "My project!",
    "",
    " ",
    "123",
    "-",
    "名前",
    "Ünïcode",
    "a" * 300,
    "x\ny",
    "a.b_c",
    "-rf",
    "'; drop",
    "trailing-" * 9,
]


@pytest.mark.parametrize("title", TITLES)
def test_a_project_of_any_name_has_sound_names_in_it(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = project_files(title)
    assert all("@@" not in text for text in files.values())
    assert all(text.endswith("\n") for text in files.values())
    write(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load("config/fleet.toml")
    name = load_workflow("workflow.yaml").name
    assert name.startswith(settings.namespace)
    assert yaml.safe_load(files["docker-compose.yml"])["name"] == name


def test_a_project_has_everything_that_it_needs() -> None:
    assert set(project_files("press")) == {
        ".env.example", ".gitignore", ".schemas/workflow-file.json",
        "Procfile", "README.md", "agents/headliner.py", "config/fleet.toml",
        "docker-compose.yml", "pytest.ini", "requirements.txt", "tests/test_headliner.py", "tests/test_workflow.py",
        "workflow.yaml",
    }  # fmt: skip


def test_the_example_of_an_environment_makes_settings_and_its_passwords_agree() -> None:
    given = parse(project_files("press")[".env.example"])
    settings = Settings.model_validate(
        {
            key.removeprefix("NIGHTFLEET_").lower(): value
            for key, value in given.items()
            if key.startswith("NIGHTFLEET_")
        }
    )
    assert not settings.embedded
    assert settings.database_url is not None
    assert settings.broker_url is not None
    assert f":{given['POSTGRES_PASSWORD']}@" in settings.database_url.get_secret_value()
    assert f":{given['RABBITMQ_PASSWORD']}@" in settings.broker_url.get_secret_value()


def test_the_servers_of_a_project_are_those_that_the_repository_names() -> None:
    ours = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    theirs = yaml.safe_load(project_files("press")["docker-compose.yml"])["services"]
    for name, service in theirs.items():
        assert service["image"] == ours[name]["image"].removesuffix("-management"), name
        assert service["healthcheck"]["test"] == ours[name]["healthcheck"]["test"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


NAMES = [
    "summary",
    "fact_checker",
    "a_1",
    "a",
    "context",
    "base_agent",
    "base_model",
    "async_context",
    "none",
    "true",
    "class",
    "x" * 63,
    "a__b_",
]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_new_agent_loads_and_runs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool, folder: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        write(tmp_path, agent_files(name, agents=Path("agents"), is_async=is_async, folder=folder))
    loaded = AgentLoader("agents", base=tmp_path).load()
    assert loaded.problems == ()
    assert set(NAMES) <= loaded.agents.keys()
    assert all(loaded.agents[name].is_async == is_async for name in NAMES)
    # A class that is called like what its module imports would hide it.
    assert loaded.agents["context"].agent_class.__name__ == "ContextAgent"
    for name in NAMES:
        assert run_agent(name, {"text": "A text."}, model=MockLLM("An answer.")).text == "An answer."
        compile((tmp_path / "tests" / f"test_{name}.py").read_text(), name, "exec")


@pytest.mark.parametrize(
    "name", ["", "Summary", "1a", "a-b", "a b", "../a", "a/b", "x" * 64, "ä", "a\n", ".hidden", "_a"]
)
def test_a_name_that_no_agent_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for an agent"):
        agent_files(name, agents=Path("agents"))


def test_the_name_that_was_meant_is_suggested() -> None:
    with pytest.raises(UsageError, match="'fact_checker' would do"):
        agent_files("Fact Checker", agents=Path("agents"))


@pytest.mark.parametrize("name", ["function", "celery", "tool", "condition"])
def test_a_reserved_name(name: str) -> None:
    with pytest.raises(UsageError, match="is reserved"):
        agent_files(name, agents=Path("agents"))


class TestWriting:
    def test_nothing_is_written_when_anything_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "b").write_text("mine")
        (tmp_path / "c").symlink_to("nowhere")
        with pytest.raises(UsageError, match=r"nothing is overwritten") as raised:
            write(tmp_path, {"a/x": "", "b": "", "c": ""})
        assert f"{tmp_path / 'b'}\n  {tmp_path / 'c'}" in raised.value.message
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
        assert (tmp_path / "b").read_text() == "mine"

    def test_a_file_in_the_place_of_a_folder_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "agents").write_text("")
        with pytest.raises(UsageError, match=r"in the way:\n.*agents"):
            write(tmp_path, {"agents/x.py": ""})

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "notes").write_text("mine")
        write(tmp_path, {"a": "A"})
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"notes": "mine", "a": "A"}

    def test_a_file_is_no_folder_to_write_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for root in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(UsageError, match="file is no folder"):
                write(root, {"a": ""})

    def test_a_disk_that_refuses_is_an_error_of_ours(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"cannot write .*: File name too long"):
            write(tmp_path, {"x" * 300: ""})
