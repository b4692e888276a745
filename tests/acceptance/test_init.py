"""A new project as somebody types it who has just installed Nightfleet: everything that is printed works."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import fleet

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COUNTER = """
from worker.agent import BaseAgent

class Counter(BaseAgent):
    def execute(self, data, ctx):
        return data
"""

#: What a shell, a workflow, a compose file and a folder all have to bear.
NAME = "Émile's 1st (odd) $project"


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE_"))}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def next_steps(printed: str) -> list[str]:
    """Give the commands that are printed under `Next:`, without what is said of them."""
    lines = printed.partition("Next:\n")[2].splitlines()
    return [re.split(r"  +", line.strip())[0] for line in lines]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project made by the command, and its next steps carried out as they are printed."""
    home = tmp_path_factory.mktemp("init")
    made = bash(f"nightfleet init {shlex.quote(NAME)}", home)
    assert made.returncode == 0, made.stderr
    steps = next_steps(made.stdout)
    assert [step.split()[0] for step in steps] == ["cd", "nightfleet", "pytest", "nightfleet"]
    done = bash("\n".join(steps).replace(" NAME", " weigher"), home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "## Headliner\n\nHarbours need pilots." in done.stdout or "## Headliner\n\nShips need harbours." in done.stdout
    )
    assert "3 passed" in done.stdout
    more = bash("\n".join(next_steps(done.stdout)), home / NAME)
    assert more.returncode == 0, more.stdout + more.stderr
    assert more.stdout.startswith("agent     weigher\n")
    assert "1 passed" in more.stdout
    return home / NAME


def test_its_readme_begins_with_the_commands_that_were_printed_and_the_doctor_is_content(project: Path) -> None:
    block = (project / "README.md").read_text().partition("```bash\n")[2].partition("```")[0]
    commands = [re.split(r"  +#", line)[0].split()[:2] for line in block.splitlines()]
    assert commands == [["nightfleet", "run"], ["nightfleet", "agents"], ["pytest"], ["nightfleet", "doctor"]]
    done = bash("nightfleet doctor", project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("All is well.\n")


def test_its_compose_file_is_one(project: Path) -> None:
    done = bash("check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml", project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CHANGE" not in (project / "docker-compose.yml").read_text()


def test_its_procfile_starts_a_worker_that_runs_its_workflow(project: Path, tmp_path: Path) -> None:
    ((name, command),) = [line.split(": ", 1) for line in (project / "Procfile").read_text().splitlines()]
    with fleet(tmp_path, "rabbitmq", agents_path="./agents") as made:
        environment = {key: value for key, value in made.environment.items() if not key.startswith("NIGHTFLEET_TEST_")}
        with (tmp_path / f"{name}.log").open("wb") as log:
            worker = subprocess.Popen(
                [BIN / shlex.split(command)[0], *shlex.split(command)[1:]],
                cwd=project,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        made.workers.append(worker)  # type: ignore[arg-type]
        made.until(lambda: made.live_workers() or worker.poll() is not None, "the worker is in the fleet")
        done = bash(
            'nightfleet run workflow.yaml --config config/fleet.toml --text "Ships need harbours."',
            project,
            **environment,
        )
        assert done.returncode == 0, done.stderr + made.logs()
        assert "## Headliner" in done.stdout
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_here_and_twice(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = bash("nightfleet init .", tmp_path)
    assert first.returncode == 0
    assert "cd " not in first.stdout
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = bash("nightfleet init .", tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("Error: nothing is overwritten, and this is in the way:\n")
    assert "workflow.yaml" in again.stderr or "more" in again.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("Fact-Checker", "'fact_checker' would do"),
        ("function", "is reserved"),
        ("counter", "there is an agent 'counter' already: "),
        ("other", "in the way:\n  agents/other.py"),
        ("new --agents-path some.module", "name a folder with --agents-path"),
    ],
)
def test_an_agent_that_cannot_be_made_is_exit_code_2_and_leaves_nothing(
    tmp_path: Path, arguments: str, message: str
) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "other.py").write_text(COUNTER)
    done = bash(f"nightfleet agents new {arguments}", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["agents"]


def test_an_agent_that_overrides_one_that_ships_says_so(tmp_path: Path) -> None:
    done = bash("nightfleet agents new reader --async --folder && nightfleet agents show reader", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'reader' overrides the agent of this name that ships" in done.stderr
    assert str(tmp_path / "agents" / "reader") in done.stdout
