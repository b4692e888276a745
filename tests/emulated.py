"""An embedded installation with one agent, whose models are those of an emulator."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import Orchestrator, Settings
from worker.emulator import Emulator


@contextmanager
def emulated(folder: Path, monkeypatch: pytest.MonkeyPatch, agent: str, models: str) -> Generator[Orchestrator]:
    """Give an installation in a folder, by the source of its agent and by its models file."""
    (folder / "agents").mkdir()
    (folder / "agents/under_test.py").write_text(agent)
    (folder / "models.toml").write_text(models)
    with Emulator() as emulator:
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        settings = Settings(
            home=folder / "home", agents_path=str(folder / "agents"), models_file=folder / "models.toml"
        )
        with Orchestrator.embedded(settings=settings) as nf:
            yield nf
