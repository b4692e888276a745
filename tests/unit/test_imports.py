"""Under our names only our own modules are imported; a stranger's is named, and none of its code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.errors import ImportConflictError
from orchestrator.imports import require_ours

ROOT = Path(__file__).resolve().parents[2]


def test_our_own_modules_are_imported_by_their_dotted_names():
    assert require_ours("worker").__name__ == "worker"
    assert require_ours("worker.agent").__name__ == "worker.agent"
    assert require_ours("orchestrator.errors").ImportConflictError is ImportConflictError


def test_a_foreign_module_that_is_loaded_already_is_named_with_its_path_and_the_cure(monkeypatch: pytest.MonkeyPatch):
    foreign = ModuleType("worker")
    foreign.__file__ = "/srv/shop/worker.py"
    monkeypatch.setitem(sys.modules, "worker", foreign)
    with pytest.raises(ImportConflictError, match=r"finds /srv/shop/worker\.py, which is not .*rename that module"):
        require_ours("worker.embedded")


def test_a_foreign_module_without_a_file_is_a_conflict_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "worker", ModuleType("worker"))
    with pytest.raises(ImportConflictError, match="worker"):
        require_ours("worker")


@pytest.mark.parametrize("file", ["worker.py", "worker/__init__.py"])
def test_a_foreign_module_earlier_on_the_path_is_found_before_it_is_executed(tmp_path: Path, file: str):
    foreign = tmp_path / file
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("print('executed')")
    program = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
from orchestrator.errors import ImportConflictError
from orchestrator.imports import require_ours
try:
    require_ours("worker.agent")
except ImportConflictError as error:
    print(error)
"""
    # Without the environment: a coverage run looks for the packages that it measures, and imports the stranger.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={})
    assert str(foreign) in done.stdout
    assert "executed" not in done.stdout


def test_a_module_that_nobody_offers_is_missing_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"worker\.no_such_module"):
        require_ours("worker.no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require_ours("no_such_package.module")


def test_the_test_kit_has_a_second_name_that_nobody_else_has():
    from orchestrator import testing as by_our_name
    from worker import testing as kit

    assert set(kit.__all__) < set(by_our_name.__all__)
    assert all(getattr(by_our_name, name) is getattr(kit, name) for name in kit.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'run_agents'"):
        _ = by_our_name.run_agents  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_what_kombu_needs_for_redis_comes_with_a_plain_install() -> None:
    """kombu names it in an extra; development packages bring it along by chance."""
    from importlib.metadata import requires

    ours = {re.split(r"[ <>=!\[;]", text)[0].lower() for text in requires("nightfleet") or () if "extra ==" not in text}
    theirs = {
        re.split(r"[ <>=!\[;]", text)[0].lower()
        for text in requires("kombu") or ()
        if re.search(r"extra == .redis.", text)
    }
    assert "redis" in theirs
    assert theirs <= ours
