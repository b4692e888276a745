"""What pytest has where Nightfleet is installed: fixtures, recorded conversations, and no real model by accident."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worker.emulator import Emulator
from worker.testing.places import cassette_path

AGENT = """
from worker.agent import BaseAgent, Context


class Namer(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: dict, ctx: Context) -> str:
        return ctx.llm(f"Name {data['what']}.")
"""

Outcome = dict[str, int]


class Project:
    """A folder with an agent and tests, as an author has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self.printed = ""
        (folder / "agents").mkdir()
        (folder / "agents/namer.py").write_text(AGENT)

    def write(self, text: str, name: str = "test_namer.py") -> None:
        (self.folder / name).write_text(text)

    def pytest(self, *options: str) -> Outcome:
        """Run it; gives how many tests had which outcome."""
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.printed = done.stdout + done.stderr
        last = self.printed.strip().splitlines()[-1]
        counted = re.findall(r"(\d+) (passed|failed|error)", last)
        return {outcome: int(number) for number, outcome in counted}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_fixtures_work_together(project: Project) -> None:
    project.write("""
def test_scripted(run_agent, mock_llm, recorder):
    mock_llm.when(prompt="ship").reply("Nautilus")
    assert run_agent("namer", {"what": "a ship"}) == "Nautilus"
    recorder.assert_model_calls(1)

def test_each_test_has_its_own(run_agent, mock_llm, recorder):
    assert (mock_llm.calls, recorder.exchanges) == ([], [])

def test_others_may_be_given(run_agent):
    from worker.testing import MockLLM
    assert run_agent("namer", {"what": "a ship"}, model=MockLLM("Argo")) == "Argo"
""")
    assert project.pytest() == {"passed": 3}, project.printed


def test_a_conversation_is_recorded_with_the_option_and_replayed_without(project: Project) -> None:
    project.write("""
import pytest

@pytest.mark.parametrize("what", ["a ship", "a/b"])
def test_named(what, run_agent, recorded_llm):
    assert run_agent("namer", {"what": what}, model=recorded_llm).startswith("[emulator]")

class TestMore:
    def test_named(self, run_agent, recorded_llm):
        run_agent("namer", {"what": "a harbour, order 77"}, model=recorded_llm)
""")
    project.write("[pytest]\nnightfleet_scrub =\n    order \\d+\n", "pytest.ini")
    assert project.pytest() == {"failed": 3}, project.printed
    assert 'Record it: pytest --nightfleet-record "test_namer.py::test_named[a ship]"' in project.printed
    with Emulator() as emulator:
        project.environment = emulator.env
        assert project.pytest("--nightfleet-record") == {"passed": 3}, project.printed
        project.environment = {}
    cassettes = sorted((project.folder / "cassettes/test_namer").iterdir())
    assert [re.sub(r"-\w{6}\.", "-HASH.", path.name) for path in cassettes] == [
        "TestMore.test_named.yaml", "test_named-a-b-HASH.yaml", "test_named-a-ship-HASH.yaml"
    ]  # fmt: skip
    assert "a harbour, ***." in cassettes[0].read_text()
    assert project.pytest() == {"passed": 3}, project.printed
    project.write(AGENT.replace("Name {", "Find a name for {"), "agents/namer.py")
    assert project.pytest() == {"failed": 3}, project.printed
    assert '-   "content": "Name a ship."' in project.printed


def test_an_answer_left_over_is_an_error_of_a_test_that_has_passed_and_no_second_one_of_another(
    project: Project,
) -> None:
    two = """
def test_it(run_agent, recorded_llm):
    run_agent("namer", {"what": "a ship"}, model=recorded_llm)
    run_agent("namer", {"what": "a pilot"}, model=recorded_llm)
"""
    project.write(two)
    with Emulator() as emulator:
        project.environment = emulator.env
        project.pytest("--nightfleet-record")
        project.environment = {}
    one = "\n".join(two.splitlines()[:-1])
    project.write(one)
    assert project.pytest() == {"passed": 1, "error": 1}, project.printed
    assert "1 answers that nobody has asked for" in project.printed
    project.write(f"{one}\n    assert False\n")
    assert project.pytest() == {"failed": 1}, project.printed


