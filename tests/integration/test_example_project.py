"""The example project works where somebody has copied it to, and its tests notice when an agent is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tea-shop"
WORKFLOW = EXAMPLE / ".github/workflows/tests.yml"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__", ".*cache")))


def run_tests(project: Path, *options: str) -> tuple[int, set[str], str]:
    """Run its tests, without a key and without services; gives the exit code, the tests that failed, and what is printed."""
    away = re.compile(r"NIGHTFLEET_|OPENAI_|ANTHROPIC_")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=project,
        env={name: value for name, value in os.environ.items() if not away.match(name)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE)), done.stdout + done.stderr


def test_its_tests_pass_in_an_empty_folder(project: Path) -> None:
    code, failed, printed = run_tests(project)
    assert (code, failed) == (0, set()), printed
    assert "10 passed" in printed


@pytest.mark.parametrize(
    ("agent", "was", "becomes", "noticed"),
    [
        (
            "quoter.py",
            "tools = (look_up_price, Calculator())",
            "tools = (Calculator(),)",
            {
                "test_the_price_is_looked_up_before_it_is_multiplied",
                "test_the_model_is_told_of_a_tea_that_there_is_not",
                "test_a_quote",
            },
        ),
        ("quoter.py", "Say what this order costs.", "Guess.", {"test_a_quote"}),
        (
            "correspondent.py",
            "cost {data.euros} euros",
            "are cheap",
            {"test_the_letter_names_the_price_and_is_posted", "test_a_letter"},
        ),
    ],
    ids=["without its tool", "with another instruction", "without the price"],
)
def test_a_broken_agent_makes_its_tests_fail(
    agent: str, was: str, becomes: str, noticed: set[str], project: Path
) -> None:
    file = project / "agents" / agent
    source = file.read_text()
    assert was in source
    file.write_text(source.replace(was, becomes))
    code, failed, printed = run_tests(project, "tests/test_quoter.py", "tests/test_conversations.py")
    assert code == 1
    assert noticed <= failed, printed


def test_a_letter_that_is_posted_past_the_journal_is_noticed(project: Path) -> None:
    file = project / "agents/correspondent.py"
    file.write_text(file.read_text().replace("ctx.step(post, text)", "post(text)"))
    code, failed, printed = run_tests(project, "tests/test_workflow.py", "-k", "posted_again")
    assert (code, failed) == (1, {"test_a_letter_that_is_recorded_as_posted_is_not_posted_again"}), printed


def test_its_workflow_for_continuous_integration_is_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "- run: pytest\n" in WORKFLOW.read_text()
