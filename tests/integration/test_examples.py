"""The example teams work where somebody has copied them to, without a key: their tests, and what their READMEs say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEAMS = ("research-team", "code-review", "support-triage", "evaluators")
_AWAY = re.compile(r"NIGHTFLEET_|OPENAI_|ANTHROPIC_|PYTEST_")
_COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=TEAMS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", ".*cache", ".nightfleet")
    return Path(shutil.copytree(EXAMPLES / request.param, tmp_path / request.param, ignore=ignored))


def carry_out(project: Path, command: list[str]) -> str:
    """Run a command in a project, without a key and without services; gives what it prints."""
    kept = {name: value for name, value in os.environ.items() if not _AWAY.match(name)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    done = subprocess.run(
        command,
        cwd=project,
        env={**kept, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_tests_pass_in_a_folder_of_its_own(project: Path) -> None:
    printed = carry_out(project, [sys.executable, "-m", "pytest", "-q"])
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


def test_what_its_readme_says_works(project: Path) -> None:
    text = (project / "README.md").read_text()
    assert len(text.splitlines()) <= 40, "a screen"
    for script in _COMMANDS.findall(text):
        assert carry_out(project, ["bash", "-euo", "pipefail", "-c", script])
    for named in re.findall(r"^\| `([\w./-]+)`", text, re.MULTILINE):
        assert (project / named).exists(), named


def test_its_workflow_is_sound_and_drawn(project: Path) -> None:
    [workflow] = project.glob("*.yaml")
    carry_out(project, ["nightfleet", "workflows", "validate", workflow.name])
    assert "flowchart" in carry_out(project, ["nightfleet", "workflows", "diagram", workflow.name])
