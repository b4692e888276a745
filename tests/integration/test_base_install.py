"""Without any extra, what ships runs: the demo is installed like that."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
#: Runs the command line where only some modules of others can be imported.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Blocker())
from orchestrator.cli import main
main()
"""


def brought_by(name: str, extras: frozenset[str], known: set[tuple[str, frozenset[str]]]) -> None:
    """Add a distribution, with some of its extras, and what it needs."""
    if (name, extras) in known:
        return
    known.add((name, extras))
    for text in metadata.requires(name) or []:
        needed = Requirement(text)
        environments = [{"extra": extra} for extra in (*extras, "")]
        if needed.marker is None or any(needed.marker.evaluate(each) for each in environments):
            brought_by(canonicalize_name(needed.name), frozenset(needed.extras), known)


def others() -> set[str]:
    """Give the modules that are installed here and that no base install brings."""
    known: set[tuple[str, frozenset[str]]] = set()
    brought_by("nightfleet", frozenset(), known)
    names = {name for name, _ in known}
    return {
        module
        for module, brought in metadata.packages_distributions().items()
        if not names & {canonicalize_name(each) for each in brought}
    }


@pytest.mark.parametrize(
    "command",
    [["run", "config/demo.yaml", "--embedded", "--text", "Ships need harbours."], ["agents", "validate"]],
    ids=["demo", "agents"],
)
def test_what_ships_runs_without_any_extra(command: list[str], tmp_path: Path) -> None:
    blocked = others()
    assert {"openai", "anthropic", "httpx2", "pytest"} <= blocked
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, ",".join(blocked), *command],
        cwd=ROOT,
        env={"NIGHTFLEET_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