def test_a_test_that_fails_while_it_is_recorded_keeps_what_was_paid_for_and_is_one_failure(project: Project) -> None:
    project.write("""
def test_asked(run_agent, recorded_llm):
    run_agent("namer", {"what": "a ship"}, model=recorded_llm)
    assert False

def test_not_asked(recorded_llm):
    assert False
""")
    with Emulator() as emulator:
        project.environment = emulator.env
        assert project.pytest("--nightfleet-record") == {"failed": 2}, project.printed
    assert [path.name for path in (project.folder / "cassettes/test_namer").iterdir()] == ["test_asked.yaml"]


def test_a_real_model_is_an_error_unless_a_test_is_marked(project: Project) -> None:
    project.environment = {"OPENAI_API_KEY": "must-not-be-used", "OPENAI_BASE_URL": "http://models.invalid/v1"}
    project.write("""
import os, subprocess, sys
import pytest

def test_by_accident(run_agent):
    run_agent("namer", {"what": "a ship"}, model="openai:gpt-5-mini")

def test_refused_in_processes_that_it_starts_too():
    told = [sys.executable, "-c", "from orchestrator.realmodels import are_refused; print(are_refused())"]
    assert subprocess.check_output(told, text=True) == "True\\n"

@pytest.mark.real_models
def test_on_purpose(run_agent):
    from worker.agent import ModelError
    with pytest.raises(ModelError, match="models.invalid"):
        run_agent("namer", {"what": "a ship"}, model="openai:gpt-5-mini")

def test_by_accident_again(run_agent):
    from worker.testing import RealModelCall
    with pytest.raises(RealModelCall):
        run_agent("namer", {"what": "a ship"}, model="openai:gpt-5-mini")
""")
    assert project.pytest("--strict-markers") == {"failed": 1, "passed": 3}, project.printed
    assert "RealModelCall: this test would ask a real model: openai at models.invalid" in project.printed


def test_an_option_of_another_name_leaves_the_plugin_out(project: Project) -> None:
    project.write("def test_it(mock_llm): ...\n")
    assert project.pytest("-p", "no:nightfleet") == {"error": 1}, project.printed


def test_a_module_named_worker_of_somebody_else_breaks_no_test_that_does_not_use_ours(project: Project) -> None:
    project.write("raise RuntimeError('foreign')\n", "worker.py")
    project.write("def test_it(): ...\ndef test_ours(mock_llm): ...\n")
    assert project.pytest() == {"passed": 1, "error": 1}, project.printed
    assert "ImportConflictError" in project.printed


def test_pytest_loads_nothing_of_the_data_plane_for_tests_that_need_nothing_of_it(project: Project) -> None:
    project.write("""
import sys

def test_it():
    ours = {name for name in sys.modules if name.partition(".")[0] in ("orchestrator", "worker")}
    own = {"errors", "imports", "pytest_plugin", "realmodels"}
    assert ours == {"orchestrator", *(f"orchestrator.{name}" for name in own)}
    assert not {"pydantic", "yaml", "sqlalchemy", "celery"} & sys.modules.keys()
""")
    assert project.pytest() == {"passed": 1}, project.printed


def test_cases_of_unittest_record_and_replay(project: Project) -> None:
    project.write("""
from worker.testing import AgentTestCase

class TestNamer(AgentTestCase):
    agent = "namer"

    def test_scripted(self):
        self.model.reply("Argo")
        self.assertEqual(self.run_agent({"what": "a ship"}), "Argo")
        self.recorder.assert_prompted("Name a ship.")

    def test_recorded(self):
        said = self.run_agent({"what": "a ship"}, model=self.recorded())
        self.assertIn("[emulator]", said)
""")

    def run(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "unittest", "-v", "test_namer"],
            cwd=project.folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=240,
        ).stderr  # fmt: skip

    assert "NIGHTFLEET_TEST_RECORD=1 python -m unittest test_namer.TestNamer.test_recorded" in run()
    with Emulator() as emulator:
        assert "OK" in run(NIGHTFLEET_TEST_RECORD="1", **emulator.env)
    assert "OK" in run()
    assert (project.folder / "cassettes/test_namer/TestNamer.test_recorded.yaml").exists()
    assert project.pytest() == {"passed": 2}, project.printed


def test_two_tests_never_share_a_cassette() -> None:
    names = ["test_a[x/y]", "test_a[x-y]", "test_a[x y]", "test_a", "TestA.test_a"]
    paths = {cassette_path(Path("tests/test_m.py"), name) for name in names}
    assert len(paths) == len(names)
    assert all(re.fullmatch(r"tests/cassettes/test_m/[\w.-]+\.yaml", str(path)) for path in paths)
