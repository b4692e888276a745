"""What every test has: a copy of this project in a folder of its own, for what refunds write."""

import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_a_copy_of_this_project(tmp_path, monkeypatch):
    for name in ("agents", "manual"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    for name in ("orders.json", "triage.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTFLEET_HOME", str(tmp_path / "home"))
