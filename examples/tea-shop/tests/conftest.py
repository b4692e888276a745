"""What every test has: the agents of this project, and a folder of its own for what they write."""

from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTFLEET_AGENTS_PATH", str(PROJECT / "agents"))
