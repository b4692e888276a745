"""What every test has: this project's agents and documents, and what runs leave behind in a folder of its own."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_this_project(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("NIGHTFLEET_HOME", str(tmp_path / "home"))
