"""Where the agents and profiles that ship are: data of the wheel, or folders of the checkout. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

#: What is known of models: configuration too, but no profile.
MODELS_FILE = "models.toml"
_NO_PROFILES = frozenset({MODELS_FILE, "webhooks.toml"})


def shipped_folder(name: str) -> Path | None:
    """Give the folder `agents` or `config` that ships, None if it is missing."""
    root = Path(__file__).resolve().parents[1]
    folders = (root / "worker" / "_shipped" / name, root / name)
    return next((folder for folder in folders if folder.is_dir()), None)


def shipped_profiles() -> dict[str, Path]:
    """Give the profiles that ship, by name."""
    folder = shipped_folder("config")
    return (
        {} if folder is None else {path.stem: path for path in folder.glob("*.toml") if path.name not in _NO_PROFILES}
    )
