"""Where the agents and profiles that ship are: data of the wheel, or folders of the checkout. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path


def shipped_folder(name: str) -> Path | None:
    """Give the folder `agents` or `config` that ships, None if it is missing."""
    root = Path(__file__).resolve().parents[1]
    folders = (root / "worker" / "_shipped" / name, root / name)
    return next((folder for folder in folders if folder.is_dir()), None)
